"""What holds for every Markdown page."""

from __future__ import annotations

import itertools
import re


def tables_are_even(markdown: str) -> None:
    """Every row of a table has as many cells as the one above it."""
    for above, below in itertools.pairwise(markdown.splitlines()):
        if above.startswith("|") and below.startswith("|"):
            assert _bars(below) == _bars(above), below


def _bars(row: str) -> int:
    return len(re.findall(r"(?<!\\)\|", row))
