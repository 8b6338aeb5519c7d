"""The settings of a whole stack as its servers say them, asked with one command."""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import dataclass

from tests.e2e.proof import NEWEST
from tests.lab import Host

# Rows of: whose word, what, value. Passwords come on standard input.
_ASK = r"""
IFS= read -r REDISCLI_AUTH; IFS= read -r PGPASSWORD; export REDISCLI_AUTH PGPASSWORD; cd /
tab=$(printf '\t')
as() { sed "s/^/$1$tab/"; }
admin() { runuser -u postgres -- psql -XAtqw -F "$tab" -p POSTGRES -d "$1" -c "$2"; }
admin postgres "SELECT 'postgres', name, current_setting(name) FROM pg_settings
  UNION ALL SELECT 'context', name, context FROM pg_settings
  UNION ALL SELECT 'postgres', 'hba', address FROM pg_hba_file_rules WHERE address LIKE '10.99.%'
  UNION ALL SELECT 'sql', rolname || ' createdb', rolcreatedb::text FROM pg_roles
  UNION ALL SELECT 'sql', rolname || ' limit', rolconnlimit::text FROM pg_roles
  UNION ALL SELECT 'sql', rolname || ' settings', coalesce(array_to_string(rolconfig, ' '), '')
    FROM pg_roles
  UNION ALL SELECT 'sql', r.rolname || ' groups', coalesce(string_agg(g.rolname, ' '), '')
    FROM pg_roles r LEFT JOIN pg_auth_members m ON m.member = r.oid
    LEFT JOIN pg_roles g ON g.oid = m.roleid GROUP BY r.rolname
  UNION ALL SELECT 'sql', datname || ' owner', pg_get_userbyid(datdba) FROM pg_database
  UNION ALL SELECT 'sql', datname || ' parameters', array_to_string(setconfig, ' ')
    FROM pg_database d JOIN pg_db_role_setting s ON setdatabase = d.oid AND setrole = 0
  UNION ALL SELECT 'sql', datname || ' grants', string_agg(privilege_type, ' ')
    FROM pg_database, aclexplode(datacl) JOIN pg_roles r ON r.oid = grantee
    WHERE rolname IN ('psscript', 'analyst') AND grantee <> datdba GROUP BY datname"
dbs="SELECT datname FROM pg_database WHERE datname IN ('psscript', 'reports')"
for db in $(admin postgres "$dbs"); do
  admin "$db" "SELECT 'sql', current_database() || ' has ' || extname, 'yes' FROM pg_extension"
done
psql -XAtqw -F "$tab" -h 127.0.0.1 -p PGBOUNCER -U postgres -d pgbouncer -c 'SHOW CONFIG' |
  awk -F "$tab" -v OFS="$tab" '{ print "pgbouncer", $1, $2; print "changeable", $1, $NF }'
for port in 6379 6380 6381; do
  /usr/bin/redis-cli -e -p "$port" CONFIG GET '*' | paste - - | as redis
done
for port in 26379 26380 26381; do
  /usr/bin/redis-cli -e -p "$port" SENTINEL MASTER mymaster | paste - - | as sentinel
done
tr -d '\n' </etc/datatier/backup.json | as backup; echo
sed -n 's,^\(.*\) root .*/backup.sh verify .*,\1,p' /etc/cron.d/datatier-backup |
  as "cron${tab}verify"
"""


@dataclass(frozen=True)
class Doors:
    """How the servers of a stack are reached."""

    postgres: int
    pgbouncer: int
    postgres_password: str
    redis_password: str


def settings(host: Host, doors: Doors) -> dict[str, str]:
    """What every server says, as `server name`; instances that differ say all their values."""
    script = (
        (NEWEST + _ASK)
        .replace("POSTGRES", str(doors.postgres))
        .replace("PGBOUNCER", str(doors.pgbouncer))
    )
    secrets = f"{doors.redis_password}\n{doors.postgres_password}\n"
    found: defaultdict[str, set[str]] = defaultdict(set)
    for line in host.run(script, stdin=secrets).stdout.splitlines():
        server, name, *value = line.split("\t", 2)
        if server == "backup":
            for key, said in _of_backup(name).items():
                found[key].add(said)
        else:
            found[f"{server} {name}"].add("".join(value))
    return {name: " and ".join(sorted(values)) for name, values in found.items()}


def _of_backup(text: str) -> dict[str, str]:
    given = json.loads(text)
    keys = {key: str(given[key]) for key in ("retention_days", "retention_min_full")}
    return {f"backup {key}": value for key, value in keys.items()} | {
        "backup alert_command": given["alerts"]["command"]
    }


def invocations(host: Host) -> dict[str, str]:
    """What systemd calls each run of a service; another one is another process."""
    units = "'postgresql@*' pgbouncer.service 'redis-*'"
    shown = host.run(f"systemctl show -p Id,InvocationID {units}").stdout
    blocks = (
        dict(row.split("=", 1) for row in block.splitlines()) for block in shown.split("\n\n")
    )
    return {_service(block["Id"]): block["InvocationID"] for block in blocks}


def _service(unit: str) -> str:
    return "postgres" if unit.startswith("postgresql@") else unit.removesuffix(".service")
