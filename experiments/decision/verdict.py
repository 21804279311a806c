"""The decision: every way to labelled images against every bar, and the rules that decide between them.

A way is known to clear a bar, known to miss it, or unknown. No rule depends on the order of the ways in a scenario.
"""

from __future__ import annotations

import datetime
import enum
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from experiments.decision import commands
from experiments.decision.costs import DAYS_A_MONTH, Option, adapt, adapt_measured, build, buy
from experiments.decision.facts import Facts
from experiments.decision.machines import Cost, Speed, adapting_cost, answer_seconds
from experiments.pages.text import (
    beside_bar,
    count_months,
    duration,
    estimate_sources,
    listed,
    percent_beside,
    run_sources,
    short_duration,
    span,
)
from experiments.reading.published import Accuracy
from experiments.reading.scenario import Download, Vendor, slug
from experiments.stats import TEST_IMAGES, Estimate, wilson
from sweeps.words import counted, percent

RETEST_LOSS = 0.03  # published networks that were tested again fell by up to 2.8 points
CLOSE = 0.10  # two costs that differ by less than this share of the dearer one count as the same


class Standing(enum.Enum):
    """A way against a bar."""

    CLEARS = "clears"
    MISSES = "misses"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Check:
    """A way against one bar.

    Attributes:
        bar: accuracy | latency | horizon | data | price.
        reason: clause that follows the name of the way in a sentence.
        command: command that measures what is unknown.
    """

    bar: str
    standing: Standing
    reason: str
    command: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Way:
    """A way to labelled images.

    Attributes:
        accuracy: accuracy on the test images as measured, or as published (see `published_accuracy`); None if unknown.
        measured: True if the accuracy was measured here.
        same_test: True if the accuracy is on the test images of the bar. One on other images is not held to the bar.
        seconds: time within which 95 % of the answers come; None if unknown.
        sources: sources of the accuracy, or of the cost where no accuracy is known.
        cost: cost of a network that was trained here; None for one of somebody else.
        complete: True if every test image was answered.
    """

    option: Option
    accuracy: Estimate | None
    measured: bool
    seconds: float | None
    checks: tuple[Check, ...]
    sources: tuple[str, ...]
    same_test: bool = True
    cost: Cost | None = None
    complete: bool = True

    @property
    def title(self) -> str:
        return self.option.name

    @property
    def subject(self) -> str:
        """The title at the beginning of a sentence; names of networks and vendors stay as they are."""
        return "Building" if self.option.kind == "build" else self.title

    @property
    def misses(self) -> tuple[Check, ...]:
        return tuple(check for check in self.checks if check.standing is Standing.MISSES)

    @property
    def unknown(self) -> tuple[Check, ...]:
        """The checks that are unknown, of a way that misses no bar."""
        return () if self.misses else tuple(check for check in self.checks if check.standing is Standing.UNKNOWN)

    @property
    def clears(self) -> bool:
        """It is known to clear every bar, and has a price."""
        return all(check.standing is Standing.CLEARS for check in self.checks)

    @property
    def is_close(self) -> bool:
        """True if the measured accuracy is too close to the bar, and nothing else is unknown."""
        return self.measured and self.complete and [check.bar for check in self.unknown] == ["accuracy"]

    @property
    def doubts(self) -> str:
        """The bars that it is not known to clear, such as "accuracy and latency unknown"; "" if it misses one."""
        bars = [check.bar for check in self.unknown]
        close = self.measured and self.complete and "accuracy" in bars
        unknown = [bar for bar in bars if not (close and bar == "accuracy")]
        words = ["accuracy too close to the bar"] * close + [f"{listed(unknown)} unknown"] * bool(unknown)
        return ", ".join(words)

    @property
    def commands(self) -> tuple[str, ...]:
        """The commands that measure what is unknown."""
        return tuple(dict.fromkeys(check.command for check in self.unknown if check.command))


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule of the decision. The first whose condition holds decides."""

    condition: str
    answer: str
    holds: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """The decision.

    Attributes:
        answer: Build | Adapt | Buy | Either | Not yet.
        best: cheapest way that is known to clear every bar.
        contender: cheapest way that may win: it is not known to miss a bar, at least one is unknown, and it is clearly
            cheaper than every way known to clear all bars.
        near: cheapest way of each kind that clears every bar and costs about as much as `best`.
        ways: ways that were compared; those of `verdict_of` have the order of `ways_of`.
    """

    ways: tuple[Way, ...]
    answer: str
    best: Way | None
    contender: Way | None
    near: tuple[Way, ...]
    rules: tuple[Rule, ...]

    @property
    def named(self) -> tuple[Way, ...]:
        """The ways that the answer names; none where nothing clears the bars."""
        return self.near if self.answer == "Either" else tuple(way for way in (self.contender or self.best,) if way)

    @property
    def decided_by(self) -> int:
        """The index of the rule that decides."""
        return next(index for index, rule in enumerate(self.rules) if rule.holds)

    @property
    def headline(self) -> str:
        """The answer with its object, such as "Not yet: measure GPT-6 Luna"."""
        if self.answer == "Not yet":
            if self.contender is None:
                return "Not yet: nothing clears the bars"
            if self.contender.is_close:
                return f"Not yet: {self.contender.title} is too close to the bar"
            untested = self.contender.option.kind == "build" and not self.contender.measured
            return "Not yet: train and test our own" if untested else f"Not yet: measure {self.contender.title}"
        if self.answer == "Adapt":
            way = self.contender or self.best
            assert way is not None
            return f"Adapt {way.title}" if way.clears else f"Adapt and test {way.title}"
        if self.answer == "Buy":
            assert self.best is not None
            return f"Buy {self.best.title}"
        return self.answer


def verdict_of(facts: Facts) -> Verdict:
    """The decision under the scenario."""
    return judge(ways_of(facts), facts.scenario.months)


def judge(ways: Sequence[Way], months: float) -> Verdict:
    """Decide between ways by their costs over so many months."""

    def cost(way: Way) -> tuple[float, str, str]:
        return way.option.total(months), way.option.kind, way.option.name

    def usd(way: Way) -> float:
        return way.option.total(months)

    sure = sorted((way for way in ways if way.clears), key=cost)
    best = sure[0] if sure else None
    contender = min((way for way in ways if way.unknown), key=cost, default=None)
    if contender and best and not usd(best) - usd(contender) > CLOSE * usd(best):
        contender = None
    near: dict[str, Way] = {}
    for way in sure:
        if best and usd(way) - usd(best) <= CLOSE * usd(way):
            near.setdefault(way.option.kind, way)
    kind = best.option.kind if best else ""
    cheapest = "is the cheapest of the ways known to clear every bar"
    rules = (
        Rule("every way is known to miss a bar", "Not yet", best is None and contender is None),
        Rule(
            "the cheapest way that may win is a download",
            "Adapt",
            contender is not None and contender.option.kind == "adapt" and not contender.measured,
        ),
        Rule(
            "the cheapest way that may win is not yet known to clear the bars",
            "Not yet",
            contender is not None,
        ),
        Rule(
            f"ways of several kinds clear every bar and cost the least, within {percent(CLOSE, 0)} of the dearer",
            "Either",
            len(near) > 1,
        ),
        Rule(f"building {cheapest}", "Build", kind == "build"),
        Rule(f"adapting a download {cheapest}", "Adapt", kind == "adapt"),
        Rule(f"buying {cheapest}", "Buy", kind == "buy"),
    )
    answer = next(rule.answer for rule in rules if rule.holds)
    return Verdict(
        ways=tuple(ways), answer=answer, best=best, contender=contender, near=tuple(near.values()), rules=rules
    )


def ways_of(facts: Facts) -> tuple[Way, ...]:
    """All ways: building, the network that was adapted here, then downloads and vendors in the scenario's order."""
    scenario = facts.scenario
    return (
        _building(facts),
        *_adapted(facts),
        *(_adapting(facts, download) for download in scenario.downloads),
        *(_buying(facts, vendor) for vendor in scenario.vendors),
    )


