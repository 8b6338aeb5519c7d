"""Runbooks: each row of the health check and each alert has a section, which says what to type."""

from __future__ import annotations

import re

import pytest
import yaml

from backup.health.remedies import Remedy, remedies
from tests.e2e.documented import anchor, headings, steps
from tests.e2e.project import ROOT

RUNBOOKS = ROOT / "docs/runbooks.md"
SECTIONS = re.findall(r"(?m)^## (.*)$", RUNBOOKS.read_text())
TABLE = "docs/health.md#what-each-row-means-and-what-to-do"
_LINK = re.compile(r"\(runbooks\.md#([\w-]+)\)")


def _rules() -> dict[str, str]:
    """Where each alert leads."""
    told = yaml.safe_load((ROOT / "templates/monitoring/rules.yml").read_text())
    rules = [rule for group in told["groups"] for rule in group["rules"]]
    return {rule["alert"]: rule["annotations"]["runbook"] for rule in rules}


@pytest.mark.parametrize("each", remedies(), ids=lambda each: each.row)
def test_each_row_leads_to_its_section(each: Remedy) -> None:
    (section,) = _LINK.findall(each.todo)
    assert section in map(anchor, SECTIONS)


@pytest.mark.parametrize("alert", _rules())
def test_each_alert_leads_to_its_section(alert: str) -> None:
    """The alert itself and its line of the page; those of rows to the table of rows."""
    page, _, section = _rules()[alert].partition("#")
    if page == "docs/runbooks.md":
        line = re.search(rf"(?m)^\| `{alert}` .*$", (ROOT / "docs/monitoring.md").read_text())
        assert line and _LINK.findall(line[0]) == [section]
        assert section in map(anchor, SECTIONS)
    else:
        assert f"{page}#{section}" == TABLE
        assert alert in ("DatatierCritical", "DatatierWarning", "DatatierUnknown")


@pytest.mark.parametrize("section", SECTIONS)
def test_each_section_shows_more_and_says_what_to_do(section: str) -> None:
    assert section in headings(RUNBOOKS)
    found = steps(RUNBOOKS, section)
    assert {each.block for each in found} >= {0, 1}
    assert all(each.where for each in found if each.block == 0)


def test_each_section_is_of_something() -> None:
    pages = (*ROOT.glob("docs/*.md"), ROOT / "templates/monitoring/rules.yml")
    linked = {
        found
        for page in pages
        for found in re.findall(r"\(?runbooks\.md#([\w-]+)", page.read_text())
    }
    assert {anchor(section) for section in SECTIONS} <= linked
