"""The rules that decide between the ways. None of them depends on the order in which a scenario lists these."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from experiments.decision.facts import Facts
from experiments.decision.ways import Way, ways_of
from experiments.pages.text import percent

CLOSE = 0.10  # two costs that differ by less than this share of the dearer one count as the same


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
        best: the cheapest way that is known to clear every bar.
        rival: the cheapest way that may win: not known to clear every bar, and cheaper than all that are.
        near: of each kind, the cheapest way that clears every bar and costs about as much as `best`.
    """

    answer: str
    best: Way | None
    rival: Way | None
    near: tuple[Way, ...]
    rules: tuple[Rule, ...]

    @property
    def decided_by(self) -> int:
        """The index of the rule that decides."""
        return next(index for index, rule in enumerate(self.rules) if rule.holds)

    @property
    def headline(self) -> str:
        """The answer with its object, such as "Not yet: measure GPT-6 Luna"."""
        if self.answer == "Not yet":
            return f"Not yet: measure {self.rival.title}" if self.rival else "Not yet: nothing clears the bars"
        if self.answer == "Adapt":
            way = self.rival or self.best
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

    def total(way: Way) -> float:
        return way.option.total(months)

    sure = sorted((way for way in ways if way.clears), key=cost)
    best = sure[0] if sure else None
    doubtful = sorted((way for way in ways if way.unknown), key=cost)
    rival = next(iter(doubtful), None)
    if rival and best and not total(best) - total(rival) > CLOSE * total(best):
        rival = None
    near: dict[str, Way] = {}
    for way in sure:
        if best and total(way) - total(best) <= CLOSE * total(way):
            near.setdefault(way.option.kind, way)
    kind = best.option.kind if best else ""
    cheapest = "is the cheapest of the ways known to clear every bar"
    rules = (
        Rule("every way is known to miss a bar", "Not yet", best is None and rival is None),
        Rule(
            f"a download may win: nothing known to clear every bar costs less, or within {percent(CLOSE, 0)} as much",
            "Adapt",
            rival is not None and rival.option.kind == "adapt",
        ),
        Rule(
            f"another way may win: nothing known to clear every bar costs less, or within {percent(CLOSE, 0)} as much",
            "Not yet",
            rival is not None,
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
    return Verdict(answer=answer, best=best, rival=rival, near=tuple(near.values()), rules=rules)
