"""Load the facts of a study from its store and from files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from experiments.decision.facts import Facts, gather
from experiments.reading.label_curve import load_label_curve
from experiments.reading.load_study import read_study
from experiments.reading.published import load_published
from experiments.reading.results import Result
from experiments.reading.scenario import load_scenario
from experiments.reading.study_reader import StudyReader
from experiments.reading.vendor_score import load_scores


def load_facts(
    reader: StudyReader, study: str | None, scenarios: Sequence[Path], results: Sequence[Result]
) -> list[Facts]:
    """Load the facts of a study under each scenario.

    Args:
        study: name of the study; None takes the most recent one.

    Raises:
        UserError: there is no such study, or a file of figures or a scenario breaks a rule.
    """
    published = load_published()
    assumed = [load_scenario(published, path) for path in scenarios]
    found = read_study(reader, study)
    scores = load_scores(reader.store.root, found.data_set)
    curve = load_label_curve(reader, found.name, found.data_set)
    return [gather(found, published, scenario, results, scores, curve) for scenario in assumed]
