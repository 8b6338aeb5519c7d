"""Locales of the C library that databases need, and a scratch server on this host would lack."""

from __future__ import annotations

import locale
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator

from backup.config import Config, Postgres
from backup.job import Failed
from backup.postgres.session import connect

# Others than libc's too: each database has these two, and can be entered only where they are.
_DATABASES = (
    "SELECT datname, datcollate, datctype FROM pg_database"
    " WHERE datallowconn AND datconnlimit <> -2 ORDER BY 1"
)
# Most of pg_catalog's are only what the server's host has: what uses one depends on it.
_COLLATIONS = (
    "SELECT DISTINCT name FROM pg_collation c, unnest(ARRAY[collcollate, collctype]) AS name"
    " WHERE collprovider = 'c' AND name <> '' AND (collnamespace <> 'pg_catalog'::regnamespace"
    "  OR EXISTS (SELECT FROM pg_depend"
    "   WHERE refclassid = 'pg_collation'::regclass AND refobjid = c.oid)) ORDER BY 1"
)


def lacking(config: Config, live: Postgres) -> list[str]:
    """What is wrong with this host, a sentence for each locale; nothing on PostgreSQL's own.

    Raises:
        Failed: the server does not answer.
    """
    if live.local:
        return []
    return _sentences(config, _missing(live, live.databases, admin=False))


def require(config: Config, scratch: Postgres, databases: Collection[str] | None = None) -> None:
    """Asserts that a scratch server can read what was restored.

    Args:
        databases: those that are to be read; None for all.

    Raises:
        Failed: a locale is missing; the message names it and the databases.
    """
    missing = _missing(scratch, databases, admin=True)
    needed = [pair for pair in missing if databases is None or pair[1] in databases]
    if needed:
        raise Failed("; ".join(_sentences(config, needed)))


def _missing(
    server: Postgres, entered: Collection[str] | None, *, admin: bool
) -> Iterator[tuple[str, str]]:
    """Locales that are not here, each with a database that needs it."""
    with connect(server, "postgres", admin=admin) as connection:
        rows = connection.execute(_DATABASES).fetchall()
    for database, *own in rows:
        gone = [name for name in dict.fromkeys(own) if not _is_here(name)]
        if not gone and (entered is None or database in entered):
            with connect(server, database, admin=admin) as connection:
                used = connection.execute(_COLLATIONS).fetchall()
            gone = [name for (name,) in used if not _is_here(name)]
        for name in gone:
            yield name, database


def _is_here(name: str) -> bool:
    """Whether the C library knows it, in whichever spelling."""
    before = locale.setlocale(locale.LC_COLLATE)
    try:
        locale.setlocale(locale.LC_COLLATE, name)
    except locale.Error:
        return False
    locale.setlocale(locale.LC_COLLATE, before)
    return True


def _sentences(config: Config, missing: Iterable[tuple[str, str]]) -> list[str]:
    databases = defaultdict[str, list[str]](list)
    for name, database in missing:
        databases[name].append(database)
    return [
        f"{config.host} has no locale {name!r}, so drills and --time cannot read "
        f"{'databases' if users[1:] else 'database'} {', '.join(users)}: install the package "
        "locales, add its line to /etc/locale.gen, and run locale-gen"
        for name, users in databases.items()
    ]
