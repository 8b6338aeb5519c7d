"""A report as one page that a browser shows without network and script."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING
from xml.etree.ElementTree import Element

from backup.catalogue import size
from backup.config import Config
from backup.health import page, parts
from backup.health.html import tag
from backup.report import tables

if TYPE_CHECKING:
    from backup.report import Report


def text(config: Config, found: Report) -> str:
    """The page as HTML, without secrets."""
    return page.document(config, f"{found.stack}: backups of {found.month}", _parts(found))


def _parts(found: Report) -> Iterator[Element]:
    yield tag(
        "header",
        tag("h1", f"{found.stack}: backups of {found.month}"),
        tag("span", f"as {found.host} knows them", class_="soft"),
    )
    written = f"Written {tables.utc(found.written)}. All times are UTC."
    yield tag("p", " ".join([written, *tables.notes(found)]), class_="soft")
    for table in tables.of(found):
        yield _section(table)
    if found.backups:
        yield _every(found)


def _section(table: tables.Table) -> Element:
    title = tag("h2", table.title)
    if not table.lines:
        return tag("section", title, tag("p", "None."))
    return tag("section", title, parts.table(table.heads, table.lines, numbers=set()))


def _every(found: Report) -> Element:
    heads = ("ended", "kind", "of", "bytes", "took", "verified", "copied", "kept", "name", "sha256")
    lines = [
        (
            tables.utc(each.ended),
            each.kind,
            each.of,
            size(each.bytes),
            parts.span(each.duration),
            ", ".join(check.what for check in each.verified) or "no",
            ", ".join(each.copies) or "no",
            "yes" if each.name in found.kept else "removed since",
            each.name,
            each.sha256,
        )
        for each in found.backups
    ]
    summary = tag("summary", f"All {len(lines)} backups")
    table = parts.table(heads, lines, numbers={3, 4})
    return tag("section", tag("details", summary, table))
