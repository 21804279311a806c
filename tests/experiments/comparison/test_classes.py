"""Accuracies by class on the split that all groups have."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from cifar_core.data.data_set import CIFAR10
from experiments.comparison import classes
from experiments.comparison.classes import compare_classes
from experiments.comparison.differences import Comparison, Group
from experiments.pages.blocks import Figure, Missing
from tests.experiments.comparison.conftest import Chosen
from tests.experiments.comparison.test_differences import with_run
from tests.experiments.support import known

_WILD = {"cat": "cat (wild)"}


@pytest.mark.slow
def test_classes_are_compared_on_the_best_split_that_all_groups_have(chosen: Chosen) -> None:
    tested, several = (compare_classes(chosen("good", other)) for other in ("bad", "twice"))
    mixed = compare_classes(chosen("good/confirm-2-0", "searched"))
    assert compare_classes(chosen("good", "searched")) is None
    assert tested is not None
    assert mixed is not None
    assert several is not None
    assert (tested.split, len(tested.accuracies), tested.accuracies.index[0]) == ("test", 10, "cat")
    assert tested.p["good"].isna().all()
    assert tested.p["bad"].notna().all()
    assert (mixed.split, mixed.p.notna().any(axis=None)) == ("val", False)
    assert not several.p.notna().any(axis=None)


def test_classes_have_their_own_names_and_a_class_without_answers_takes_p_from_no_other(pair: Comparison) -> None:
    def renamed(group: Group) -> Group:
        [run] = group.runs
        metrics = {key.replace("_class/cat", "_class/cat _wild_"): value for key, value in run.metrics.items()}
        answers = known(run.answers)
        true, predicted = (tuple(_WILD.get(n, n) for n in names) for names in (answers.true, answers.predicted))
        data_set = replace(CIFAR10, classes=tuple(_WILD.get(name, name) for name in CIFAR10.classes))
        answers = replace(answers, true=true, predicted=predicted)
        metrics["test_class/dogs"] = metrics.pop("test_class/dog")  # of no class that the answers have
        return replace(group, runs=(replace(run, metrics=metrics, answers=answers, data_set=data_set),))

    groups = tuple(map(renamed, pair.groups))
    table = known(compare_classes(Comparison(groups, groups[0], baseline=False)))
    assert table.accuracies.index[0] == "cat (wild)"
    assert table.p["bad"].isna().tolist() == [name == "dogs" for name in table.p.index]


def test_a_group_without_classes_leaves_none_to_compare(chosen: Chosen) -> None:
    blocks = classes.section(chosen("good", "good/trial-1")).blocks
    assert blocks == (Missing("The groups have no accuracies by class on the same split of the same images."),)


def test_groups_of_different_images_are_not_compared_by_class(pair: Comparison) -> None:
    others = with_run(pair, conditions={**pair.groups[1].runs[0].conditions, "data_sha256": "cd" * 32})
    assert compare_classes(pair) is not None
    assert compare_classes(others) is None


def test_the_caption_names_the_largest_difference(chosen: Chosen) -> None:
    figure = classes.section(chosen("good", "bad")).blocks[0]
    assert isinstance(figure, Figure)
    assert re.fullmatch(
        r"On the test images bad differs most from good in \w+: 12\.00 points below it; 10 of 10 such differences are "
        r"significant\.",
        figure.caption.text,
    )
