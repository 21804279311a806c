from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from experiments.reading.studies import Reader, Study
from experiments.sections.accuracy import Confusion, calibration_of, classes_of, confusion_of, groups_of, selection_of
from experiments.stats import wilson

if TYPE_CHECKING:
    from tests.experiments.conftest import Fake


@pytest.fixture(scope="module")
def study(store: Fake) -> Study:
    return Reader(store.place).read("demo")


def test_the_worst_pair_is_off_the_diagonal() -> None:
    shares = ((0.8, 0.2, 0.0), (0.3, 0.7, 0.0), (0.0, 0.0, 1.0))
    assert Confusion(("a", "b", "c"), shares, ("r",), 30, "test").worst_pair() == ("b", "a", 0.3)
    perfect = ((1.0, 0.0), (0.0, 1.0))
    assert Confusion(("a", "b"), perfect, ("r",), 20, "test").worst_pair() is None


def test_the_weakest_pair_counts_both_directions() -> None:
    shares = ((0.8, 0.2, 0.0), (0.0, 0.9, 0.1), (0.0, 0.15, 0.85))
    pair = Confusion(("a", "b", "c"), shares, ("r",), 30, "test").weakest_pair()
    assert pair is not None
    assert pair[:2] == ("b", "c")
    assert pair[2] == pytest.approx(0.125)
    perfect = ((1.0, 0.0), (0.0, 1.0))
    assert Confusion(("a", "b"), perfect, ("r",), 20, "test").weakest_pair() is None


def test_a_class_of_one_run_has_the_wilson_interval_of_its_images(study: Study) -> None:
    confusion, counts = confusion_of(study)
    assert counts["cat"] == 1000
    one = classes_of(study.champion.head(1), confusion, counts)
    cat = next(row for row in one if row.name == "cat")
    assert cat.test is not None
    assert (cat.low, cat.high) == pytest.approx(wilson(cat.test, 1000))
    both = next(row for row in classes_of(study.champion, confusion, counts) if row.name == "cat")
    assert both.low is not None
    assert cat.low is not None
    assert both.low < cat.low  # other seeds are a doubt of their own


def test_a_class_whose_images_are_not_known_has_no_interval(study: Study) -> None:
    rows = classes_of(study.champion, None, {})
    assert {(row.low, row.high, row.images) for row in rows} == {(None, None, None)}


def test_groups_are_counted_over_their_images(study: Study) -> None:
    found = groups_of(study)
    confusion, _ = confusion_of(study)
    assert confusion is not None
    right = {name: confusion.shares[i][i] for i, name in enumerate(confusion.classes)}
    assert found["vehicles"].mean == pytest.approx(
        sum(right[n] for n in ("airplane", "automobile", "ship", "truck")) / 4
    )
    assert (found["animals"].images, found["vehicles"].images) == (6000, 4000)


def test_calibration_is_of_all_answers_of_the_champion(study: Study) -> None:
    found = calibration_of(study)
    assert found is not None
    assert sum(found.reliability.counts) == 20_000
    assert found.images == 10_000
    assert calibration_of(replace(study, exhibits=replace(study.exhibits, answers={}))) is None


def test_the_best_trial_is_followed_to_its_new_runs(study: Study) -> None:
    found = selection_of(study, 5000)
    assert found is not None
    assert (found.trial, found.searched, found.trials) == (3, 0.84, 2)
    assert found.confirmed is not None
    assert found.confirmed.mean == pytest.approx(0.927)
    assert found.same_compute
    alone = selection_of(replace(study, confirm=study.confirm.head(0)), 5000)
    assert alone is not None
    assert alone.confirmed is None
    assert selection_of(replace(study, search=study.search.head(0)), 5000) is None
