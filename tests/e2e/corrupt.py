"""Damages backups on a host, one at a time, and tries to restore each; a JSON line per case."""

import contextlib
import gzip
import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

NAMES = json.loads(sys.argv[1])
DIRECTORY = Path("/backups/postgres")
FULL, SHOP = DIRECTORY / NAMES["psscript"], DIRECTORY / NAMES["shop"]
MANIFEST = FULL.with_name(FULL.name + ".manifest.json")
GLOBALS = next(DIRECTORY.glob("psscript_globals_*.sql.gz"))
CONTENT = FULL.read_bytes()
REPOSITORY = Path("/backups/pgbackrest")


TAMPERED = (
    b"\\! touch /var/tmp/obeyed",
    b"ALTER ROLE psscript SUPERUSER;",
    b"COPY pg_catalog.pg_class TO PROGRAM 'touch /var/tmp/obeyed';",
    b"DO $$ BEGIN NULL; END $$;",
)


def attempt(name: str, expected: str, *arguments: str, code: int = 1) -> None:
    done = subprocess.run(
        ["/scripts/restore-postgres.sh", *(arguments or (str(FULL),))],
        capture_output=True,
        text=True,
        check=False,
    )
    lines = done.stderr.strip().splitlines() or [""]
    case = {"name": name, "said": lines[-1], "expected": expected}
    print(json.dumps({**case, "code": done.returncode, "refused": code}), flush=True)


@contextlib.contextmanager
def aside(*paths: Path) -> Iterator[None]:
    """The files come back as they were, with their owners."""
    kept = [path.with_name(f".aside-{path.name}") for path in paths]
    for path, copy in zip(paths, kept, strict=True):
        subprocess.run(["cp", "-a", path, copy], check=True)
    try:
        yield
    finally:
        for path, copy in zip(paths, kept, strict=True):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            copy.replace(path)


def write(path: Path, content: bytes) -> None:
    with path.open("r+b") as file:
        file.truncate()
        file.write(content)


def flipped(content: bytes, position: int) -> bytes:
    return content[:position] + bytes([content[position] ^ 4]) + content[position + 1 :]


