"""The commands of a document, as a reader would copy them; the lines of a run that it explains."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.documented import Command, commands
from tests.e2e.project import ROOT

DOCUMENT = """\
# Title

Prose with `docker-compose up`.

## Logs and status ##

```bash
# All services
docker-compose logs -f

docker-compose ps   # with their health
```

1. In a list:

   ```bash
   docker-compose exec postgres \\
     psql -c "SELECT 1" \\
     -d psscript
   ```

```ini
# not a heading, and no command
max_client_conn = 500
```

### Longer fences

````bash
# shown in a block
echo '```'
````

```
output
```
"""


def test_commands_in_order_with_their_headings(tmp_path: Path) -> None:
    """Only bash blocks count; comments are no headings and no commands."""
    document = tmp_path / "document.md"
    document.write_text(DOCUMENT)
    assert commands(document) == [
        Command("Logs and status", "docker-compose logs -f"),
        Command("Logs and status", "docker-compose ps   # with their health"),
        Command("Logs and status", 'docker-compose exec postgres psql -c "SELECT 1" -d psscript'),
        Command("Longer fences", "echo '```'"),
    ]


@pytest.mark.parametrize(
    ("text", "follows"),
    [
        ("docker-compose logs -f redis-master", True),
        ("docker-compose logs --tail=100 postgres", False),
        ("docker-compose -f docker-compose.yml logs postgres", False),
        ("docker compose logs --follow", True),
        ("tail -f backups/logs/backup.log", True),
        ("tail -n 5 backups/logs/backup.log", False),
        ("ls -lh backups/logs", False),
    ],
)
def test_commands_that_do_not_end(text: str, follows: bool) -> None:
    """Following is an option of `logs` and `tail`, not of what stands before them."""
    assert Command("", text).follows is follows


# What a script of a run says when it fails: whole lines, and the reasons that end others.
_QUOTED = r"""(?:'[^']*'|"(?:\$\([^)]*\)|[^"])*")"""
_SAID = re.compile(rf"echo ((?:{_QUOTED}[\s\\]*)+)>&2|(?:refuse(?:_to_lead)? |why=)({_QUOTED})")
# What differs from run to run, and what divides a line.
_VARIES = re.compile(r"\$\([^)]*\)|\$?\{+[^}]*\}+|\$\w+|[:;]")


def _plain(text: str) -> str:
    return re.sub(r"[\s\\'\"`]+", " ", text).strip()


def _texts(source: str) -> Iterator[tuple[bool, str]]:
    """The strings of a module, and whether each is the text of an Unreadable; `{}` for values."""
    tree = ast.parse(source)
    formatted = [node for node in ast.walk(tree) if isinstance(node, ast.JoinedStr)]
    parts = {id(part) for node in formatted for part in node.values}
    raised = {
        id(node.args[0])
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("Unreadable")
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            words = (each.value if isinstance(each, ast.Constant) else "{}" for each in node.values)
            yield id(node) in raised, "".join(map(str, words))
        elif isinstance(node, ast.Constant) and id(node) not in parts:
            yield id(node) in raised, str(node.value)


def _failures() -> Iterator[tuple[str, str]]:
    """What a run says when it fails, and where: of each line its longest part that never varies."""
    places = ("templates/compose", "templates/redis", "tasks/*/shell")
    starts = [path for place in places for path in ROOT.glob(f"{place}/*")]
    templates = [(path, [(False, path.read_text())]) for path in starts]
    modules = [(path, [*_texts(path.read_text())]) for path in ROOT.glob("tasks/**/*.py")]
    for path, texts in modules + templates:
        for is_raised, text in texts:
            said = [text] if is_raised else [m[1] or m[2] for m in _SAID.finditer(text)]
            for line in said:
                yield path.name, max(map(_plain, _VARIES.split(line)), key=len)


FAILURES = sorted({(module, failure) for module, failure in _failures() if failure})


def test_failures_are_found() -> None:
    """The others below would pass if nobody said anything any more."""
    assert ("rolling.sh", "runs as master, but Sentinel follows another") in FAILURES
    assert ("rolling.py", "no instance can replace the master") in FAILURES
    assert ("redis-before-start.j2", "that one has to lead") in FAILURES
    assert ("redis-before-start.j2", "was not saved here, and") in FAILURES


@pytest.mark.parametrize(("module", "failure"), FAILURES)
def test_what_a_run_fails_with_is_explained(module: str, failure: str) -> None:
    """README says that docs/trouble.md has the lines with which a run fails."""
    explained = _plain((ROOT / "docs/trouble.md").read_text())
    assert failure in explained, f"docs/trouble.md lacks a line of {module}"


_LINK = re.compile(r"\]\(([^)#\s:]*)(?:#([^)\s]*))?\)")
_TITLE = re.compile(r"^#+ (.*)$", re.MULTILINE)
PAGES = sorted([ROOT / "README.md", *ROOT.glob("docs/*.md")])


def _anchors(page: Path) -> set[str]:
    titles = _TITLE.findall(page.read_text())
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    """To a page that is there, and to a heading of it."""
    for name, anchor in _LINK.findall(page.read_text()):
        target = page.parent / name if name else page
        assert target.exists(), f"no {name}"
        assert not anchor or anchor in _anchors(target), f"no #{anchor} in {name or page.name}"


# People and things have names; `nobody` is a user, and one message asks a person unknown to us.
_NAMELESS = re.compile(
    r"(?<![`\w-])(?<!user )(?<!paused; )\b(nobody|somebody|whoever|everybody|anew|of now)\b(?!`)",
    re.IGNORECASE,
)


@pytest.mark.parametrize(
    "place", ["*.md", "docs/*.md", "tasks/**/*", "backup/**/*", "starter/**/*"]
)
def test_people_and_things_have_names(place: str) -> None:
    paths = [path for path in ROOT.glob(place) if path.suffix in {".md", ".py", ".sh"}]
    texts = {path: path.read_text().splitlines() for path in paths}
    found = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for path, lines in texts.items()
        for number, line in enumerate(lines, 1)
        if _NAMELESS.search(line)
    ]
    assert paths
    assert found == []
