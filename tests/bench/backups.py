"""Backups and restores against the plain tools that they stand on, by hand."""

from __future__ import annotations

from functools import partial

from tests.bench.figures import Figures, alternating, ratio, spread, took
from tests.bench.runs import project
from tests.lab import Lab

ROUNDS = 3
_ROWS = """
CREATE TABLE bench AS
  SELECT g AS id, md5(g::text) AS a, repeat('what an order says ', 1 + g % 5) AS b
  FROM generate_series(1, 1000000) g; ALTER TABLE bench OWNER TO psscript
"""
_AS = "runuser -u postgres --"
_REST = f"{_AS} pgbackrest --stanza=psscript"
_DUMP = "/backups/postgres/psscript_full_LATEST.sql.gz"
# A copy that was not read back is none, by hand as well.
_FULL = (
    f"{_REST} --type=full backup; {_AS} pg_dumpall --globals-only | gzip >/var/tmp/globals.gz;"
    f" {_AS} pg_dump psscript | gzip >/var/tmp/plain.gz; gunzip -t /var/tmp/plain.gz;"
    " sha256sum /var/tmp/plain.gz"
)
_RESTORE = (
    f"{_AS} dropdb --if-exists plain; {_AS} createdb plain; gunzip -c {_DUMP} | {_AS} psql -q plain"
)
_SCRATCH = "/var/tmp/scratch"
_OPTIONS = (
    f"-c config_file={_SCRATCH}/p.conf -c hba_file={_SCRATCH}/h.conf -c port=5999"
    f" -c listen_addresses= -c unix_socket_directories={_SCRATCH} -c archive_mode=off"
)
_DRILL = (
    f"rm -rf {_SCRATCH}; install -d -m 700 -o postgres {_SCRATCH};"
    f" {_REST} --pg1-path={_SCRATCH} restore;"
    f" {_AS} touch {_SCRATCH}/p.conf; echo local all all trust >{_SCRATCH}/h.conf;"
    f" echo max_connections=200 >{_SCRATCH}/p.conf;"
    f" {_AS} /usr/lib/postgresql/15/bin/pg_ctl -w -t 300 -D {_SCRATCH} -o '{_OPTIONS}' start;"
    f" {_AS} pg_dump -h {_SCRATCH} -p 5999 psscript;"
    f" {_AS} /usr/lib/postgresql/15/bin/pg_ctl -w -D {_SCRATCH} -m immediate stop;"
    f" rm -rf {_SCRATCH}"
)
_PAIRS = {
    "full": ("/scripts/postgres-backup.sh full", _FULL),
    "incremental": (
        "/scripts/postgres-backup.sh incremental",
        f"{_REST} --type=incr backup; {_AS} psql -c 'SELECT pg_switch_wal()'",
    ),
    "drill": ("/scripts/backup.sh drill", _DRILL),
    "restore of a dump": (f"/scripts/restore-postgres.sh {_DUMP}", _RESTORE),
}


def backups(lab: Lab) -> Figures:
    """Each job of ours and what does the same by hand, in turn."""
    figures = Figures(["job", "plain tools", "Datatier", "Datatier / plain tools"])
    host = lab.installed_host("kept")
    with project(host) as made:
        made.deploy()
        host.run(f'psql -qd psscript -c "{_ROWS}"', user="postgres", timeout=300)
        # A drill wants one to restore.
        host.run("/scripts/redis-backup.sh")
        for name, commands in _PAIRS.items():
            mine, plain = alternating(ROUNDS, *(partial(took, host, c) for c in commands))
            figures.rows.append([name, spread(plain), spread(mine), ratio(mine, plain)])
    host.remove()
    return figures
