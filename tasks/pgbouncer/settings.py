"""The `pgbouncer_*` keys."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from tasks.core.settings import Extra, Line, Port, Settings
from tasks.postgres.settings import HbaLine

Count = Annotated[int, Field(ge=0)]


Positive = Annotated[int, Field(ge=1)]


# With its pools full a pooler still has to look up the passwords of new clients.
_LOOKUP_CONNECTIONS = 2


class PgbouncerSettings(Settings):
    """The `pgbouncer_*` keys; times are in seconds, as PgBouncer's own."""

    prefix: ClassVar[str] = "pgbouncer_"

    listen_port: Port = 6432
    """Port. Change: restart."""
    listen_addr: Line | None = None
    """Where it listens. Default: `127.0.0.1` and `address`. Change: restart."""
    pool_mode: Literal["session", "transaction", "statement"] = "transaction"
    """`session`, `transaction` or `statement`. Change: reload."""
    max_client_conn: Annotated[int, Field(ge=1, le=60000)] = 1000
    """Client connections. Change: reload; restart above 32768, for file descriptors."""
    default_pool_size: Positive = 25
    """Server connections per user and database. Change: reload."""
    min_pool_size: Count = 10
    """Server connections kept open. Change: reload."""
    reserve_pool_size: Count = 5
    """How many more there may be when clients wait. Change: reload."""
    reserve_pool_timeout: Count = 5
    """Seconds that they wait before that. Change: reload."""
    max_db_connections: Positive | None = None
    """Server connections per database, all users. Default: pool size + reserve + 2 for looking
    passwords up. Change: reload."""
    max_prepared_statements: Count | None = None
    """Prepared statements kept per connection. Default: 200 from PgBouncer 1.21 on, else not set.
    Change: reload."""
    query_wait_timeout: Count = 120
    """Seconds that a query may wait for a connection. Change: reload."""
    # PgBouncer's own 15 seconds make a restart of PostgreSQL that takes one last 15 for clients.
    server_login_retry: Positive = 1
    """Seconds between attempts to connect to PostgreSQL; clients wait as long after a restart of
    it. Change: reload."""
    server_connect_timeout: Positive = 5
    """Seconds after which an attempt is given up. Change: reload."""
    server_lifetime: Count = 3600
    """Seconds after which a server connection is replaced. Change: reload."""
    server_idle_timeout: Count = 600
    """Seconds after which an idle one is closed. Change: reload."""
    tcp_keepidle: Positive = 30
    """TCP keepalive: idle seconds. Change: reload."""
    tcp_keepintvl: Positive = 10
    """TCP keepalive: seconds between probes. Change: reload."""
    tcp_keepcnt: Positive = 5
    """TCP keepalive: probes. Change: reload."""
    ignore_startup_parameters: Line = "extra_float_digits"
    """Startup parameters that are accepted and ignored. Change: reload."""
    client_tls: Literal["allow", "require"] | None = None
    """TLS for clients: `allow` serves those that ask for it, `require` refuses the others. Default:
    `allow` where another host reaches the console, else none. Change: reload; open connections
    stay."""
    hba: tuple[HbaLine, ...] = ()
    """Lines of PgBouncer's `pg_hba.conf`, before Datatier's: `host pgbouncer postgres 10.0.0.9/32
    scram-sha-256` opens the console to a host. Change: reload."""
    prune: bool = False
    """On a host that left the group it goes. Change: the service stops."""
    adopt: bool = False
    """The PgBouncer of others is taken over in one run. Change: restart; its files are replaced,
    copies stay."""
    extra: Extra = {}
    """Any other key: `{"server_reset_query": "DISCARD ALL"}`. Change: reload; restart for keys that
    RELOAD ignores."""

    @property
    def connections_per_database(self) -> int:
        """The most server connections that this PgBouncer opens to one database."""
        pools = self.default_pool_size + self.reserve_pool_size
        return self.max_db_connections or pools + _LOOKUP_CONNECTIONS


# The first version that has a key; an older one refuses to start with it.
SINCE = {
    "auth_dbname": (1, 19),
    "max_prepared_statements": (1, 21),
    "track_extra_parameters": (1, 20),
    "load_balance_hosts": (1, 24),
    "transaction_timeout": (1, 25),
}


# 200 is PgBouncer's own recommendation where clients use protocol-level prepared statements
# (config.md of 1.21: "100 to 300").
PREPARED_STATEMENTS = 200


# Keys that RELOAD leaves as they are (column "changeable" of SHOW CONFIG).
RESTART_KEYS = ("listen_addr", "listen_port", "unix_socket_dir", "unix_socket_mode",
                 "unix_socket_group", "listen_backlog", "so_reuseport", "user", "pidfile",
                 "syslog_ident", "syslog_facility", "peer_id")  # fmt: skip
