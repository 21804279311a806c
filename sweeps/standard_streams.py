"""Standard output and error that never end a command: they may be closed, lose their reader or lack a character."""

from __future__ import annotations

import errno
import io
import os
import sys
from typing import IO, Any

_READER_GONE = (errno.EPIPE, errno.EIO)  # a pipe without a reader, a terminal that was closed


def protect_streams() -> None:
    """Make the standard streams of this process safe to write to. Call it once, before anything is printed."""
    for number, stream in enumerate((sys.stdin, sys.stdout, sys.stderr)):
        if stream is None:
            _reserve(number)
    sys.stdout, sys.stderr = _protected(sys.stdout, "replace"), _protected(sys.stderr, "backslashreplace")


def output_lost() -> bool:
    """Return true if standard output could not be written, as to a full disk; one without a reader is not lost."""
    sys.stdout.flush()
    file = getattr(getattr(sys.stdout, "buffer", None), "raw", None)
    return isinstance(file, _Unbreakable) and file.lost


def _reserve(number: int) -> None:
    """Open a closed file descriptor as the null device: else the next file gets its number and what is printed."""
    try:
        os.fstat(number)
    except OSError:
        descriptor = os.open(os.devnull, os.O_RDWR)
        if descriptor != number:
            os.dup2(descriptor, number)
            os.close(descriptor)
        os.set_inheritable(number, True)


def _protected(stream: IO[str] | None, errors: str) -> IO[str]:
    if stream is None:
        return open(os.devnull, "w", encoding="utf-8")
    if not isinstance(stream, io.TextIOWrapper):
        return stream
    return io.TextIOWrapper(
        io.BufferedWriter(_Unbreakable(stream.fileno(), "w", closefd=False)),
        encoding=stream.encoding,
        errors=errors,
        line_buffering=stream.line_buffering,
        write_through=stream.write_through,
    )


class _Unbreakable(io.FileIO):
    """A file descriptor to write to; once a write fails, that one and all later ones are dropped."""

    lost = False  # for another reason than that nobody reads it
    _dropped = False

    def write(self, content: Any, /) -> int:
        if not self._dropped:
            try:
                return super().write(content)
            except OSError as error:
                self._dropped = True
                self.lost = error.errno not in _READER_GONE
                if self.fileno() == 1 and self.lost:
                    print(f"standard output is lost from here on: {error.strerror}", file=sys.stderr)
        return memoryview(content).nbytes
