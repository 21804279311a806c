"""The facts that a decision rests on."""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from cifar_core.data.data_set import CIFAR10
from cifar_core.recipe import TTA_VIEWS
from experiments.decision.machines import Cost, cost_of
from experiments.reading.published import Bar, Published
from experiments.reading.results import Result
from experiments.reading.scenario import Scenario, slug
from experiments.reading.study import LabelCurve, Study
from experiments.reading.vendor_score import VendorScore
from experiments.stats import Estimate, estimate
from sweeps.validation import InvalidFileError


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)  # compared by identity, as its tables have no hash
class Facts:
    """A study beside the published figures, under a scenario. None means: not measured.

    Attributes:
        results: reproductions of the published systems.
        bar: published bar with the target of the scenario.
        validation, test: accuracy of the runs that the report is about.
        augmented: test accuracy with test-time augmentation.
        scores: measured scores of vendors on the test images, by the slug of the vendor.
        label_curve: accuracy by number of labels.
    """

    study: Study
    published: Published
    scenario: Scenario
    results: tuple[Result, ...]
    bar: Bar
    validation: Estimate | None
    test: Estimate | None
    augmented: Estimate | None
    cost: Cost
    scores: Mapping[str, VendorScore]
    label_curve: LabelCurve | None

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
        """The day the study, or its last run so far, ended: the age of a published figure is counted from it."""
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

    def parameter(self, name: str) -> str | None:
        """A parameter of the network's runs, as MLflow has it."""
        values = self.study.subject.get(f"params.{name}", ())
        return next((str(value) for value in values if value is not None), None)

    @property
    def model(self) -> str | None:
        return self.parameter("model")

    @property
    def views(self) -> int | None:
        """Number of views of each image in test-time augmentation."""
        return TTA_VIEWS.get(self.parameter("tta") or "")

    @property
    def parameters(self) -> int | None:
        """Number of weights."""
        text = self.parameter("parameters")
        return int(float(text)) if text else None


def gather(
    study: Study,
    published: Published,
    scenario: Scenario,
    results: Sequence[Result],
    scores: Mapping[str, VendorScore],
    label_curve: LabelCurve | None,
) -> Facts:
    """The facts of a study.

    Raises:
        InvalidFileError: the scenario prices another device than the study's, or a vendor or download has the name of
            the network that the study adapted.
    """
    adapted = study.adapted and slug(study.adapted.title)
    if same := [name for name in scenario.names if slug(name) == adapted]:
        raise InvalidFileError(
            f"{scenario.file}: names of vendors and downloads must differ from that of the network which study "
            f"{study.name!r} adapted, but got {same[0]!r}"
        )
    if study.data_set.sha256 != CIFAR10.sha256:
        bar = replace(published.bar, source=scenario.file, date="", assumed=True)
        published = replace(published, bar=bar, accuracies=())
    confusions = study.artifacts.confusions
    counts = [int(matrix.sum()) for matrix in confusions.values()] if len(study.champion) else []
    test_images = round(sum(counts) / len(counts)) if counts else study.data_set.test_images
    validation_images = study.data_set.val_images if len(study.champion) else study.trial_images
    return Facts(
        study=study,
        published=published,
        scenario=scenario,
        results=tuple(results),
        bar=_bar(published.bar, scenario),
        validation=estimate(study.validated, "metrics.val/accuracy", validation_images),
        test=estimate(study.champion, "metrics.test/accuracy", test_images),
        augmented=estimate(study.champion, "metrics.test/tta_accuracy", test_images),
        cost=cost_of(study, published, scenario),
        scores=scores,
        label_curve=label_curve,
    )


def _bar(published: Bar, scenario: Scenario) -> Bar:
    target = scenario.accuracy_bar
    if target == published.target:
        return published
    source = scenario.file
    if published.source != source:  # else it is of images of one's own, which have a target alone
        source += f"; start and rework: {published.source}"
    start, rework = min(published.start, target), min(published.rework, target)
    return replace(published, target=target, start=start, rework=rework, source=source)
