"""The commands of a document, as a reader would copy them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.e2e.documented import Command, commands

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
