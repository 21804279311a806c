"""The numbers that the verdict and the report rest on.

`measure` is a pure function of a `Study`, the `Published` figures and a `Scenario`. None means: not measured.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import date

import pandas as pd

from experiments.decision.costs import Cost, cost_of
from experiments.reading.published import Bar, Published
from experiments.reading.scenario import Scenario
from experiments.reading.studies import Looks, Study
from experiments.sections.accuracy import (
    Calibration,
    ClassAccuracy,
    Confusion,
    Selection,
    calibration_of,
    classes_of,
    confusion_of,
    groups_of,
    selection_of,
)
from experiments.sections.learned import (
    Front,
    Importances,
    Search,
    Slice,
    front_of,
    importances_of,
    search_of,
    slices_of,
    varied,
)
from experiments.stats import TEST_IMAGES, VAL_IMAGES, Estimate, estimate


@dataclass(frozen=True, kw_only=True, slots=True)
class Measures:
    """Every number that the verdict and the report rest on."""

    study: str
    run_id: str  # of the study's parent run
    state: str
    as_of: date  # the day the study ended: what the age of a published figure is measured from
    bar: Bar  # the published one, with the scenario's target
    published: Published
    scenario: Scenario
    has_champion: bool
    subject_runs: tuple[str, ...]
    model: str | None
    parameters: int | None
    validation: Estimate | None
    test: Estimate | None
    looks: Looks
    classes: tuple[ClassAccuracy, ...]  # weakest first
    class_split: str  # test | validation: what they are sorted by
    groups: dict[str, Estimate]  # animals, vehicles: on the images of the confusions
    confusion: Confusion | None
    calibration: Calibration | None
    selection: Selection | None
    search: Search
    importances: Importances
    slices: tuple[Slice, ...]
    front: Front
    cost: Cost


def measure(study: Study, published: Published, scenario: Scenario) -> Measures:
    """The numbers of a study, beside the published figures, under a scenario.

    Raises:
        ScenarioError: the scenario prices another device than the study's.
    """
    subject = study.subject
    confusion, counts = confusion_of(study)
    test_images = confusion.images if confusion and confusion.split == "test" else TEST_IMAGES
    val_images = study.exhibits.validation_images or VAL_IMAGES
    tested = study.champion[study.champion["metrics.test/accuracy"].notna()]
    classes = classes_of(subject, confusion, counts)
    trials = varied(study.search)
    importances = importances_of(trials)
    return Measures(
        study=study.name,
        run_id=study.run_id,
        state=study.state,
        as_of=study.end.date(),
        bar=_bar(published.bar, scenario),
        published=published,
        scenario=scenario,
        has_champion=len(study.champion) > 0,
        subject_runs=tuple(subject["run_id"]),
        model=_only(subject, "params.model"),
        parameters=_parameters(subject),
        validation=estimate(subject, "metrics.val/accuracy", val_images),
        test=estimate(tested, "metrics.test/accuracy", test_images),
        looks=study.looks,
        classes=classes,
        class_split="test" if any(c.test is not None for c in classes) else "validation",
        groups=groups_of(study),
        confusion=confusion,
        calibration=calibration_of(study),
        selection=selection_of(study, val_images),
        search=search_of(study),
        importances=importances,
        slices=slices_of(trials, importances),
        front=front_of(study),
        cost=cost_of(study, published, scenario),
    )


def _bar(published: Bar, scenario: Scenario) -> Bar:
    target = scenario.accuracy_bar
    if target == published.target:
        return published
    source = f"{scenario.file}; start and rework: {published.source}"
    start, rework = min(published.start, target), min(published.rework, target)
    return replace(published, target=target, start=start, rework=rework, source=source)


def _only(runs: pd.DataFrame, column: str) -> str | None:
    return next((str(v) for v in runs[column] if v is not None), None) if column in runs else None


def _parameters(subject: pd.DataFrame) -> int | None:
    text = _only(subject, "params.parameters")
    try:
        return int(float(text)) if text else None
    except ValueError:
        return None
