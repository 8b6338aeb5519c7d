"""Its row of the health table."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from tasks.core.check import Check, place
from tasks.core.estate import Node
from tasks.postgres import archive, leader, psql, replication
from tasks.postgres.clients import clients
from tasks.postgres.content import role_names
from tasks.postgres.layout import data_directory
from tasks.postgres.settings import PostgresSettings

_VERSION = """
DO $$ DECLARE lost text; BEGIN
  IF pg_is_in_recovery() THEN
    {recovers}
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
SELECT concat('PostgreSQL ', current_setting('server_version'),{role}
  '; beyond the settings: ' || string_agg(rolname, ', ' ORDER BY rolname),
  E'\ncluster ', (SELECT system_identifier FROM pg_control_system()), ' ',
  current_setting('data_directory'))
FROM pg_roles r WHERE rolname NOT IN ({ours}) AND rolname !~ '^pg_|[[:cntrl:]]' AND (
  rolsuper OR rolcreaterole OR rolreplication OR rolbypassrls OR EXISTS (
    SELECT FROM pg_auth_members m JOIN pg_roles g ON g.oid = m.roleid
    WHERE m.member = r.oid AND (g.rolsuper OR g.rolname ~ '^pg_')));
"""

_ALONE = "RAISE 'takes no writes: it recovers, or is a standby (standby.signal)';"
# After a start it connects within a second or two.
_FOLLOWS = """
    FOR n IN 1..50 LOOP
      EXIT WHEN EXISTS (SELECT FROM pg_stat_wal_receiver WHERE status = 'streaming');
      PERFORM pg_sleep(0.2);
    END LOOP;
    IF NOT EXISTS (SELECT FROM pg_stat_wal_receiver WHERE status = 'streaming') THEN
      RAISE 'follows no server: see its log; where its slot is lost, it has to be made again';
    END IF;
"""
_ROLE = """
  CASE WHEN pg_is_in_recovery() THEN (
    SELECT concat(', standby of ', sender_host, ', ',
      pg_size_pretty(greatest(0, pg_wal_lsn_diff(latest_end_lsn, pg_last_wal_replay_lsn()))),
      ' behind') FROM pg_stat_wal_receiver)
  ELSE (SELECT concat(', primary, followed by ', count(*), ' of {count}') FROM pg_stat_replication
    WHERE state = 'streaming' AND usename = '{user}') END,
"""


def rows(node: Node) -> Iterator[Check]:
    """Its rows of the health table."""
    chosen = node.the(PostgresSettings)
    port, data = chosen.port, data_directory(node)
    at = place(node, chosen.listen_addresses, is_near=not clients(node))
    wanted = _VERSION.format(
        ours=_names(role_names(node)), databases=_names(chosen.databases), **_of_several(node)
    )
    script = (
        f"{answers(at, port)}"
        f"{psql.SHELL}within=30\nclosed_psql {data} {port} postgres <<'__SQL__'\n"
        f"{wanted}__SQL__"
    )
    connect = f"sudo -u postgres psql -p {port}"
    yield Check("postgres", node, f"{at}:{port}", script, connect, 0, data=data)
    yield from archive.rows(node)


def _of_several(node: Node) -> dict[str, str]:
    if not leader.is_replicated(node):
        return {"recovers": _ALONE, "role": ""}
    role = _ROLE.format(count=len(replication.slots(node)), user=replication.ROLE)
    return {"recovers": _FOLLOWS, "role": role.rstrip()}


def _names(of: Iterable[str]) -> str:
    """A list of quoted SQL strings."""
    return ", ".join(map(psql.literal, of))


def answers(place: str, port: int) -> str:
    """At the address that the table shows; what follows may go another way."""
    return f"pg_isready -q -h {place} -p {port} || {{ echo no answer at {place}; exit 1; }}\n"
