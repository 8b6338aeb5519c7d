"""What servers answer is shown, never obeyed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from backup.config import S3
from backup.text import LIMIT, shown
from tasks.core import remote
from tasks.health import Check, Row, table
from tests.unit.backup import builders
from tests.unit.helpers import estate, local, node


@pytest.mark.parametrize(
    ("answer", "line"),
    [
        ("master, 2 replicas", "master, 2 replicas"),
        ("Grüße an Wörter", "Grüße an Wörter"),
        ("\x1b[2Jgone", "\\x1b[2Jgone"),
        ("one\ntwo\r", "one\\ntwo\\r"),
        ("\x9b31m", "\\x9b31m"),
        ("a\u202eb", "a\\u202eb"),
        ("\udcff", "\\udcff"),
        ("x" * 5000, "x" * LIMIT + "..."),
    ],
)
def test_what_is_not_printable_is_escaped(answer: str, line: str) -> None:
    assert shown(answer) == line


def test_bytes_that_are_no_text_end_nothing(tmp_path: Path) -> None:
    """As a server may answer them; pyinfra reads what a host prints as UTF-8."""
    output = remote.run(local(tmp_path), r"printf 'a\377b\nnext\n'; printf '\200\n' >&2")
    assert (output.stdout, output.stderr) == (["a\\xffb", "next"], ["\\x80"])


def test_markup_in_an_answer_is_text(tmp_path: Path) -> None:
    """The table is printed whatever a server says."""
    everything = estate({"one": {"address": "10.0.0.1"}}, {"redis": ["one"]}, tmp_path)
    check = Check("redis-6379", node(everything, "one"), "[::1]:6379", "", "", 0)
    answers = ["replica of [/x]:6379", "[red]alarm[/]", "[link=http://x]y"]
    console = Console(width=130, file=(tmp_path / "table").open("w"))
    console.print(table([Row(check, False, answer) for answer in answers]))
    console.file.close()
    printed = (tmp_path / "table").read_text()
    assert all(answer in printed for answer in (*answers, "[::1]:6379"))


def test_what_a_program_said_is_cut_before_the_backup_program_filters_it(tmp_path: Path) -> None:
    """So the beginning of a secret counts as the secret, and so does each quoted form."""
    config = builders.config(tmp_path)
    s3 = S3("b", "r", "", "", "access", secret_key='it\'s "20 characters"')
    cut = replace(config, s3=s3)
    for said in ("ERROR: it's \"20 chara", "it''s \"20 characters\"", 'it\'s \\"20 characters\\"'):
        assert "chara" not in cut.hidden(said)
    assert cut.hidden("SCRAM-SHA-256$4096:c2FsdA==$a:b=") == "<secret>"
