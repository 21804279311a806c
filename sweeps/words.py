"""Numbers, times and lists of names in words, and numbers that users write."""

from __future__ import annotations

import re
from collections.abc import Sequence

from cifar_core.errors import suggest_name
from cifar_core.recipe import Recipe

_MOST_NAMES = 10


def to_number(text: str, kind: type[int] | type[float] = float) -> float:
    """Return the number that a user wrote. Python itself takes `1_000` as well, and digits of other scripts.

    Raises:
        ValueError: it is none.
    """
    if "_" in text or not text.isascii():
        raise ValueError(f"no number: {text!r}")
    return kind(text)


def percent(share: float, decimals: int = 1) -> str:
    """Return `62.4 %` for a share in [0, 1]."""
    return f"{100 * share:.{decimals}f} %"


def rounded(number: float, figures: int = 3) -> str:
    """Return a number with `figures` significant digits, without an exponent from 1 up: `1,230`, `12.3` or `0.412`."""
    text = f"{number:.{figures}g}"
    return f"{float(text):,.0f}" if abs(float(text)) >= 10 ** (figures - 1) else text


def counted(number: int, noun: str) -> str:
    """Return `1 run`, `1,200 runs` or `3 entries`."""
    many = f"{noun[:-1]}ies" if noun.endswith("ry") else f"{noun}s"
    return f"{number:,} {noun if number == 1 else many}"


def with_tta(accuracy: float | None) -> str:
    """Return ` (94.02 % with test-time augmentation)`, or nothing without an accuracy."""
    return "" if accuracy is None else f" ({percent(accuracy, 2)} with test-time augmentation)"


def best_trial(accuracy: float, trial: int, model: str) -> str:
    """Return `62.4 % validation accuracy, trial 12, fast_resnet`."""
    return f"{percent(accuracy)} validation accuracy, trial {trial}, {model}"


def narrowed(narrow: Recipe, recipe: Recipe) -> str:
    """Return what `narrow` has less of than `recipe`: `width 0.5`, `batch size 64` or `width 0.5 and batch size 64`."""
    width = [f"width {narrow.width:g}"] if narrow.width != recipe.width else []
    batch = [f"batch size {narrow.batch_size}"] if narrow.batch_size != recipe.batch_size else []
    return " and ".join(width + batch)


def escape_markdown(text: str) -> str:
    r"""Return Markdown that shows the text as it is. In a cell of a table a bar must be escaped as well.

    >>> escape_markdown("![a](b) fast_resnet _x_ <b> p < 0.05")
    '!\\[a\\](b) fast_resnet \\_x\\_ &lt;b> p < 0.05'
    """
    special = re.sub(r"[\\`*\[\]]|(?<![^\W_])_|_(?![^\W_])", r"\\\g<0>", text)  # no underscore inside a word
    return re.sub(r"<(?=[a-zA-Z/!?])", "&lt;", special)


def clock_time(seconds: float) -> str:
    """Return `47s`, `3m12s`, `2h05m` or `4d03h`."""
    whole = max(0, int(seconds))
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02}s"
    if whole < 100 * 3600:
        return f"{whole // 3600}h{whole % 3600 // 60:02}m"
    return f"{whole // 86_400}d{whole % 86_400 // 3600:02}h"


def about(seconds: float) -> str:
    """Return `less than 1 min`, `about 12 min`, `about 2 h 05 min`, `about 3 days` or `about 102 years`."""
    minutes, days = round(seconds / 60), round(seconds / 86_400)
    if minutes < 1:
        return "less than 1 min"
    if minutes < 100:
        return f"about {minutes} min"
    if minutes < 48 * 60:
        return f"about {minutes // 60} h {minutes % 60:02} min"
    if days < 730:
        return f"about {days} days"
    return f"about {days / 365.25:,.0f} years"


def waiting_workers(workers: int) -> str:
    """Return `3 workers wait for resources`."""
    return "1 worker waits for resources" if workers == 1 else f"{workers} workers wait for resources"


def did_you_mean(name: str, known: Sequence[str]) -> str:
    """Return the end of a message about an unknown name: the known name nearest to it, or those that are known."""
    return f"; {suggest_name(name, known, f'known: {shortened(known)}' if known else 'known: none')}"


def shortened(items: Sequence[str], separator: str = ", ") -> str:
    """Join the first ten items, and count the others."""
    more = [f"and {len(items) - _MOST_NAMES} more"] if len(items) > _MOST_NAMES else []
    return separator.join([*items[:_MOST_NAMES], *more])
