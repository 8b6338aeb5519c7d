"""Reads a stream before it is asked for: a file is unpacked while the server takes its rows."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from queue import Empty, Queue
from threading import Event, Thread

from backup.postgres.script import Stream

_CHUNK = 1 << 20
_CHUNKS = 8

_Chunks = Queue[bytes | Exception]


@contextlib.contextmanager
def ahead(stream: Stream) -> Iterator[Stream]:
    """The same bytes, and where reading fails the same error after those before it.

    Args:
        stream: one whose reads end by themselves: the last one is waited for at the end.
    """
    chunks, stopped = _Chunks(_CHUNKS), Event()
    thread = Thread(target=_fill, args=(stream, chunks, stopped), daemon=True)
    thread.start()
    try:
        yield _Ahead(chunks)
    finally:
        stopped.set()
        while thread.is_alive():
            with contextlib.suppress(Empty):
                chunks.get(timeout=0.1)


def _fill(stream: Stream, chunks: _Chunks, stopped: Event) -> None:
    chunk: bytes | Exception = b"begin"
    while chunk and isinstance(chunk, bytes) and not stopped.is_set():
        try:
            chunk = stream.read(_CHUNK)
        except Exception as error:
            chunk = error
        chunks.put(chunk)


class _Ahead:
    def __init__(self, chunks: _Chunks) -> None:
        self._chunks = chunks
        self._ended = False

    def read(self, size: int, /) -> bytes:
        """As many bytes as were asked for, and up to a chunk more; none at the end."""
        parts: list[bytes] = []
        while size > 0 and not self._ended:
            chunk = self._chunks.get()
            self._ended = not chunk or isinstance(chunk, Exception)
            if isinstance(chunk, Exception):
                raise chunk
            parts.append(chunk)
            size -= len(chunk)
        return b"".join(parts)
