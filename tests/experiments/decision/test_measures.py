from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from experiments.reading.published import load_published
from experiments.reading.scenario import load_scenario

if TYPE_CHECKING:
    from tests.experiments.conftest import Fake


def test_the_numbers_of_a_whole_study(store: Fake) -> None:
    m = store.measures("demo")
    assert m.test is not None
    assert m.test.mean == pytest.approx(0.923)
    assert len(m.test.run_ids) == 2
    assert (m.search.complete, m.search.pruned, m.search.failed, m.search.total) == (2, 3, 1, 6)
    assert [a.name for a in m.search.architectures] == ["fast_resnet", "five_conv"]
    assert m.search.best_trial == 3
    assert m.classes[0].name == "cat"
    assert m.confusion is not None
    assert m.confusion.images == 10_000
    assert all(sum(row) == pytest.approx(1) for row in m.confusion.shares)
    assert m.looks.study == 2


def test_without_any_run_nothing_is_measured(fresh_store: Fake) -> None:
    fresh_store.add(trials=(), champion=(), state="interrupted")
    m = fresh_store.measures("demo")
    assert (m.test, m.validation, m.confusion, m.model, m.cost.seconds) == (None, None, None, None, None)
    assert (m.classes, m.subject_runs, m.search.architectures, m.search.total) == ((), (), (), 0)


def test_the_scenario_moves_the_bar(store: Fake) -> None:
    assumed = load_scenario(load_published())
    same = store.measures("demo").bar
    assert (same.target, same.source) == (0.70, load_published().bar.source)
    moved = store.measures("demo", scenario=replace(assumed, accuracy_bar=0.40)).bar
    assert (moved.target, moved.start, moved.rework) == (0.40, 0.40, 0.40)
    assert moved.source.startswith("scenario.toml; ")
