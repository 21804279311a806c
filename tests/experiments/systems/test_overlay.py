from __future__ import annotations

import json
from pathlib import Path

import pytest

from experiments.pages import plots
from experiments.systems.overlay import overlay
from tests.experiments.results import RECIPES, content, system, systems, write
from tests.experiments.support import known


def test_our_curves_lie_over_the_published_ones(tmp_path: Path) -> None:
    figure = json.loads(known(overlay(system(tmp_path, "custom_resnet", {}, {}))).to_json())
    assert figure["layout"]["yaxis"]["title"]["text"] == "accuracy (%)"
    assert figure["layout"]["yaxis2"]["title"]["text"] == "loss (nats an image)"
    assert figure["layout"]["xaxis2"]["title"]["text"] == "epoch"
    assert figure["layout"]["xaxis"]["matches"] == "x2"
    assert figure["layout"]["yaxis"]["domain"][0] > figure["layout"]["yaxis2"]["domain"][1]
    assert '"bdata"' not in json.dumps(figure)
    tested = [t for t in figure["data"] if t["name"].startswith("test") and t["yaxis"] == "y"]
    assert [(t["line"]["dash"], t["opacity"]) for t in tested] == [("solid", 0.6), ("solid", 0.5), ("dash", 1)]
    assert len({t["line"]["color"] for t in tested}) == 1
    assert tested[-1]["y"][-1] == 90.06


def test_a_figure_that_was_published_for_the_end_is_a_level(tmp_path: Path) -> None:
    figure = known(overlay(system(tmp_path, "three_conv", {"right": 6500})))
    assert plots.legend(figure) == [
        ("training, ours", plots.BLUE, "line"),
        ("validation, ours", plots.GREEN, "line"),
        ("test result, ours", plots.RUST, "dot"),
        ("test result, published", plots.RUST, "dots"),
        ("training, published", plots.BLUE, "dash"),
        ("validation, published", plots.GREEN, "dash"),
    ]
    level = next(t for t in figure.data if t.name == "test result, published")
    assert (list(level.x), list(level.y)) == ([0, 50], [64.76, 64.76])
    printed = next(t for t in figure.data if t.name == "validation, published")
    assert printed.y[0] == pytest.approx(1.13)


def test_a_test_result_stands_at_the_epoch_of_the_weights_tested(tmp_path: Path) -> None:
    curve = content("three_conv")["curve"]
    curve[11]["val_loss"] = 0.1
    for kept, epoch in (("best", 6), ("last", 50)):
        figure = known(overlay(system(tmp_path, "three_conv", {"curve": curve, "kept": kept})))
        result = next(t for t in figure.data if t.name == "test result, ours")
        assert (list(result.x), list(result.y)) == ([epoch], [80])


def test_without_a_whole_epoch_of_the_shipped_recipe_there_is_no_figure(tmp_path: Path) -> None:
    write(tmp_path, "block_cnn", epochs=0.64)
    write(tmp_path, "dynamic_conv", recipe={**RECIPES["dynamic_conv"], "width": 0.125})
    found = systems(tmp_path)
    assert [overlay(found[name]) for name in ("block_cnn", "dynamic_conv", "five_conv")] == [None] * 3