def published_accuracy(figure: Accuracy) -> Estimate:
    """A published accuracy with an interval that reaches as far down as re-tests of such figures fell."""
    low, high = wilson(figure.accuracy, TEST_IMAGES)[0] - RETEST_LOSS, wilson(figure.best, TEST_IMAGES)[1]
    return Estimate(figure.accuracy, max(0.0, low), high, (), TEST_IMAGES)


def _building(facts: Facts) -> Way:
    option = build(facts.cost, facts.scenario)
    study = commands.run_study(facts.study)
    if facts.test is None:
        accuracy, timed = Check("accuracy", Standing.UNKNOWN, "has no test accuracy yet", study), study
    else:
        text = f"has {_measured(facts, facts.test)}"
        accuracy = _against_bar(facts, facts.test, text, commands.run_longer_study(facts.study))
        timed = commands.run_study(facts.study, study=f"{facts.study.name}-again")
    checks = [accuracy, *_in_time(facts, facts.cost, timed)]
    if option.unpriced:
        command = commands.set_price(facts.study) if facts.cost.machine is None else study
        checks.append(Check("price", Standing.UNKNOWN, f"has no price: {option.unpriced}", command))
    return Way(
        option=option,
        accuracy=facts.test,
        measured=facts.test is not None,
        seconds=_seconds(facts, facts.cost),
        checks=tuple(checks),
        sources=estimate_sources(facts.test) if facts.test is not None else run_sources(facts.run_id),
        cost=facts.cost,
    )


