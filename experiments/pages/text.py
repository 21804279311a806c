"""Sentences with their sources, and numbers as words."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from experiments.stats import Estimate
from sweeps.words import percent, rounded

NOTHING = "\N{EN DASH}"  # in a cell of a table that has no value
MEASURES = "Accuracies are shares of images labelled right; losses are mean nats an image."


@dataclass(frozen=True, slots=True)
class CitedText:
    """A sentence and what it rests on: "run/<run id>" or "source/<key of a published figure>"."""

    text: str
    sources: tuple[str, ...] = ()


def run_sources(*run_ids: str) -> tuple[str, ...]:
    """Runs as sources of a text."""
    return tuple(f"run/{run_id}" for run_id in run_ids if run_id)


def estimate_sources(estimate: Estimate) -> tuple[str, ...]:
    """The runs that an accuracy is the mean of, as sources of a text."""
    return run_sources(*estimate.run_ids)


def fine_percent(share: float) -> str:
    """A measured share, to a hundredth of a percent."""
    return percent(share, 2)


def short_percent(share: float) -> str:
    """A share that somebody stated, with all its digits.

    >>> short_percent(0.7), short_percent(0.725), short_percent(0.70001)
    ('70 %', '72.5 %', '70.001 %')
    """
    return f"{100 * share:.10g} %"


def rough_percent(share: float) -> str:
    """A share to a whole percent; one that is not all is not rounded to all, nor to nothing.

    >>> rough_percent(0.824), rough_percent(0.9999), rough_percent(0.0001), rough_percent(1.0)
    ('82 %', 'over 99 %', 'under 1 %', '100 %')
    """
    if 0.99 < share < 1:
        return "over 99 %"
    return "under 1 %" if 0 < share < 0.01 else percent(share, 0)


def beside_bar(number: float, side: Callable[[float], object], digits: int = 3, kind: str = "g") -> float:
    """A number rounded to so many digits, or to as many as show on which side of a bar it is.

    Args:
        kind: "g" for digits in all, "f" for digits after the point.

    >>> beside_bar(1000.4, lambda ms: ms <= 1000), beside_bar(994.4, lambda ms: ms <= 1000)
    (1000.4, 994.0)
    """
    while side(shown := float(f"{number:.{digits}{kind}}")) != side(number):
        digits += 1
    return shown


def percent_beside(share: float, digits: int, *bars: float) -> str:
    """A share with so many digits after the point, or with as many as show on which side of each bar it is.

    >>> percent_beside(0.9532, 2, 0.95), percent_beside(0.949981, 2, 0.95), percent_beside(0.57, 1, 0.57)
    ('95.32 %', '94.998 %', '57.0 %')
    """
    shown = beside_bar(100 * share, lambda number: _sides(number, [100 * bar for bar in bars]), digits, "f")
    return f"{shown:.{digits}f} %" if shown == round(shown, digits) else f"{shown:.10g} %"


def _sides(number: float, bars: Sequence[float]) -> list[int]:
    """-1, 0 or 1 for a number below, at or above each bar, both in the ten digits that a stated one has."""
    digits = float(f"{number:.10g}")
    return [(digits > bar) - (digits < bar) for bar in (float(f"{bar:.10g}") for bar in bars)]


def points(share: float, digits: int = 2) -> str:
    return f"{100 * share:.{digits}f} points"


def signed(share: float, digits: int = 2) -> str:
    """A difference of shares in points, with its sign.

    >>> signed(0.0036), signed(-0.01), signed(-0.000001)
    ('+0.36', '-1.00', '0.00')
    """
    text = f"{100 * share:+.{digits}f}"
    return text[1:] if float(text) == 0 else text


def probability(p: float) -> str:
    """
    >>> probability(0.0312), probability(1e-9), probability(1.0)
    ('p = 0.031', 'p < 0.001', 'p = 1.000')
    """
    return "p < 0.001" if p < 0.0005 else f"p = {p:.3f}"


def span(estimate: Estimate, digits: int = 2, *bars: float) -> str:
    """The interval of an accuracy; both ends in as many digits as `percent_beside` needs for one of them."""
    ends = [percent_beside(end, digits, *bars) for end in (estimate.low, estimate.high)]
    digits = max(len(end.removesuffix(" %").partition(".")[2]) for end in ends)
    low, high = (percent_beside(end, digits, *bars) for end in (estimate.low, estimate.high))
    return f"{low.removesuffix(' %')} to {high}"


def money(usd: float) -> str:
    """US dollars: cents from one dollar up, two significant digits below.

    >>> money(1003.75), money(0.0338), money(0.000045)
    ('$1,003.75', '$0.034', '$0.000045')
    """
    if usd >= 0.995:
        return f"${usd:,.2f}"
    if usd <= 0:
        return "$0"
    digits = 2
    while round(usd, digits) < 10 ** (1 - digits):
        digits += 1
    return f"${usd:.{digits}f}"


def total(usd: float) -> str:
    """US dollars of a sum that assumptions went into: whole ones from a hundred up.

    >>> total(11744.54), total(59.568), total(0.029)
    ('$11,745', '$59.57', '$0.029')
    """
    return f"${usd:,.0f}" if usd >= 99.995 else money(usd)


def total_difference(one: float, other: float) -> str:
    """The difference of two sums as `total` shows them; "" where they read the same.

    >>> total_difference(13_824.6, 9_825.4), total_difference(99.99, 20.5), total_difference(3346.4, 3345.6)
    ('$4,000', '$79.49', '')
    """
    larger, smaller = (float(total(usd)[1:].replace(",", "")) for usd in (one, other))
    return total(larger - smaller) if larger != smaller else ""


def duration(seconds: float) -> str:
    """
    >>> duration(42), duration(754), duration(9000), duration(0.0042), duration(1.04)
    ('42 s', '12 min 34 s', '2 h 30 min', '4.2 ms', '1.04 s')
    """
    if seconds < 0.9995:
        return f"{1000 * seconds:.3g} ms"
    if seconds < 10:
        return f"{seconds:.3g} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60:02d} min"


def short_duration(ms: float) -> str:
    """Milliseconds that somebody stated, with all their digits.

    >>> short_duration(16), short_duration(1049), short_duration(90_000)
    ('16 ms', '1.049 s', '90 s')
    """
    return f"{ms:.10g} ms" if ms < 1000 else f"{ms / 1000:.10g} s"


def years(count: float) -> str:
    """
    >>> years(1.004), years(3), years(12.5), years(0.5)
    ('1 year', '3 years', '12.5 years', '6 months')
    """
    text = f"{count:.3g}"
    if float(text) < 1:
        return count_months(12 * count)
    return f"{text} {'year' if text == '1' else 'years'}"


def count_months(months: float, *bars: float) -> str:
    """A number of months, in as many digits as show on which side of each bar it is.

    >>> count_months(1), count_months(0.18), count_months(21.64), count_months(21.864, 21.87)
    ('1 month', '0.18 months', '21.6 months', '21.86 months')
    """
    digits, kind = (1, "f") if months >= 1 else (2, "g")
    text = f"{beside_bar(months, lambda number: _sides(number, bars), digits, kind):.10g}"
    return f"{text} {'month' if text == '1' else 'months'}"


def count(number: float) -> str:
    """A large number in three figures.

    >>> count(250_000), count(159_432.1), count(12)
    ('250,000', '159,000', '12')
    """
    return rounded(number, figures=3 if number >= 100 else 2)


def times(number: float) -> str:
    """
    >>> times(1), times(4), times(0.5), times(360)
    ('once', '4 times', '0.5 times', '360 times')
    """
    return "once" if number == 1 else f"{number:.10g} times"


def factor(number: float) -> str:
    """A factor, in as many digits as tell it from 1.

    >>> factor(0.7163), factor(1.074), factor(1.0004), factor(2.51)
    ('0.72', '1.07', '1.0004', '2.5')
    """
    digits = 3 if 1 < number < 2 else 2
    while digits < 12 and number != 1 and float(f"{number:.{digits}g}") == 1:
        digits += 1
    return f"{number:.{digits}g}"


def images_a_month(number: float) -> str:
    """
    >>> images_a_month(1.04), images_a_month(250_000)
    ('1 image a month', '250,000 images a month')
    """
    text = count(number)
    return f"{text} {'image' if text == '1' else 'images'} a month"


def flops(count: float) -> str:
    """
    >>> flops(3.5e14), flops(5.97e12), flops(2e11)
    ('0.35 PFLOP', '5.97 TFLOP', '0.20 TFLOP')
    """
    return f"{count / 1e15:.2f} PFLOP" if count >= 1e14 else f"{count / 1e12:.2f} TFLOP"


def count_word(count: int) -> str:
    words = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
    return words[count] if count < len(words) else str(count)


def article(noun: str) -> str:
    """
    >>> article("Apple"), article("cat")
    ('an Apple', 'a cat')
    """
    return f"{'an' if noun[:1].lower() in 'aeiou' else 'a'} {noun}"


def capital(text: str) -> str:
    """The text with its first letter raised; the others stay as they are."""
    return text[:1].upper() + text[1:]


def listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}" if names else ""
