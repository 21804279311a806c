"""Rank correlation of short and long runs: the recipes, and the correlations."""

from __future__ import annotations

import pytest

from cifar_core.budget import step_flops
from cifar_core.data.data_set import CIFAR10
from cifar_core.training import total_steps
from experiments.accuracy.ranking import GROUPS, LENGTHS, NUMBERS, recipe_of, table
from experiments.accuracy.training_runs import TrainingRun


@pytest.mark.parametrize("group", GROUPS)
def test_a_group_varies_its_own_parameters_and_keeps_them_for_each_length(group: str) -> None:
    lengths = {length: [recipe_of(group, number, length) for number in NUMBERS[group]] for length in LENGTHS}
    length_of_run = {"epochs", "seed", "weight_decay", "learning_rate", "batch_size"}
    for short, long in zip(lengths["8"], lengths["45"], strict=True):
        other = {name for name, value in short.to_dict().items() if long.to_dict()[name] != value}
        assert other <= length_of_run
        assert total_steps(long, 45_000) * step_flops(long, CIFAR10) == pytest.approx(45e12, rel=0.02), "in whole steps"
    varied = {
        name
        for recipe in lengths["12"]
        for name, value in recipe.to_dict().items()
        if lengths["12"][0].to_dict()[name] != value
    }
    assert varied - {"epochs", "seed"}


def test_correlations_are_of_ranks() -> None:
    def run(group: str, number: int, length: str, early: float, accuracy: float) -> TrainingRun:
        return TrainingRun(
            name=f"{group} {number}, {length} TFLOP",
            recipe=recipe_of(group, number, length).to_dict(),
            early=early,
            accuracy=accuracy,
            tta_accuracy=None,
            seconds=1.0,
            machine="m",
        )

    runs = [run("width", n, "12", 0.2 - n / 100, 0.5 + n**2 / 100) for n in range(5)]
    runs += [run("width", n, "45", 0.2, 0.8 + n / 100) for n in range(5)]
    runs += [run("width", 2, "320", 0.2, 0.9)]
    *_, last = table(runs)
    *_, middle, _, _ = table(runs)
    assert (middle, last) == ("| 1 |  |  | 54.0 % | 82.0 % | 90.0 % |", "| 1.5 |  |  | 66.0 % | 84.0 % |  |")
    rows = {row.split(" | ")[0]: row for row in table(runs)}
    assert rows["| parameters"].endswith("| 6 with 45 | 8 with 45 | 12 with 45 |")
    unknown = " not measured | not measured |"
    assert rows["| width"] == f"| width | 5 |{unknown} -1.00 |{unknown} +1.00 |"
    assert rows["| augmentation"] == f"| augmentation | 5 |{unknown} not measured |{unknown} not measured |"
    assert rows["| all"] == f"| all | 29 |{unknown} -1.00 |{unknown} +1.00 |"
