from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from experiments.reading.published import load_published
from experiments.reading.results import read_result
from experiments.systems.system import load_systems, our_series
from sweeps.validation import InvalidFileError
from tests.experiments.results import RECIPES, content, run_id, system, write
from tests.experiments.support import known


def test_every_system_must_have_a_published_accuracy() -> None:
    published = load_published()
    short = replace(published, accuracies=tuple(a for a in published.accuracies if a.key != "block_cnn"))
    with pytest.raises(InvalidFileError, match="an accuracy 'block_cnn' of group system must be there"):
        load_systems(short, [])


def test_losses_between_epochs_are_joined_by_their_steps(tmp_path: Path) -> None:
    points = content("dynamic_conv", epochs=2)["curve"]
    for at, (step, loss) in zip(points, ((25, 2.0), (100, 1.0), (150, 0.8), (200, 0.6)), strict=True):
        at |= {"step": step, "train_loss": loss}
    series = our_series(read_result(write(tmp_path, "dynamic_conv", epochs=2, curve=points)))
    assert list(series["train_loss"].epochs) == [1, 2]
    # 25 steps at 2.0 and 75 at 1.0; then 50 at 0.8 and 50 at 0.6
    assert series["train_loss"].values == pytest.approx((1.25, 0.7))
    assert list(series["test_accuracy"].epochs) == [1, 2]


def test_five_conv_keeps_the_loss_of_its_first_batches(tmp_path: Path) -> None:
    points = content("five_conv", epochs=2)["curve"]
    for at, loss in zip(points, (1.5, 1.1, 1.0, 0.9), strict=True):
        at["train_loss"] = loss
    found = system(tmp_path, "five_conv", {"epochs": 2, "curve": points})
    series = our_series(found.runs[0])["train_loss"]
    assert series.epochs == pytest.approx((0.64, 1.64))
    assert series.values == (1.5, 1.0)
    met = known(found.common_epoch)
    assert [met.ours, met.published] == [1.0, 1.02]


@pytest.mark.parametrize(
    ("name", "runs", "epoch", "ours"),
    [
        ("dynamic_conv", [{"epochs": 7}], 7, 0.5201),
        ("custom_resnet", [{"epochs": 5}, {"epochs": 3.64}], 3, 0.5403),  # the last epoch of all runs
        ("custom_resnet", [{"epochs": 5, "right": 7800, "watched": "validation"}], 5, 0.78),  # at the end alone
        ("block_cnn", [{"epochs": 3}], None, None),
        ("three_conv", [{"epochs": 3}], None, None),
    ],
)
def test_a_schedule_cut_short_is_compared_at_its_epoch_and_never_judged(
    tmp_path: Path, name: str, runs: list[dict[str, Any]], epoch: int | None, ours: float | None
) -> None:
    found = system(tmp_path, name, *runs)
    assert (found.accuracy, found.gap, found.best, found.within_tolerance) == (None, None, None, False)
    assert all(row.ours is None for row in found.classes)
    met = found.common_epoch
    assert (met and met.epoch, met and met.ours) == (epoch, ours)


def test_complete_runs_of_the_shipped_recipe_count_alone(tmp_path: Path) -> None:
    found = system(tmp_path, "custom_resnet", {"right": 9000}, {"right": 5000, "epochs": 4})
    assert known(found.accuracy).run_ids == (run_id("custom_resnet", 0),)
    found = system(tmp_path, "dynamic_conv", {"recipe": {**RECIPES["dynamic_conv"], "width": 0.125}})
    assert (found.compared, found.common_epoch, found.accuracy) == ((), None, None)