def positions(count: int, size: int) -> list[int]:
    return [size * number // count for number in range(count)]


def reseal(**changes: Any) -> None:
    """A manifest that fits what is there now, but for `changes`."""
    raw = json.loads(MANIFEST.read_text())
    content = FULL.read_bytes()
    raw |= {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
    write(MANIFEST, json.dumps({**raw, **changes}).encode())


def damaged_files() -> None:
    for position in positions(40, len(CONTENT)):
        with aside(FULL):
            write(FULL, flipped(CONTENT, position))
            attempt(f"flip at {position}", "sha256 differs")
    for size in [0, 1, 10, *positions(16, len(CONTENT))[1:], len(CONTENT) - 1]:
        with aside(FULL):
            write(FULL, CONTENT[:size])
            attempt(f"cut to {size}", "bytes, not")
    with aside(FULL):
        write(FULL, CONTENT + b"more")
        attempt("something appended", "bytes, not")
    with aside(FULL):
        write(FULL, SHOP.read_bytes())
        attempt("another database's file under this name", "bytes, not|sha256 differs")
    with aside(FULL):
        FULL.unlink()
        FULL.mkdir()
        attempt("a directory in its place", "file is missing|sha256|bytes")


def damaged_before_the_checksum() -> None:
    """Damage that the manifest agrees with: found by reading the content."""
    for position in positions(6, len(CONTENT))[1:]:
        with aside(FULL, MANIFEST):
            write(FULL, flipped(CONTENT, position))
            reseal()
            attempt(f"resealed flip at {position}", "does not unpack|not end as a whole|pg_dump")
    for size in [10, *positions(4, len(CONTENT))[1:], len(CONTENT) - 1]:
        with aside(FULL, MANIFEST):
            write(FULL, CONTENT[:size])
            reseal()
            attempt(f"resealed cut to {size}", "does not unpack")
    plain = gzip.decompress(CONTENT)
    for size in (0, *positions(4, len(plain))[1:], len(plain) - 60):
        with aside(FULL, MANIFEST):
            write(FULL, gzip.compress(plain[:size]))
            reseal()
            attempt(f"dump that ends after {size}", "does not end as a whole dump|the dump ends")
    with aside(FULL, MANIFEST):
        write(FULL, gzip.compress(plain.replace(b"CREATE TABLE", b"CREATE TABEL")))
        reseal()
        attempt("SQL that is none", "syntax error")
    with aside(FULL, MANIFEST):
        lines = plain.splitlines(keepends=True)
        row = next(n for n, line in enumerate(lines) if line.startswith(b"COPY public.orders"))
        write(FULL, gzip.compress(b"".join(lines[: row + 1] + lines[row + 2 :])))
        reseal()
        attempt("a row that is gone", "19999 rows, and the backup has 20000")
    for words in TAMPERED:
        with aside(FULL, MANIFEST):
            after = b"SET row_security = off;\n"
            write(FULL, gzip.compress(plain.replace(after, after + words + b"\n")))
            reseal()
            attempt(f"dump with {words.decode()}", "not what pg_dump wrote|pg_dump does not write")


def manifests() -> None:
    raw = json.loads(MANIFEST.read_text())
    for name, content in {
        "empty": b"",
        "garbage": b"\x00\xff" * 200,
        "another JSON": b"[1, 2]",
        "half": MANIFEST.read_bytes()[: MANIFEST.stat().st_size // 2],
        "of another version": json.dumps({**raw, "version": 99}).encode(),
        "of another kind": json.dumps({**raw, "kind": "redis"}).encode(),
        "of another name": json.dumps({**raw, "name": SHOP.name}).encode(),
        "of an unknown kind": json.dumps({**raw, "kind": "x"}).encode(),
    }.items():
        with aside(MANIFEST):
            write(MANIFEST, content)
            attempt(f"manifest: {name}", "manifest|of kind|kind or version|belongs to")
    with aside(MANIFEST):
        reseal(of="elsewhere")
        attempt("of a foreign database", "not of this estate")
    with aside(MANIFEST):
        reseal(sha256="0" * 64)
        attempt("another sha256", "sha256 differs")
    with aside(MANIFEST):
        facts = {**raw["facts"], "rows": {"public.orders": 1}}
        reseal(facts=facts)
        attempt("other row counts", "20000 rows, and the backup has 1")
    with aside(MANIFEST):
        MANIFEST.unlink()
        attempt("no manifest", "has no manifest")
    with aside(MANIFEST):
        write(MANIFEST, SHOP.with_name(SHOP.name + ".manifest.json").read_bytes())
        attempt("swapped manifests", "belongs to")


def names() -> None:
    attempt("globals are no database", "is of kind globals", str(GLOBALS))
    attempt("no such file", "no such file", str(DIRECTORY / "psscript_full_19700101_000000.sql.gz"))
    shutil.copy(FULL, "/var/tmp")
    attempt("elsewhere", "is not in", f"/var/tmp/{FULL.name}")
    latest = DIRECTORY / "psscript_full_LATEST.sql.gz"
    for name, leads, expected in [
        ("LATEST that dangles", "psscript_full_19700101_000000.sql.gz", "which is not there"),
        ("LATEST to globals", GLOBALS.name, "another kind of thing"),
        ("LATEST to another database", SHOP.name, "another kind of thing"),
        ("LATEST to elsewhere", f"/var/tmp/{FULL.name}", "another kind of thing"),
    ]:
        was = latest.readlink()
        latest.unlink()
        latest.symlink_to(leads)
        attempt(name, expected, str(latest))
        latest.unlink()
        latest.symlink_to(was)
    other = latest.with_name(latest.name + ".gpg")
    other.symlink_to(FULL.name)
    attempt("two LATEST", "ambiguous", str(latest))
    other.unlink()
    attempt("unknown incremental", "no incremental backup", "--incremental", "psscript_x")
    attempt("before every backup", "no backup ended before", "--time", "2020-01-01T00:00:00+00:00")
    attempt("in the future", "in the future", "--time", "2100-01-01T00:00:00+00:00", code=2)
    attempt("no moment", "not a moment", "--time", "yesterday", code=2)
    attempt("no zone", "no zone", "--time", "2026-01-01T00:00:00", code=2)
    attempt("no table", "has no table", str(FULL), "--table", "public.nothing")
    attempt("no database", "unknown database", "--incremental", NAMES["incremental"],
            "--database", "elsewhere", code=2)  # fmt: skip


def the_repository() -> None:
    facts = json.loads((DIRECTORY / f"{NAMES['incremental']}.manifest.json").read_text())["facts"]
    point = ("--incremental", NAMES["incremental"], "--database", "psscript")
    backup = REPOSITORY / "backup/psscript" / facts["label"]
    archive = REPOSITORY / "archive/psscript"
    (last,) = archive.rglob(f"{facts['wal']}-*")
    (first,) = archive.rglob(f"{facts['wal_start']}-*")
    for path, what in ((last, "last"), (first, "first")):
        with aside(path):
            path.unlink()
            attempt(f"{what} WAL segment missing", "WAL segment .* is missing", *point)
        with aside(path):
            content = path.read_bytes()
            # Most of a segment may be padding, where damage harms nobody. Of the first one the
            # backup has a copy of its own.
            write(path, content[:100] + bytes(len(content) - 100))
            if path is last:
                attempt("last WAL segment damaged", "scratch server|exited|recovery", *point)
    with aside(backup):
        shutil.rmtree(backup)
        backup.mkdir()
        attempt("physical backup emptied", "pgbackrest|not in the repository", *point)
    with aside(backup / "backup.manifest", backup / "backup.manifest.copy"):
        for name in ("backup.manifest", "backup.manifest.copy"):
            write(backup / name, flipped((backup / name).read_bytes(), 5000))
        attempt("physical manifest damaged", "pgbackrest", *point)
    largest = sorted((p for p in (backup / "pg_data").rglob("*") if p.is_file()),
                     key=lambda p: p.stat().st_size)[-3:]  # fmt: skip
    for path in largest:
        with aside(path):
            content = path.read_bytes()
            # A single bit may be one that zstd does not use.
            half = len(content) // 2
            write(path, content[:half] + bytes(byte ^ 0xFF for byte in content[half:]))
            attempt(f"{path.name} damaged", "pgbackrest", *point)
        with aside(path):
            path.unlink()
            attempt(f"{path.name} missing", "pgbackrest", *point)
    infos = [REPOSITORY / "backup/psscript" / name for name in ("backup.info", "backup.info.copy")]
    with aside(*infos):
        for path in infos:
            write(path, b"garbage\n")
        attempt("backup.info damaged", "pgbackrest|repository", *point)


damaged_files()
damaged_before_the_checksum()
manifests()
names()
the_repository()
