"""What an error says, for messages of one line."""

from __future__ import annotations


def first_line(error: BaseException) -> str:
    """The first line of what `error` says, or its type where it says nothing."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
