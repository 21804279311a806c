"""The facts that a decision rests on, and the rules that decide."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from dataclasses import dataclass, replace

import pandas as pd

from cifar_core.data.data_set import CIFAR10
from cifar_core.recipe import TTA_VIEWS
from experiments.decision.costs import Cost, Option, build, cost_of, vendors
from experiments.pages.text import percent, short_percent, years
from experiments.reading.published import Accuracy, Bar, Published
from experiments.reading.results import Result
from experiments.reading.scenario import Scenario
from experiments.reading.study import Study
from experiments.stats import TEST_IMAGES, VAL_IMAGES, Estimate, estimate

CLOSE = 0.10  # two costs that differ by less than this share of the dearer one count as the same


@dataclass(frozen=True, kw_only=True, slots=True)
class Facts:
    """A study beside the published figures, under a scenario. None means: not measured.

    Attributes:
        results: reproductions of the published systems.
        bar: the published one, with the scenario's target.
        validation, test: accuracies of the runs that the report is about.
        augmented: test accuracy with test-time augmentation.
        validation_images: their number.
    """

    study: Study
    published: Published
    scenario: Scenario
    results: tuple[Result, ...]
    bar: Bar
    validation: Estimate | None
    test: Estimate | None
    augmented: Estimate | None
    validation_images: int
    cost: Cost

    @property
    def run_id(self) -> str:
        """The id of the study's parent run."""
        return self.study.run_id

    @property
    def is_cifar10(self) -> bool:
        """True if the study is of the data that the published accuracies are about."""
        return self.study.data_set.sha256 == CIFAR10.sha256

    @property
    def as_of(self) -> datetime.date:
        """The day the study ended, from which the age of a published figure is counted."""
        return self.study.end.date()

    @property
    def has_champion(self) -> bool:
        return len(self.study.champion) > 0

    @property
    def subject(self) -> str:
        """The network that the report is about, in words."""
        return "champion" if self.has_champion else "best trial"

    @property
    def subject_runs(self) -> tuple[str, ...]:
        """The ids of its runs."""
        return tuple(self.study.subject["run_id"])

    @property
    def cost_sources(self) -> tuple[str, ...]:
        """The sources of the cost of building: the study, the price of its machine and the scenario."""
        return (f"run/{self.run_id}", *self.cost.machine_sources, "source/scenario")

    @property
    def building(self) -> Option | None:
        """The cost of building; None where a part of it is unknown."""
        return build(self.cost, self.scenario)

    @property
    def cheapest(self) -> Option:
        """The vendor that costs least over the horizon."""
        return vendors(self.scenario)[0]

    @property
    def model(self) -> str | None:
        return _first(self.study.subject, "params.model")

    @property
    def views(self) -> int | None:
        """Number of views of each image in test-time augmentation."""
        return TTA_VIEWS.get(_first(self.study.subject, "params.tta") or "")

    @property
    def parameters(self) -> int | None:
        """Number of weights."""
        text = _first(self.study.subject, "params.parameters")
        return int(float(text)) if text else None


def gather(study: Study, published: Published, scenario: Scenario, results: Sequence[Result] = ()) -> Facts:
    """The facts of a study.

    Raises:
        InvalidFileError: the scenario prices another device than the study's.
    """
    if study.data_set.sha256 != CIFAR10.sha256:
        bar = replace(published.bar, source=scenario.file, date="")
        published = replace(published, bar=bar, accuracies=())
    confusions = study.artifacts.confusions
    tested = study.champion[study.champion["metrics.test/accuracy"].notna()]
    counts = [int(matrix.sum()) for matrix in confusions.values()] if len(study.champion) else []
    test_images = round(sum(counts) / len(counts)) if counts else TEST_IMAGES
    validation_images = study.artifacts.validation_images or VAL_IMAGES
    return Facts(
        study=study,
        published=published,
        scenario=scenario,
        results=tuple(results),
        bar=_bar(published.bar, scenario),
        validation=estimate(study.validated, "metrics.val/accuracy", validation_images),
        test=estimate(tested, "metrics.test/accuracy", test_images),
        augmented=estimate(tested, "metrics.test/tta_accuracy", test_images),
        validation_images=validation_images,
        cost=cost_of(study, published.compute(study.tags.get("device", "").partition(":")[0]), scenario),
    )


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule of the decision. The first whose condition holds decides."""

    condition: str
    answer: str
    holds: bool


def rules_of(facts: Facts) -> tuple[Rule, ...]:
    """The rules, in order: test accuracy, accuracy bar, latency bar, then the costs over the horizon."""
    test, target, close = facts.test, facts.bar.target, f"{percent(CLOSE, 0)} of the dearer"
    bar, over = short_percent(target), f"over {years(facts.scenario.horizon_years)}"
    ours, theirs = facts.building, facts.cheapest.total(facts.scenario.months)
    cost = theirs if ours is None else ours.total(facts.scenario.months)  # the fifth rule is for an unknown cost
    gap, near = cost - theirs, CLOSE * max(cost, theirs)
    below, not_above = test is not None and test.high < target, test is not None and test.low < target
    beaten = f"its 95 % interval lies below {bar}, and a system that can be downloaded reaches it"
    cheaper, dearer = "building costs less than the cheapest vendor", "the cheapest vendor costs less"
    return (
        Rule("the champion has no test accuracy", "Not yet", test is None),
        Rule(beaten, "Buy", below and reaching(facts) is not None),
        Rule(f"its 95 % interval does not lie at or above {bar}", "Not yet", not_above),
        Rule("it is not known to answer within the latency bar", "Not yet", not in_time(facts)),
        Rule("a cost of building is unknown", "Not yet", ours is None),
        Rule(f"{over} {cheaper}, by more than {close}", "Build", gap < -near),
        Rule(f"the two costs lie within {close}", "Either", abs(gap) <= near),
        Rule(f"{over} {dearer}, by more than {close}", "Buy", True),
    )


def decided_by(rules: Sequence[Rule]) -> int:
    """The index of the rule that decides."""
    return next(index for index, rule in enumerate(rules) if rule.holds)


def answer_of(facts: Facts) -> str:
    """The decision: Build, Either, Buy or Not yet."""
    rules = rules_of(facts)
    return rules[decided_by(rules)].answer


def in_time(facts: Facts) -> bool:
    """The network is known to answer within the latency bar, or there is no bar."""
    bar, speed = facts.scenario.latency_bar_ms, facts.cost.speed
    return bar is None or (speed is not None and speed.worst * 1000 <= bar)


def reaching(facts: Facts) -> Accuracy | None:
    """The best system that can be downloaded and reaches the accuracy bar by the lower end of its published range."""
    public = [a for a in facts.published.group("public") if a.accuracy >= facts.bar.target]
    return max(public, key=lambda a: (a.accuracy, a.key), default=None)


def _bar(published: Bar, scenario: Scenario) -> Bar:
    target = scenario.accuracy_bar
    if target == published.target:
        return published
    source = f"{scenario.file}; start and rework: {published.source}"
    start, rework = min(published.start, target), min(published.rework, target)
    return replace(published, target=target, start=start, rework=rework, source=source)


def _first(runs: pd.DataFrame, column: str) -> str | None:
    return next((str(v) for v in runs[column] if v is not None), None) if column in runs else None
