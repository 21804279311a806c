from __future__ import annotations

from experiments.decision.facts import Facts
from experiments.pages import plots
from experiments.pages.blocks import Figure, Missing
from experiments.sections.training import section
from tests.experiments.support import with_study


def test_the_curves_of_all_runs_are_drawn_and_the_first_is_told(demo: Facts) -> None:
    losses, accuracies, rate = (f for f in section(demo).pictures if isinstance(f, Figure))
    assert losses.legend == [("training", plots.BLUE, "line"), ("validation", plots.RUST, "line")]
    assert [len(f.figure.data) for f in (losses, accuracies, rate)] == [4, 4, 1]
    assert "(strong line; the other runs are faint)" in losses.caption.text
    numbers = {number.name: number.value for number in section(demo).numbers}
    assert f"Training loss ends at {numbers['curve.train_loss.last']:.3f}" in losses.caption.text
    assert rate.caption.text == "The rate peaks at 1, 20 % of the way, and ends at 0."
    assert (numbers["curve.lr.peak"], numbers["curve.lr.last"]) == (1.0, 0.0)


def test_a_curve_that_was_not_recorded_is_said(demo: Facts) -> None:
    curves = demo.study.curves
    some = curves[~curves["key"].isin(["val/loss", "train/accuracy", "val/accuracy"])]
    made = section(with_study(demo, curves=some))
    assert [figure.name for figure in made.pictures] == ["losses", "learning_rate"]
    assert made.pictures[0].caption.text == "One of the two losses was not recorded."
    none = section(with_study(demo, curves=curves.head(0)))
    assert none.blocks == (Missing("There are no curves to show yet."),)


def test_a_final_has_no_validation_curve(finals: Facts) -> None:
    said = [figure.caption.text for figure in section(finals).pictures if isinstance(figure, Figure)]
    assert "On training images alone: the final trains on all images, so that none are left to validate on." in said
