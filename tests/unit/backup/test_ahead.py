"""What is read ahead is what is there, and nothing is left running."""

from __future__ import annotations

import io
import threading

import pytest

from backup.ahead import ahead
from backup.postgres.script import Stream


def whole(stream: Stream, size: int) -> bytes:
    return b"".join(iter(lambda: stream.read(size), b""))


@pytest.mark.parametrize("size", [1, 1 << 20, 3 << 20])
@pytest.mark.parametrize("length", [0, 1, (1 << 20) - 1, 1 << 20, (9 << 20) + 5])
def test_all_of_it_arrives_in_its_order(length: int, size: int) -> None:
    content = bytes(range(256)) * (length // 256) + b"x" * (length % 256)
    with ahead(io.BytesIO(content)) as stream:
        assert whole(stream, size) == content
        assert stream.read(1) == b""


class Broken(io.BytesIO):
    def read(self, size: int | None = -1, /) -> bytes:
        if not (chunk := super().read(size)):
            raise EOFError("cut short")
        return chunk


def test_a_stream_that_is_cut_short_is_an_error_after_what_was_there() -> None:
    with ahead(Broken(b"rows")) as stream:
        with pytest.raises(EOFError, match="cut short"):
            whole(stream, 1 << 20)
        assert stream.read(1) == b""


def test_a_reader_that_gives_up_leaves_no_thread() -> None:
    before = threading.active_count()
    with pytest.raises(RuntimeError, match="refused"), ahead(io.BytesIO(bytes(64 << 20))) as stream:
        stream.read(1)
        raise RuntimeError("refused")
    assert threading.active_count() == before
