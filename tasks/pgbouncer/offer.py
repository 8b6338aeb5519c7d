"""What an application needs to reach PostgreSQL through PgBouncer."""

from __future__ import annotations

from urllib.parse import quote

from tasks.core.estate import Estate
from tasks.core.offer import NEAR, Offer, Reach, place
from tasks.pgbouncer.settings import PgbouncerSettings
from tasks.postgres.secrets import application, role_password
from tasks.postgres.settings import PostgresSettings


def offer(everything: Estate, reach: Reach) -> Offer | None:
    """The first database that an application owns, through the nearest pooler."""
    poolers = everything.having(PgbouncerSettings)
    if not poolers:
        return None
    node = min(poolers, key=lambda pooler: reach(pooler) != NEAR)
    server = everything.having(PostgresSettings)[0]
    port = node.the(PgbouncerSettings).listen_port
    database, login = application(server) or ("", "")
    password = (login and role_password(server, login)) or ""
    variables = {
        "DB_HOST": reach(node),
        "DB_PORT": str(port),
        "DB_NAME": database,
        "DB_USER": login,
    }
    user = f"{quote(login, safe='')}:{quote(password, safe='')}"
    url = f"postgresql://{user}@{place(reach(node), port)}/{quote(database, safe='')}"
    return Offer(variables, {"DB_PASSWORD": password}, {"DATABASE_URL": url} if login else {})
