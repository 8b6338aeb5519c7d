"""Its row of the health table."""

from __future__ import annotations

from collections.abc import Iterator

from tasks.core.check import Check, place
from tasks.core.estate import Node
from tasks.postgres import archive, psql
from tasks.postgres.clients import clients
from tasks.postgres.content import role_names
from tasks.postgres.layout import data_directory
from tasks.postgres.settings import PostgresSettings

_VERSION = """
DO $$ BEGIN IF pg_is_in_recovery() THEN
  RAISE 'takes no writes: it recovers, or is a standby (standby.signal)'; END IF; END $$;
SELECT concat('PostgreSQL ', current_setting('server_version'),
  '; beyond the settings: ' || string_agg(rolname, ', ' ORDER BY rolname),
  E'\ncluster ', (SELECT system_identifier FROM pg_control_system()), ' ',
  current_setting('data_directory'))
FROM pg_roles r WHERE rolname NOT IN ({ours}) AND rolname !~ '^pg_|[[:cntrl:]]' AND (
  rolsuper OR rolcreaterole OR rolreplication OR rolbypassrls OR EXISTS (
    SELECT FROM pg_auth_members m JOIN pg_roles g ON g.oid = m.roleid
    WHERE m.member = r.oid AND (g.rolsuper OR g.rolname ~ '^pg_')));
"""


def rows(node: Node) -> Iterator[Check]:
    """Its rows of the health table."""
    port, data = node.the(PostgresSettings).port, data_directory(node)
    listen, is_near = node.the(PostgresSettings).listen_addresses, not clients(node)
    at = place(node, listen, is_near=is_near)
    script = (
        f"{answers(at, port)}"
        f"{psql.SHELL}within=30\nclosed_psql {data} {port} postgres <<'__SQL__'\n"
        f"{_VERSION.format(ours=', '.join(map(psql.literal, role_names(node))))}__SQL__"
    )
    connect = f"sudo -u postgres psql -p {port}"
    yield Check("postgres", node, f"{at}:{port}", script, connect, 0, data=data)
    yield from archive.rows(node)


def answers(place: str, port: int) -> str:
    """At the address that the table shows; what follows may go another way."""
    return f"pg_isready -q -h {place} -p {port} || {{ echo no answer at {place}; exit 1; }}\n"
