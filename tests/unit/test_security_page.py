"""docs/security.md names what protects, and the test that proves it."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs/security.md").read_text()
_NAME = r"`([a-z]+)`"


def test_every_cell_says_what_protects() -> None:
    actors = re.findall(r"^\| (?:a|an|the) .*$", PAGE, re.MULTILINE)
    cells = [cell.strip() for row in actors for cell in row.split("|")[2:-1]]
    explained = re.findall(rf"^\| {_NAME} \|", PAGE, re.MULTILINE)
    assert len(cells) == 4 * len(actors) >= 4 * 7
    assert all(cell == "not protected" or re.findall(_NAME, cell) for cell in cells)
    assert {name for cell in cells for name in re.findall(_NAME, cell)} == {*explained}
    assert len(explained) == len({*explained})


def test_every_proof_is_a_test() -> None:
    proofs = re.findall(r"\[(test_\w+)\]\(\.\./(tests/[\w/.]+)\)", PAGE)
    assert len(proofs) > 30
    missing = [name for name, path in proofs if f"def {name}(" not in (ROOT / path).read_text()]
    assert missing == []


def test_every_mechanism_has_a_proof() -> None:
    lines = [line for line in PAGE.splitlines() if re.match(rf"\| {_NAME} \|", line)]
    assert [line for line in lines if "[test_" not in line] == []
    assert lines
