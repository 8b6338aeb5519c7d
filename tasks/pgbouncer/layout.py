"""Where the files of PgBouncer are."""

from __future__ import annotations

TRUSTED = "/etc/datatier/pgbouncer/postgres.pem"


# What others have there is refused or adopted here, not by the core.
ADOPTS = ("/etc/pgbouncer/",)


INI = "/etc/pgbouncer/pgbouncer.ini"


USERLIST = "/etc/pgbouncer/userlist.txt"


HBA = "/etc/pgbouncer/pg_hba.conf"


SOCKETS = "/var/run/postgresql"


PID_FILE = "/var/run/postgresql/pgbouncer.pid"
