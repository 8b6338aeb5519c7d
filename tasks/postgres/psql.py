"""The one way into PostgreSQL from our shell, and how a script of SQL goes to another database."""

from __future__ import annotations

from tasks.core.scripts import shell

# Shell: `closed_psql DATA PORT DATABASE [OPTION...]`, and `closed … COMMAND...` for other clients.
SHELL = shell("psql", "postgres")


def identifier(name: str) -> str:
    """A quoted SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


def literal(text: str) -> str:
    """A quoted SQL string."""
    return "'" + text.replace("'", "''") + "'"


def connect(database: str) -> str:
    """What psql reads to go on in another database, as closed as in the one before."""
    # A string of parameters, because a name may look like one.
    escaped = database.replace("\\", "\\\\").replace("'", "\\'")
    place = identifier(f"dbname='{escaped}'")
    return f"\\connect {place}\n:closed"
