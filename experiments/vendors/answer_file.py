"""The file of answers that `ask_vendor.py` adds to, and beside it what they are of: FILE.service."""

from __future__ import annotations

import contextlib
import csv
import errno
import fcntl
import os
from collections.abc import Iterator
from dataclasses import field
from pathlib import Path
from typing import IO, Self

from pydantic.dataclasses import dataclass as validated

from experiments.vendors.answers import ANSWERED, COLUMNS, NOT_ANSWERED, Answer, parse_answers, write_row
from sweeps.validation import STRICT, InvalidFileError, read_json, write_json

_HEADER = (",".join(COLUMNS) + "\n").encode()


@validated(config=STRICT, frozen=True, slots=True)
class Source:
    """The service that gave the answers of a file, and the images that it was asked about."""

    url: str
    model: str
    reasoning_effort: str
    images: str  # SHA-256 of their data set
    data_set: str = field(compare=False)  # its name

    def parts(self) -> dict[str, str]:
        """Return what it consists of, in words."""
        return {
            "URL": self.url,
            "model": self.model,
            "reasoning effort": self.reasoning_effort or "unset",
            "images": f"{self.data_set} ({self.images[:8]})",
        }


def read_source(answers: Path) -> Source | None:
    """Read what a file of answers is of; None if `ask_vendor.py` did not write it.

    Raises:
        InvalidFileError: the file beside it is damaged.
    """
    path = _beside(answers)
    return read_json(path, Source) if path.exists() else None


class AnswerFile:
    """A CSV file of answers of one source, which this process alone adds to.

    Attributes:
        answered: names of the answered images.
        usd: cost of all tries in US dollars.
        torn: what a crash left of a last row; not in the file any more.
    """

    def __init__(self, path: Path, file: IO[bytes]) -> None:
        self.path, self._file = path, file
        self._file.seek(0)
        content = self._file.read()
        if content and not content.startswith(_HEADER):
            raise InvalidFileError(f"{self.path.name} must begin with {_HEADER.decode().strip()!r}, or not exist")
        last = content[content.rfind(b"\n") + 1 :]
        self.torn = b"" if _is_whole(last) else last
        self._kept = content.removesuffix(self.torn)
        answers = parse_answers(self._kept or _HEADER, path.name)
        self.answered = {answer.image for answer in answers if answer.state != NOT_ANSWERED}
        self.usd = sum(answer.usd or 0.0 for answer in answers)

    @classmethod
    @contextlib.contextmanager
    def open(cls, path: Path, source: Source) -> Iterator[Self]:
        """Context in which the file can be added to; it is created if there is none.

        Raises:
            InvalidFileError: it cannot be written to, another process writes to it, it is no file of answers or one of
                another source, or the file beside it is missing or damaged.
        """
        with contextlib.ExitStack() as stack:
            try:
                file = stack.enter_context(path.open("a+b", buffering=0))
                _lock(file, path)
                answers = cls(path, file)
                if answers.answered:
                    _check_source(path, source)
                answers._resume()
                if not answers.answered:
                    write_json(_beside(path), source)
            except OSError as error:
                raise InvalidFileError(f"--out must be a file that can be written to, but: {error}") from error
            yield answers

    def add(self, answer: Answer) -> None:
        """Add an answer, or nothing.

        Raises:
            OSError: the disk is full, for example.
        """
        self._append(write_row(answer).encode())
        if answer.state != NOT_ANSWERED:
            self.answered.add(answer.image)

    def _append(self, line: bytes) -> None:
        size = self._file.seek(0, os.SEEK_END)
        if self._file.write(line) < len(line):
            self._file.truncate(size)  # a part of a line would spoil those after it
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def _resume(self) -> None:
        """Begin the file, or end its last row, of which a part is dropped."""
        if self.torn:
            self._file.truncate(len(self._kept))
        if not self._kept:
            self._append(_HEADER)
        elif not self._kept.endswith(b"\n"):
            self._append(b"\n")


def _is_whole(row: bytes) -> bool:
    """True if a row lacks its line end alone: the state is the last that is written of it."""
    try:
        [fields] = csv.reader([row.decode()], strict=True)
    except (ValueError, csv.Error):
        return False
    return len(fields) == len(COLUMNS) and fields[-1] in (ANSWERED, NOT_ANSWERED)


def _check_source(path: Path, source: Source) -> None:
    known = read_json(_beside(path), Source)
    if known != source:
        ours, theirs = source.parts(), known.parts()
        differ = [part for part in ours if ours[part] != theirs[part]]
        wanted, has = (", ".join(f"{part} {of[part]}" for part in differ) for of in (ours, theirs))
        raise InvalidFileError(f"--out must be a file of answers with {wanted}, but those of {path} have {has}")


def _lock(file: IO[bytes], path: Path) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise InvalidFileError(f"--out must be a file that no other command writes to, but got {path}") from error
    except OSError:
        pass  # a file system without locks


def _beside(answers: Path) -> Path:
    return answers.with_name(f"{answers.name}.service")