def _seconds(facts: Facts, cost: Cost) -> float | None:
    """The time within which 95 % of the answers come, of a network that one serves oneself; None if unknown."""
    if cost.speed is None or cost.speed.bounded:
        return None
    return answer_seconds(cost, facts.scenario.images_per_month)


def _in_time(facts: Facts, cost: Cost, command: str) -> Iterator[Check]:
    """The check against the latency bar, if there is one, of a network that one serves oneself at that cost."""
    bar = facts.scenario.latency_bar_ms
    if bar is None:
        return
    if cost.speed is None:
        yield Check("latency", Standing.UNKNOWN, "has a latency that was not measured", command)
        return
    seconds = answer_seconds(cost, facts.scenario.images_per_month)
    if seconds is None:
        yield _without_wait(bar, cost.speed, command)
    elif cost.speed.bounded:
        # Training bounds the speed; a bound over the bar says nothing.
        kept = seconds * 1000 <= bar
        text = _beside_bar(bar, seconds, "by the speed of its training")
        yield Check("latency", Standing.CLEARS if kept else Standing.UNKNOWN, text, command)
    else:
        yield _against_latency(bar, seconds)


def _without_wait(bar: float, speed: Speed, command: str) -> Check:
    """Against the latency bar where the wait is unknown: an answer that takes too long misses it without one."""
    if speed.worst * 1000 > bar:
        text = _beside_bar(bar, speed.worst, "in 95 % of cases, without the wait for earlier images")
        return Check("latency", Standing.MISSES, text)
    return Check("latency", Standing.UNKNOWN, f"{unknown_wait(speed)}; the bar is {short_duration(bar)}", command)


def unknown_wait(speed: Speed) -> str:
    """Why it is unknown how long images wait for a network of this speed, which was timed unevenly."""
    assert speed.uneven is not None
    median, mean = (duration(s) for s in (speed.uneven.seconds, speed.uneven.mean_seconds))
    return (
        f"has answers that took unequally long when timed ({median} in the middle, {mean} on average), so how long "
        "they wait is unknown"
    )


def _against_latency(bar: float, seconds: float) -> Check:
    text = _beside_bar(bar, seconds, "in 95 % of cases")
    return Check("latency", Standing.CLEARS if seconds * 1000 <= bar else Standing.MISSES, text)


def _beside_bar(bar: float, seconds: float, how: str) -> str:
    """The time of an answer beside the bar in ms, in as many digits as show on which side of it the time is."""
    shown = beside_bar(1000 * seconds, lambda ms: ms <= bar)
    return f"answers within {short_duration(shown)} {how}; the bar is {short_duration(bar)}"


def _adapted(facts: Facts) -> Iterator[Way]:
    """The network that was adapted here, if there is one."""
    adapted = facts.study.adapted
    if adapted is None:
        return
    cost = adapting_cost(facts.cost, adapted, facts.published)
    option = adapt_measured(adapted.title, cost, facts.scenario)
    text = f"has {_measured(facts, adapted.test)}"
    # To adapt it again would give the same network.
    checks = [_against_bar(facts, adapted.test, text, command=""), *_in_time(facts, cost, command="")]
    if option.unpriced:
        priced = commands.set_price(facts.study) if cost.machine is None and adapted.device == facts.cost.device else ""
        checks.append(Check("price", Standing.UNKNOWN, f"has no price: {option.unpriced}", priced))
    yield Way(
        option=option,
        accuracy=adapted.test,
        measured=True,
        seconds=_seconds(facts, cost),
        checks=tuple(checks),
        sources=run_sources(adapted.run_id),
        cost=cost,
    )


