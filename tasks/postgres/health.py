"""Its row of the health table."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from tasks.core.check import Check, place
from tasks.core.estate import Node
from tasks.postgres import archive, psql
from tasks.postgres.clients import clients
from tasks.postgres.content import role_names
from tasks.postgres.layout import data_directory
from tasks.postgres.settings import PostgresSettings

_VERSION = """
DO $$ DECLARE lost text; BEGIN
  IF pg_is_in_recovery() THEN
    RAISE 'takes no writes: it recovers, or is a standby (standby.signal)';
  END IF;
  SELECT string_agg(name, ', ') INTO lost FROM (
    SELECT 'role ' || name FROM unnest(ARRAY[{ours}]::text[]) name
      WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = name)
    UNION ALL SELECT 'database ' || name FROM unnest(ARRAY[{databases}]::text[]) name
      WHERE NOT EXISTS (SELECT FROM pg_database WHERE datname = name)) wanted (name);
  IF lost IS NOT NULL THEN
    RAISE 'has no %: its data directory is another one, or a run makes it', lost;
  END IF;
END $$;
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
    chosen = node.the(PostgresSettings)
    port, data = chosen.port, data_directory(node)
    at = place(node, chosen.listen_addresses, is_near=not clients(node))
    wanted = _VERSION.format(ours=_names(role_names(node)), databases=_names(chosen.databases))
    script = (
        f"{answers(at, port)}"
        f"{psql.SHELL}within=30\nclosed_psql {data} {port} postgres <<'__SQL__'\n"
        f"{wanted}__SQL__"
    )
    connect = f"sudo -u postgres psql -p {port}"
    yield Check("postgres", node, f"{at}:{port}", script, connect, 0, data=data)
    yield from archive.rows(node)


def _names(of: Iterable[str]) -> str:
    """A list of quoted SQL strings."""
    return ", ".join(map(psql.literal, of))


def answers(place: str, port: int) -> str:
    """At the address that the table shows; what follows may go another way."""
    return f"pg_isready -q -h {place} -p {port} || {{ echo no answer at {place}; exit 1; }}\n"
