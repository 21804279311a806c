from __future__ import annotations

from dataclasses import replace

from experiments.decision.facts import Facts
from experiments.decision.verdict import verdict_of
from tests.experiments.decision.test_machines import SCENARIO
from tests.experiments.fake_store import Fake


def test_without_any_run_nothing_is_measured(empty: Facts) -> None:
    assert (empty.test, empty.validation, empty.model, empty.parameters, empty.cost.seconds) == (None,) * 5
    assert (empty.has_champion, empty.subject_runs, verdict_of(empty).answer) == (False, (), "Not yet")


def test_the_scenario_moves_the_bar(store: Fake) -> None:
    moved = store.facts("demo", scenario=replace(SCENARIO, accuracy_bar=0.40)).bar
    assert (moved.target, moved.start, moved.rework) == (0.40, 0.40, 0.40)
    assert moved.source.startswith("scenario.toml; ")
