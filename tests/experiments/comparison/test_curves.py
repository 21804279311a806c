"""Curves of all runs on the same axes."""

from __future__ import annotations

from dataclasses import replace

from experiments.comparison.curves import caption, draw_curves
from experiments.comparison.differences import Comparison
from tests.experiments.comparison.conftest import Chosen
from tests.experiments.comparison.test_differences import with_run


def test_the_caption_ranks_curves_on_the_same_images_only(chosen: Chosen, pair: Comparison) -> None:
    of_others = with_run(pair, conditions={**pair.groups[1].runs[0].conditions, "data_sha256": "cd" * 32})
    text = caption(chosen("good/confirm-2-0", "bad/confirm-2-0"), "accuracy").text
    assert text == "Solid: validation images; dotted: training batches. good/confirm-2-0 ends highest, at 92.40 %."
    assert "cannot be compared by these curves" in caption(chosen("good/confirm-2-0", "five_conv-seed0"), "loss").text
    assert "cannot be compared by these curves" in caption(of_others, "accuracy").text


def test_of_curves_that_end_level_none_is_said_to_end_best(chosen: Chosen) -> None:
    pair = chosen("good/confirm-2-0", "bad/confirm-2-0")
    level = with_run(pair, curves=pair.groups[0].runs[0].curves)
    assert caption(level, "accuracy").text == "Solid: validation images; dotted: training batches."


def test_every_run_has_a_curve_of_training_and_one_of_validation(chosen: Chosen) -> None:
    figure = draw_curves(chosen("good/confirm-2-0", "searched"), "loss")
    assert [trace.name for trace in figure.data] == ["good/confirm-2-0"] * 2 + ["searched"] * 2
    assert [trace.showlegend for trace in figure.data] == [True, False] * 2
    assert figure.layout.xaxis.title.text == "epoch"


def test_the_name_of_a_group_is_no_html(chosen: Chosen) -> None:
    pair = chosen("good/confirm-2-0", "searched")
    named = replace(pair, groups=(replace(pair.groups[0], name="<b>a&b"), *pair.groups[1:]))
    trace = draw_curves(named, "loss").data[0]
    assert trace.hovertemplate.startswith("&lt;b&gt;a&amp;b, ")
    assert trace.name == "<b>a&b", "the legend is the page's own"


def test_finals_have_curves_of_training_alone_and_a_line_of_the_legend(chosen: Chosen) -> None:
    comparison = chosen("good", "twice")
    figure = draw_curves(comparison, "loss")
    assert [(trace.name, trace.showlegend) for trace in figure.data] == [
        ("good", True),
        ("twice", True),
        ("twice", False),
    ]
    assert caption(comparison, "loss").text == (
        "Dotted: training batches; strong: the first run of a group; faint: its other runs."
    )
