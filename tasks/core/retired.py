"""What values of secrets a host has had: an old `.env` would bring one of them back."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from tasks.core import files
from tasks.core.change import Change
from tasks.core.files import File, Found, digest
from tasks.core.leavings import HOST
from tasks.core.places import STATE_DIRECTORY
from tasks.core.remote import Probe
from tasks.core.secrets import Secrets, previous
from tasks.core.settings import Problem
from tasks.core.traces import SECRETS_HAD

if TYPE_CHECKING:
    from tasks.core.estate import Node

# Of a value: enough to know it again, too little to find it by.
_LENGTH = 6
# In the place of a value, of a name that has none now.
_NONE = "-"
_MOST = 20


def probe() -> Probe[dict[str, Found]]:
    """Reads what a host has had."""
    return files.probe([_file("")])


def revived(node: Node) -> Iterator[Problem]:
    """Secrets whose value this host has had before the present one."""
    had, store = _had(node), node.estate.secrets
    for name in sorted(had) if not node.stack.replace_secrets else ():
        value = store.stated(name)
        if value and _mark(name, value) in had[name][:-1]:
            yield Problem(node.name, name, _revival(store, name))


def _revival(store: Secrets, name: str) -> str:
    where = store.origin(name)
    now = "the .env of the last deployment" if where == str(store.path) else "the present one"
    if name.endswith(previous("")):
        return (
            f"was taken away here, and is back in {where}: put {now} there, "
            "or let replace_secrets=true make it valid again"
        )
    return (
        f"was replaced here, and is the old one in {where}: put {now} there, "
        "or let replace_secrets=true take the new one from every client"
    )


def missing_record(node: Node) -> Change | None:
    """What a host does not know yet of the values that it has now."""
    text = _text(node)
    change = files.compare([_file(text)], node.read(HOST)["had"]) if text else None
    return change and replace(
        change, script=f"install -d -m 700 {STATE_DIRECTORY}\n{change.script}"
    )


def _text(node: Node) -> str:
    had = _had(node)
    plain = {name.removesuffix(previous("")) for name in _names(node)}
    names = plain | {previous(name) for name in plain} | had.keys()
    lines = {name: _known(node, name, had.get(name, [])) for name in sorted(names)}
    return "".join(f"{name} {' '.join(marks)}\n" for name, marks in lines.items() if marks)


def _file(text: str) -> File:
    return File(SECRETS_HAD, text, "600")


def _names(node: Node) -> Iterator[str]:
    for component in node.components():
        yield from component.secrets(node)
        yield from component.rotates(node).values()


def _known(node: Node, name: str, had: list[str]) -> list[str]:
    store = node.estate.secrets
    before, now = store.stated(previous(name)), store.stated(name) or store.generated.get(name)
    marks = [*had]
    if before and _mark(name, before) not in marks:
        marks.append(_mark(name, before))
    last = _mark(name, now) if now else _NONE if marks else ""
    return [*(each for each in marks if each != last), *filter(None, [last])][-_MOST:]


def _mark(name: str, value: str) -> str:
    return digest(name, value)[:_LENGTH]


def _had(node: Node) -> Mapping[str, list[str]]:
    found: Mapping[str, Found] = node.read(HOST)["had"]
    lines = found[SECRETS_HAD].content.decode(errors="replace").splitlines()
    words = (line.split(" ") for line in lines)
    return {name: marks for name, *marks in words if marks}
