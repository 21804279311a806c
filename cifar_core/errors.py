"""Errors that the user can mend, and how an error is quoted in one line."""

from __future__ import annotations


class UserError(Exception):
    """An error that the user can mend; the message is one line."""


class OutOfMemory(UserError):
    """A batch that did not fit into the memory of its device."""


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, or its type if it has none."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
