from __future__ import annotations

import pytest

from experiments.decision.facts import Facts
from experiments.pages import plots
from experiments.pages.blocks import Figure, Missing
from experiments.sections.training import section
from tests.experiments.support import with_study


def test_the_curves_of_a_trial_are_drawn_and_told(unconfirmed: Facts) -> None:
    losses, accuracies, rate = (f for f in section(unconfirmed).pictures if isinstance(f, Figure))
    assert losses.legend == [("training", plots.BLUE, "line"), ("validation", plots.RUST, "line")]
    assert [len(f.figure.data) for f in (losses, accuracies, rate)] == [2, 2, 1]
    numbers = {number.name: number.value for number in section(unconfirmed).numbers}
    assert losses.caption.text == (
        f"Training loss ends at {numbers['curve.train_loss.last']:.3f} and validation loss at "
        f"{numbers['curve.val_loss.last']:.3f} nats an image."
    )
    assert rate.caption.text == "The rate peaks at 0.99, 21 % of the way, and ends at 0."
    assert [numbers["curve.lr.peak"], numbers["curve.lr.last"]] == pytest.approx([0.9896, 0.0], abs=1e-4)


def test_a_curve_that_was_not_recorded_is_said(unconfirmed: Facts) -> None:
    curves = unconfirmed.study.curves
    some = curves[~curves["key"].isin(["val/loss", "train/accuracy", "val/accuracy"])]
    made = section(with_study(unconfirmed, curves=some))
    assert [figure.name for figure in made.pictures] == ["losses", "learning_rate"]
    assert made.pictures[0].caption.text == "One of the two losses was not recorded."
    none = section(with_study(unconfirmed, curves=curves.head(0)))
    assert none.blocks == (Missing("There are no curves to show yet."),)


def test_the_curves_of_finals_are_of_the_training_images_and_the_first_is_told(demo: Facts) -> None:
    losses, accuracies, rate = (f for f in section(demo).pictures if isinstance(f, Figure))
    assert [[trace.name for trace in f.figure.data] for f in (losses, accuracies)] == [["training"] * 2] * 2
    assert rate.caption.text == "The rate peaks at 1, 20 % of the way, and ends at 0."
    assert (
        losses.caption.text
        == accuracies.caption.text
        == (
            "On training images alone: the final trains on all images, so that none are left to validate on. "
            "The strong line is the first run."
        )
    )
