"""Figures in tags: what is a metric and what is not, and that damaged tags cost nothing."""

from __future__ import annotations

import pytest

from sweeps.tracking.figures import figures_in, figures_of, split_figures


def test_what_has_a_curve_stays_a_metric() -> None:
    metrics = {"val/accuracy": 0.5, "lr": 0.1, "cost/seconds": 3.25, "cost/epochs": 0.4, "val_class/cat": 1 / 3}
    curves, tags = split_figures(metrics)
    assert curves == {"val/accuracy": 0.5, "lr": 0.1}
    assert tags["figures.cost"] == '{"seconds": 3.25, "epochs": 0.4}'
    assert set(tags) == {"figures.cost", "figures.val_class"}
    assert curves | figures_of(tags) == metrics, "to the last bit"


def test_other_tags_hold_none() -> None:
    assert figures_of({"study": '{"seconds": 1}', "cost": '{"seconds": 1}', "stage": "search"}) == {}


@pytest.mark.parametrize("text", ["", "3", "[1]", "{", '{"seconds": "soon"}', '{"seconds": null}', "null"])
def test_a_tag_edited_by_hand_has_none(text: str) -> None:
    assert figures_in("figures.cost", text) == {}


def test_hundreds_of_classes_fit_into_tags() -> None:
    metrics = {f"val_class/{number:03d}{'ß' * 97}": 1 / (number + 3) for number in range(200)}
    curves, tags = split_figures(metrics)
    assert curves == {}
    assert list(tags) == ["figures.val_class", *(f"figures.val_class {number}" for number in (2, 3, 4))]
    assert max(map(len, tags.values())) < 8_000, "MLflow cuts longer ones"
    assert figures_of(tags) == metrics
