"""Errors that the user can mend, and how an error is quoted in one line."""

from __future__ import annotations

import difflib
from collections.abc import Sequence


class UserError(Exception):
    """An error that the user can mend; the message is one line."""


class OutOfMemory(UserError):
    """Images or a batch that did not fit into the memory of its device."""


def suggest_name(name: str, known: Sequence[str], otherwise: str) -> str:
    """Return a question with the known name that is nearest to `name`, or `otherwise` if none is near."""
    close = difflib.get_close_matches(name, known, n=1)
    return f"did you mean {close[0]!r}?" if close else otherwise


def first_line(error: object) -> str:
    """Return the first line of an error's message, or its type if it has none; after a colon, the last one too."""
    first, *others = (str(error).strip() or type(error).__name__).splitlines()
    return f"{first} {others[-1].strip()}" if others and first.endswith(":") else first


def cause(error: object) -> str:
    """Return the first line of an error's message; for an `OSError` without the path, which callers add."""
    return (error.strerror if isinstance(error, OSError) else None) or first_line(error)


def printable(text: object) -> str:
    """Return `text` with escapes for characters that break a line or control a terminal."""
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in str(text))
