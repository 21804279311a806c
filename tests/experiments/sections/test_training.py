from __future__ import annotations

import pandas as pd
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


def test_a_rate_without_warm_up_falls_from_that_of_the_recipe(demo: Facts) -> None:
    def told(rates: list[float]) -> tuple[str, dict[str, float]]:
        rows = [{"run_id": demo.subject_runs[0], "key": "lr", "step": 10 * (n + 1), "value": r}
                for n, r in enumerate(rates)]  # fmt: skip
        subject = demo.study.champion.assign(**{"params.learning_rate": "0.1408"})
        made = section(with_study(demo, curves=pd.DataFrame(rows), final=subject))
        numbers = {n.name.removeprefix("curve.lr."): n.value for n in made.numbers}
        return made.pictures[0].caption.text, numbers  # type: ignore[return-value]

    assert told([0.138, 0.07, 0.0]) == (
        "The rate falls from 0.141 to 0.", {"peak": 0.1408, "peak_at": 0.0, "last": 0.0}
    )  # fmt: skip
    assert told([0.1408, 0.1408])[0] == "The rate stays at 0.141."
    assert told([0.1, 0.14, 0.0])[0] == "The rate peaks at 0.14, 67 % of the way, and ends at 0."
