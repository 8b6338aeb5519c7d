"""Who may enter a database, make temporary tables there, and create in its schema `public`.

PUBLIC may do none of it. Where it still may, those who use the database get the right by name
first: a run that is killed in between leaves more rights, never fewer.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from tasks.postgres.psql import identifier

Facts = Mapping[str, Any]
# Of a role, each with those who have granted it; None is the owner of the database.
Granted = Mapping[str, Collection[str | None]]

# What PUBLIC may do in a new database.
_ENTRY = ("CONNECT", "TEMPORARY")

# Groups whose rights reach into every database.
EVERYWHERE = frozenset(
    {"pg_read_all_data", "pg_write_all_data", "pg_maintain", "pg_monitor"}
    | {"pg_read_all_stats", "pg_stat_scan_tables"}
)

# The databases that initdb makes, as it leaves them. No session can enter template0.
SYSTEM: Mapping[str, Facts] = {
    "postgres": {"owner": "postgres", "public": [["CONNECT", None], ["TEMPORARY", None]]},
    "template1": {"owner": "postgres", "public": [["CONNECT", None]]},
}


@dataclass(frozen=True)
class Step:
    """One pending statement: where it runs, and the sentence that announces it."""

    line: str
    statement: str
    database: str = "postgres"


@dataclass(frozen=True)
class Access:
    """Whom the settings let into a database.

    Attributes:
        owner: of the database, as it should be.
        grants: rights on the database by role; a role that has none there is shut out.
        roles: all that the settings know; what others have by hand stays.
        components: roles of ours, which get nothing but their grants.
    """

    database: str
    owner: str
    grants: Mapping[str, frozenset[str]]
    roles: frozenset[str]
    components: frozenset[str]


def of_database(access: Access, now: Facts, server: Facts) -> Iterator[Step]:
    """The rights that differ on a database of the settings, or of the cluster.

    Args:
        now: what the server says of the database.
        server: what the server says of itself, with roles as they will be: see `sql.as_wanted`.
    """
    place, owner = identifier(access.database), identifier(access.owner)
    for privilege in now.get("lacks") or []:
        line = f"database {access.database}: grant {privilege} to its owner"
        yield Step(line, f"GRANT {privilege} ON DATABASE {place} TO {owner};")
    granted, stays = _granted(access, now), kept(access, now, server)
    ours = {*access.roles, *access.grants} - {access.owner, "postgres"}
    wanted = {role: access.grants.get(role, frozenset()) | stays.get(role, set()) for role in ours}
    # What others have granted may go with their own right.
    lasting = {role: _by_owner(rights) for role, rights in granted.items()}
    for role in sorted(wanted):
        for privilege in sorted(wanted[role] - lasting.get(role, set())):
            yield _grant(access, [privilege], role)
    yield from _closed(access, now, server, {**lasting, **wanted})
    for role in sorted(wanted):
        there = granted.get(role, {})
        for privilege in sorted({*there} - wanted[role]):
            line = f"database {access.database}: revoke {privilege} from {role}"
            right = f"{privilege} ON DATABASE {place}"
            # With the right of one who loses his go those that he has granted.
            rest = (by for by in there[privilege] if privilege in wanted.get(by or "", {privilege}))
            yield Step(line, " ".join(revoke(right, identifier(role), by) for by in rest))


def of_schema(database: str, owner: str, public: Facts | None) -> Iterator[Step]:
    """What PUBLIC may create in the schema `public`: its makers, and the owner, keep that.

    Args:
        public: what the server says of the schema where PUBLIC may create in it.
    """
    if not public:
        return
    what = f"schema public of {database}"
    for maker in public["makers"]:
        if maker not in (owner, "postgres"):
            line = f"{what}: grant CREATE to {_shown(maker)}, which has made something there"
            grant = f"GRANT CREATE ON SCHEMA public TO {identifier(maker)};"
            yield Step(line, grant, database)
    if not public["owners"]:
        grant = "GRANT CREATE ON SCHEMA public TO pg_database_owner;"
        yield Step(f"{what}: grant CREATE to the owner of the database", grant, database)
    statements = (revoke("CREATE ON SCHEMA public", "PUBLIC", by) for by in public["by"])
    yield Step(f"{what}: revoke CREATE from PUBLIC", " ".join(statements), database)


def kept(access: Access, now: Facts, server: Facts) -> dict[str, set[str]]:
    """What PUBLIC had and roles of the settings have by name, without a grant that says so.

    A run has given it to those who used the database before PUBLIC lost it.
    """
    users, granted = _users(access, server, heirs=True), _granted(access, now)
    found = {
        role: _by_owner(granted.get(role, {})) & {*_ENTRY} - access.grants.get(role, frozenset())
        for role in sorted(users & access.roles)
    }
    return {role: rights for role, rights in found.items() if rights}


def revoke(right: str, role: str, grantor: str | None) -> str:
    """Takes a right from a role, and from those to whom that role has granted it.

    Args:
        grantor: who has granted it, where that is not the owner: no one else can take it.
    """
    statement = f"REVOKE {right} FROM {role} CASCADE;"
    return (
        statement if grantor is None else f"SET ROLE {identifier(grantor)}; {statement} RESET ROLE;"
    )


def _grant(access: Access, rights: Collection[str], role: str, why: str = "") -> Step:
    line = f"database {access.database}: grant {', '.join(rights)} to {_shown(role)}{why}"
    place = identifier(access.database)
    return Step(line, f"GRANT {', '.join(rights)} ON DATABASE {place} TO {identifier(role)};")


def _shown(role: str) -> str:
    """The name of a role that hands may have made, on one line."""
    return role if role.isprintable() else repr(role)


def _granted(access: Access, now: Facts) -> dict[str, dict[str, list[str | None]]]:
    granted: dict[str, dict[str, list[str | None]]] = {}
    for role, privilege, *grantor in now.get("grants") or []:
        # A new owner takes over what stands for the old one.
        heir = access.owner if role == now["owner"] else role
        granted.setdefault(heir, {}).setdefault(privilege, []).extend(grantor or [None])
    return granted


def _by_owner(rights: Granted) -> set[str]:
    return {right for right, grantors in rights.items() if None in grantors}


def _closed(
    access: Access, now: Facts, server: Facts, has: Mapping[str, Collection[str]]
) -> Iterator[Step]:
    """What PUBLIC may do, which goes to those who use the database.

    Args:
        has: the rights that each role has by name, with those that it is about to get.
    """
    public: dict[str | None, list[str]] = {}
    for right, grantor in now.get("public") or ():
        public.setdefault(grantor, []).append(right)
    there = {right for rights in public.values() for right in rights}
    leaves = {now.get("owner", access.owner)} & access.roles - {*access.grants}
    for role in sorted(_users(access, server)):
        # An owner that is replaced loses what owners have.
        goes = {*_ENTRY} if role in leaves else there
        missing = [right for right in _ENTRY if right in goes and right not in has.get(role, ())]
        if missing:
            yield _grant(access, missing, role, ", which uses it")
    if public:
        line = f"database {access.database}: revoke {', '.join(sorted(there))} from PUBLIC"
        place = f"ON DATABASE {identifier(access.database)}"
        rest = (
            revoke(f"{', '.join(rights)} {place}", "PUBLIC", by) for by, rights in public.items()
        )
        yield Step(line, " ".join(rest))


def _users(access: Access, server: Facts, *, heirs: bool = False) -> set[str]:
    """Who uses a database, besides its owner: who has a grant there, or holds something in it.

    A member counts where it does not inherit the right of the one that holds it, or where its
    group reaches into every database.

    Args:
        heirs: those who inherit count too: that a member begins to takes nothing from it.
    """
    roles: Mapping[str, Facts] = server.get("roles") or {}
    held = {role for role, rights in access.grants.items() if rights}
    for role, inside, _, base, _ in server.get("owned") or ():
        # Rights on the database itself are the settings' to say, where they know the role.
        if access.database == inside or (access.database == base and role not in access.roles):
            held.add(role)
    whose = held | {access.owner}
    # No application has anything to do in the template.
    reach = whose | EVERYWHERE if access.database != "template1" else whose
    for role in roles:
        everything, inherited = _groups(roles, role, all_of=True), _groups(roles, role)
        if everything & reach and (heirs or not inherited & whose):
            held.add(role)
    out = {role for role, rights in access.grants.items() if not rights}
    out |= {access.owner, "postgres"} | access.components
    mighty = {role for role, facts in roles.items() if facts.get("superuser")}
    return {role for role in held - out - mighty if not role.startswith("pg_")}


def _groups(roles: Mapping[str, Facts], name: str, *, all_of: bool = False) -> set[str]:
    """The groups of a role, by default those whose rights it has without SET ROLE."""
    found, pending = set[str](), [name]
    while pending:
        facts = roles.get(pending.pop(), {})
        new = {*facts.get("member_of", ())} - found - (set() if all_of else {*facts.get("shy", ())})
        found |= new
        pending += new
    return found
