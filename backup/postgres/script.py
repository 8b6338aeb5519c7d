"""Reads what pg_dump writes as plain SQL: statements, their entries, and rows; it runs nothing."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from backup.job import Failed

_CHUNK = 1 << 20
# Bytes; a statement that is larger was not written by pg_dump (a large object comes in pieces).
_LARGEST = 1 << 28

# The lexical rules of PostgreSQL under standard_conforming_strings, which is required below.
_TOKEN = re.compile(
    rb"""
    (?P<space>\s+)
  | (?P<comment>--[^\n]*(?:\n|\Z))
  | (?P<string>[eE]'[^'\\]*(?:(?:''|\\.)[^'\\]*)*'|'[^']*(?:''[^']*)*')
  | (?P<name>"[^"]*(?:""[^"]*)*")
  | (?P<dollar>\$(?:[A-Za-z_\x80-\xff][A-Za-z0-9_\x80-\xff]*)?\$)
  | (?P<word>[A-Za-z_\x80-\xff][A-Za-z0-9_$\x80-\xff]*)
  | (?P<number>[0-9]+(?:\.[0-9]+)?)
  | (?P<open>/\*|['"])
  | (?P<meta>\\[^\n]*)
  | (?P<sign>.)
    """,
    re.VERBOSE | re.DOTALL,
)
_RESTRICT = re.compile(rb"\\(un)?restrict \w+\s*")
_NESTED = re.compile(rb"/\*|\*/")
_HEADER = re.compile(
    r"-- (?:Data for )?Name: (?P<name>.*); Type: (?P<type>[A-Z ]+); Schema: (?P<schema>.*)"
    r"; Owner: (?P<owner>.*?)(?:; Tablespace: .*)?\s*"
)
# Their bytes can hold a quote or backslash within a character, which no server stores as such.
_CLIENT_ONLY = ("SJIS", "SHIFT_JIS_2004", "BIG5", "GBK", "UHC", "GB18030", "JOHAB")
# Those that Python reads too, of those that a server can have.
_OTHER_ENCODINGS = re.compile(r"LATIN\d+|ISO_8859_\d|WIN\d+|KOI8[RU]|EUC_(CN|JP|KR|JIS_2004)")


class Stream(Protocol):
    """What is read."""

    def read(self, size: int, /) -> bytes:
        """The next bytes; none at the end."""


@dataclass(frozen=True)
class Header:
    """What pg_dump says of an entry in the comment before it; '-' where there is none."""

    name: str
    type: str
    schema: str
    owner: str

    def __str__(self) -> str:
        return f"{self.type.lower()} {'' if self.schema == '-' else f'{self.schema}.'}{self.name}"


_NO_HEADER = Header("-", "-", "-", "-")


@dataclass(frozen=True)
class Statement:
    """A statement without its semicolon; `tokens` are its words, names and signs, keywords upper.

    A quoted name keeps its quotes, a string is `'`: neither is ever taken for a keyword.
    """

    header: Header
    text: bytes
    tokens: tuple[str, ...]

    @property
    def copies(self) -> bool:
        """Whether rows follow."""
        return self.tokens[0] == "COPY"

    def starts(self, *words: str) -> bool:
        """Whether it begins with these words."""
        return self.tokens[: len(words)] == words

    def name_after(self, word: str) -> str:
        """The qualified name that follows a word, as SQL."""
        return "".join(self._parts_at(self.tokens.index(word) + 1))

    def schema_after(self, word: str) -> str:
        """The schema in the qualified name that follows a word, as SQL."""
        return self._parts_at(self.tokens.index(word) + 1)[0]

    def names_in(self, at: int) -> list[str]:
        """The qualified names in the parentheses after a token."""
        end = self.tokens.index(")", at)
        starts = [n + 1 for n in range(at, end) if self.tokens[n] in ("(", ",")]
        return ["".join(self._parts_at(start)) for start in starts]

    def _parts_at(self, at: int) -> list[str]:
        parts: list[str] = []
        for token in self.tokens[at:]:
            if parts and (token == ".") == (parts[-1] == "."):
                break
            is_keyword = token.isascii() and not token.startswith('"')
            parts.append(token.lower() if is_keyword else token)
        return parts

    @property
    def top(self) -> tuple[str, ...]:
        """The tokens outside of parentheses."""
        found, depth = [], 0
        for token in self.tokens:
            depth -= token == ")"
            if not depth and token != ")":
                found.append(token)
            depth += token == "("
        return tuple(found)


class _Cut(Exception):
    """What is in the buffer ends too early."""


class Script:
    """A stream of plain SQL, statement by statement; rows are read with `rows`."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._buffer = b""
        self._position = 0
        self._ended = False
        self._copying = False
        self._header = _NO_HEADER
        self._encoding = "utf-8"

    def __iter__(self) -> Iterator[Statement]:
        """Every statement.

        Raises:
            Failed: something is there that pg_dump does not write.
        """
        while statement := self._statement():
            yield statement
            if statement.copies:
                # Rows that the caller did not want are skipped.
                for _ in self.rows():
                    pass

    def rows(self) -> Iterator[bytes]:
        """The rows after COPY as they stand, in pieces; nothing if they were read already."""
        if not self._copying:
            return
        self._copying = False
        end, keep = b"\n\\.\n", 3
        # The line break that ends COPY's own line has been read, but may be the end's.
        while (found := self._buffer.find(end, self._position - 1)) < 0:
            upto = max(len(self._buffer) - keep, self._position)
            if upto > self._position:
                yield self._buffer[self._position : upto]
                self._position = upto
            if self._ended:
                raise Failed(f"{self._header}: the dump ends among its rows")
            self._fill()
        if found >= self._position:
            yield self._buffer[self._position : found + 1]
        self._position = found + len(end)

    def _fill(self) -> None:
        """Reads more, and forgets what is done with but for its last byte."""
        done = max(self._position - 1, 0)
        left = self._buffer[done:]
        if len(left) > _LARGEST:
            raise Failed(f"{self._header}: a statement of more than {_LARGEST >> 20} MB")
        # As much as is there: what is read again from its beginning stays cheap.
        chunk = self._stream.read(max(_CHUNK, len(left)))
        self._ended = not chunk
        self._buffer, self._position = left + chunk, self._position - done

    def _statement(self) -> Statement | None:
        while True:
            try:
                return self._scan()
            except _Cut:
                if self._ended:
                    raise Failed(f"{self._header}: the dump ends within it") from None
                self._fill()

    def _scan(self) -> Statement | None:
        """The next statement; None at the end."""
        tokens: list[str] = []
        at, open_ = self._position, 0
        while at < len(self._buffer):
            kind, end = self._token(at)
            text = self._buffer[at:end]
            if kind == "meta" and (tokens or not _RESTRICT.fullmatch(text)):
                raise Failed(_refusal(text))
            if text == b";" and tokens and open_ <= 0:
                statement = Statement(
                    self._header, self._buffer[self._position : at], tuple(tokens)
                )
                self._position = self._after(end) if statement.copies else end
                self._copying = statement.copies
                if statement.starts("SET", "CLIENT_ENCODING"):
                    self._encoding = _codec(statement.text)
                return statement
            if kind not in ("space", "comment", "meta"):
                tokens.append(_shown(kind, text.decode(self._encoding, "replace")))
                open_ += _opens(tokens, open_)
            elif not tokens:
                self._between(text)
                self._position = end
            at = end
        if tokens or not self._ended:
            raise _Cut
        return None

    def _token(self, at: int) -> tuple[str, int]:
        """The kind and the end of the token that begins there."""
        match = _TOKEN.match(self._buffer, at)
        assert match is not None
        kind, end = str(match.lastgroup), match.end()
        if match["open"] == b"/*":
            kind, end = "comment", self._comment_end(end)
        elif match["dollar"]:
            kind, end = "string", self._buffer.find(match["dollar"], end)
            end = end + len(match["dollar"]) if end >= 0 else -1
        elif match["open"]:
            end = -1
        # What looks like its end may go on behind what has been read.
        if end < 0 or (end == len(self._buffer) and not self._ended):
            raise _Cut
        return kind, end

    def _comment_end(self, at: int) -> int:
        depth = 1
        while depth:
            match = _NESTED.search(self._buffer, at)
            if match is None:
                return -1
            depth, at = depth + (1 if match[0] == b"/*" else -1), match.end()
        return at

    def _between(self, text: bytes) -> None:
        """What stands between statements: a comment says what follows."""
        if found := _HEADER.fullmatch(text.decode(self._encoding, "replace")):
            self._header = Header(found["name"], found["type"], found["schema"], found["owner"])

    def _after(self, at: int) -> int:
        """Where the rows begin: after the line of their COPY."""
        if (found := self._buffer.find(b"\n", at)) < 0:
            raise _Cut
        return found + 1


def _opens(tokens: list[str], depth: int) -> int:
    """Whether the last token opens or closes a group, within which a semicolon ends nothing."""
    last = tokens[-1]
    if last in ("(", ")"):
        return 1 if last == "(" else -1
    # The body of a function in standard SQL, and what has an END within; `begin` is a name too.
    if tokens[-2:] == ["BEGIN", "ATOMIC"]:
        return 1 if not depth and {"FUNCTION", "PROCEDURE"} & {*tokens[1:4]} else 0
    if last in ("CASE", "END") and depth and "ATOMIC" in tokens:
        return 1 if last == "CASE" else -1
    return 0


def _shown(kind: str, text: str) -> str:
    if kind == "string":
        return "'"
    return text.upper() if kind == "word" and text.isascii() else text


def _codec(setting: bytes) -> str:
    """Python's name of the encoding that a dump is in."""
    name = setting.decode(errors="replace").partition("'")[2].rstrip("' ")
    if not _OTHER_ENCODINGS.fullmatch(name):
        return "utf-8"
    return name.replace("WIN", "cp").replace("KOI8", "koi8_")


def _refusal(command: bytes) -> str:
    shown = command.split()[0][:20].decode(errors="replace")
    return f"the dump has a psql command ({shown}): it is not what pg_dump wrote"


# --- What pg_dump writes -------------------------------------------------------------------------

_FIRST = {
    *("CREATE", "ALTER", "COMMENT", "GRANT", "REVOKE", "SET", "RESET", "SELECT", "COPY"),
    *("SECURITY", "REFRESH", "BEGIN", "COMMIT"),
}
# Roles and the server itself are not a database's.
_FOREIGN = {"ROLE", "USER", "GROUP", "SYSTEM", "DATABASE", "TABLESPACE"}
SETTINGS = {
    *("STATEMENT_TIMEOUT", "LOCK_TIMEOUT", "IDLE_IN_TRANSACTION_SESSION_TIMEOUT"),
    *("TRANSACTION_TIMEOUT", "CLIENT_ENCODING", "STANDARD_CONFORMING_STRINGS", "XMLOPTION"),
    *("CHECK_FUNCTION_BODIES", "CLIENT_MIN_MESSAGES", "ROW_SECURITY", "DEFAULT_TABLESPACE"),
    *("DEFAULT_TABLE_ACCESS_METHOD", "DEFAULT_WITH_OIDS"),
}
_SELECTS = re.compile(
    rb"SELECT pg_catalog\.(set_config\('search_path', '', false\)|"
    rb"(setval|lo_create|lo_open|lowrite|lo_close)"
    rb"\(('[^'\\]*'|'\\\\?x[0-9a-fA-F]*'|-?\d+|true|false|,|\s)*\))"
)


def require_known(statement: Statement) -> None:
    """Asserts that it is of a kind that pg_dump writes, whatever it does.

    Raises:
        Failed: it is not; the message shows its first words.
    """
    if not _is_known(statement):
        shown = " ".join(token for token in statement.tokens[:3] if token != "'")
        raise Failed(f"the dump has a statement that pg_dump does not write: {shown}")


def _is_known(statement: Statement) -> bool:
    tokens, first = statement.tokens, statement.tokens[0]
    second = tokens[1] if len(tokens) > 1 else ""
    if first not in _FIRST:
        return False
    if first in ("CREATE", "ALTER"):
        return second not in _FOREIGN or tokens[1:3] == ("USER", "MAPPING")
    if first in ("GRANT", "REVOKE"):
        return "ON" in statement.top and statement.header.type == "ACL"
    if first == "COPY":
        return statement.top[-2:] == ("FROM", "STDIN")
    if first == "SELECT":
        return _SELECTS.fullmatch(statement.text.strip()) is not None
    if first == "SET":
        return _is_known_setting(statement)
    if first == "RESET":
        return tokens == ("RESET", "SESSION", "AUTHORIZATION")
    return first not in ("BEGIN", "COMMIT") or statement.header.type.startswith("BLOB")


def _is_known_setting(statement: Statement) -> bool:
    tokens = statement.tokens
    if tokens[:3] == ("SET", "SESSION", "AUTHORIZATION"):
        return statement.header.type == "ACL" and len(tokens) == 4
    if tokens[1] == "STANDARD_CONFORMING_STRINGS":
        return tokens[3:] == ("ON",)
    if tokens[1] == "CLIENT_ENCODING":
        return not any(name in statement.text.decode(errors="replace") for name in _CLIENT_ONLY)
    return tokens[1] in SETTINGS and len(tokens) == 4