def _adapting(facts: Facts, download: Download) -> Way:
    accuracy, check, sources = _published(facts, download.accuracy, command="")
    checks = [check]
    if facts.scenario.latency_bar_ms is not None:
        checks.append(Check("latency", Standing.UNKNOWN, "has a latency that was not measured"))
    checks.append(Check("price", Standing.UNKNOWN, "has no price for its compute, which was not measured"))
    option = adapt(download, facts.cost, facts.scenario)
    return Way(
        option=option,
        accuracy=accuracy,
        measured=False,
        seconds=None,
        checks=tuple(checks),
        sources=sources or option.sources,
        same_test=download.accuracy.same_test,
    )


def _buying(facts: Facts, vendor: Vendor) -> Way:
    scenario, score = facts.scenario, facts.scores.get(slug(vendor.name))
    option = buy(vendor, facts.cost, scenario, facts.as_of)
    command = commands.measure_vendor(facts.study, scenario, vendor, exported=bool(facts.scores))
    accuracy, check, sources = _published(facts, vendor.accuracy, command)
    if score is not None:
        accuracy, sources = score.accuracy, (f"source/{score.key}",)
        text = f"was measured at {_measured(facts, accuracy)}"
        if score.missing:
            text += f", {score.missing:,} of {score.images:,} images unanswered"
        if score.unparsable:
            text += f", {counted(score.unparsable, 'answer')} without one class"
        check = _against_bar(facts, accuracy, text, command if score.missing else "")  # it has answered all others
    checks = [check]
    seconds = score.p95_seconds if score is not None else None
    if seconds is None and vendor.p95_ms is not None:
        seconds = vendor.p95_ms / 1000
    if scenario.latency_bar_ms is not None:
        if seconds is None:
            checks.append(Check("latency", Standing.UNKNOWN, "has no known latency", command))
        else:
            checks.append(_against_latency(scenario.latency_bar_ms, seconds))
    if option.ends < math.inf:
        lasts = option.ends >= scenario.months
        day = facts.as_of + datetime.timedelta(days=round(option.ends * DAYS_A_MONTH))
        text = (
            f"ends its service on {day}, after {count_months(option.ends, scenario.months)} of {scenario.months:.10g}"
        )
        if option.ends == 0:
            text = "has ended its service"
        checks.append(Check("horizon", Standing.CLEARS if lasts else Standing.MISSES, text))
    if scenario.data_stays_in_house:
        checks.append(Check("data", Standing.MISSES, "would see images that may not leave the house"))
    return Way(
        option=option,
        accuracy=accuracy,
        measured=score is not None,
        seconds=seconds,
        checks=tuple(checks),
        sources=sources or option.sources,
        complete=score is None or not score.missing,
        same_test=score is not None or vendor.accuracy is None or vendor.accuracy.same_test,
    )


def _published(facts: Facts, figure: Accuracy | None, command: str) -> tuple[Estimate | None, Check, tuple[str, ...]]:
    """A published accuracy, its check against the bar, and its sources. Published figures are of CIFAR-10."""
    if figure is None or not facts.is_cifar10:
        return None, Check("accuracy", Standing.UNKNOWN, "has no known accuracy on these images", command), ()
    accuracy, text = published_accuracy(figure), f"is published at {figure.figure}"
    check = _against_bar(facts, accuracy, text, command)
    if not figure.same_test:
        check = Check("accuracy", Standing.UNKNOWN, f"{text}, on other test images", command)
    return accuracy, check, (f"source/{figure.key}",)


def _measured(facts: Facts, accuracy: Estimate) -> str:
    """A measured accuracy and its interval, beside the accuracy bar."""
    target = facts.bar.target
    return f"{percent_beside(accuracy.mean, 2, target)} ({span(accuracy, 2, target)})"


def _against_bar(facts: Facts, accuracy: Estimate, text: str, command: str) -> Check:
    """The whole interval must lie on one side of the bar."""
    target = facts.bar.target
    if accuracy.low >= target:
        return Check("accuracy", Standing.CLEARS, text)
    if accuracy.high < target:
        return Check("accuracy", Standing.MISSES, text)
    return Check("accuracy", Standing.UNKNOWN, f"{text}, too close to the bar", command)
