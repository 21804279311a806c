from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from experiments.decision.costs import build, buy
from experiments.decision.sensitivity import saved, swings
from experiments.pages import plots
from experiments.reading.studies import Reader
from experiments.sections import (
    cost_figures,
    figures,
    static_cost_figures,
    static_figures,
    static_sweep_figures,
    sweep_figures,
)
from experiments.sections.learned import Importances, Slice, best_so_far

if TYPE_CHECKING:
    from tests.experiments.conftest import Fake

MODULES = {
    **dict.fromkeys(("cost_curves", "tornado"), (cost_figures, static_cost_figures)),
    **dict.fromkeys(("importances", "slices", "front"), (sweep_figures, static_sweep_figures)),
}
NAMES = (
    *MODULES,
    "reliability",
    "benchmarks",
    "losses",
    "accuracies",
    "learning_rate",
    "classes",
    "confusion",
    "history",
    "architectures",
)


@pytest.fixture(scope="module")
def arguments(store: Fake) -> dict[str, tuple[Any, ...]]:
    study, m = Reader(store.place).read("demo"), store.measures("demo")
    trials = best_so_far(study.search)
    ours = build(m.cost, m.scenario)
    assert ours
    benchmarks = [*m.published.group("benchmark"), *m.published.group("system")]
    curves = (study.curves,)
    return {
        "benchmarks": (benchmarks, m.test, "ours", m.bar),
        "losses": curves,
        "accuracies": curves,
        "learning_rate": curves,
        "classes": (m.classes, m.bar),
        "confusion": (m.confusion,),
        "history": (trials,),
        "architectures": (trials, m.search.architectures),
        "reliability": (m.calibration,),
        "cost_curves": ([ours, *(buy(v, m.scenario) for v in m.scenario.vendors)], m.scenario.months),
        "tornado": (swings(m), saved(m)),
        "importances": (Importances((("learning_rate / usual", 0.7), ("model", 0.3)), 40),),
        "slices": (
            (
                Slice("learning_rate / usual", (0.3, 1.0, 3.0), (0.5, 0.8, 0.7), (0, 1, 2), log=True),
                Slice("model", ("a", "b", "a"), (0.5, 0.8, 0.7), (0, 1, 2), log=False),
                Slice("translate", (0.0, 2.0, 4.0), (0.5, 0.8, 0.7), (0, 1, 2), log=False),
            ),
        ),
        "front": (m.front, m.published.accuracies, m.test, "ours"),
    }


@pytest.mark.parametrize("name", NAMES)
def test_every_figure_has_titled_axes_clear_paper_and_plain_numbers(
    arguments: dict[str, tuple[Any, ...]], name: str
) -> None:
    figure = json.loads(getattr(MODULES.get(name, (figures,))[0], name)(*arguments[name]).to_json())
    layout = figure["layout"]
    titles = [
        layout[axis].get("title", {}).get("text") for axis in ("xaxis", "yaxis") if layout[axis].get("visible", True)
    ]
    assert any(titles)
    for title in titles:
        assert title is None or "accuracy" not in title or title.endswith("(%)")
        assert title is None or "cost" not in title or title.endswith("(US dollars)")
        assert title is None or "compute" not in title or "PFLOP" in title
        assert title is None or "loss" not in title or "nats" in title
    assert layout["paper_bgcolor"] == layout["plot_bgcolor"] == "rgba(0,0,0,0)"
    assert '"bdata"' not in json.dumps(figure)  # numbers, not packed arrays: the report can be read and compared
    assert all(trace.get("name") or trace.get("type") == "heatmap" or name == "benchmarks" for trace in figure["data"])


@pytest.mark.parametrize("name", NAMES)
def test_every_figure_has_a_static_twin_with_the_same_bytes_each_time(
    arguments: dict[str, tuple[Any, ...]], name: str
) -> None:
    first, second = (getattr(MODULES.get(name, (figures, static_figures))[1], name)(*arguments[name]) for _ in range(2))
    assert first.startswith(b"\x89PNG")
    assert first == second


def test_benchmarks_are_ordered_and_ours_has_its_interval(arguments: dict[str, tuple[Any, ...]]) -> None:
    figure = figures.benchmarks(*arguments["benchmarks"])
    values = [trace.x[0] for trace in figure.data]
    assert values == sorted(values)
    assert [trace.x[0] for trace in figure.data if trace.error_x.array] == [pytest.approx(92.3)]
    hollow = {trace.x[0] for trace in figure.data if trace.marker.symbol == "circle-open"}
    assert hollow == {78.9, 98.5, 99.0}  # trained on more than CIFAR-10


def test_an_accuracy_below_the_axis_moves_its_beginning(arguments: dict[str, tuple[Any, ...]]) -> None:
    published, ours, label, bar = arguments["benchmarks"]
    low = replace(ours, mean=0.386, low=0.38, high=0.39)
    assert figures.benchmarks(published, low, label, bar).layout.xaxis.range[0] == 30
    assert figures.benchmarks(published, ours, label, bar).layout.xaxis.range[0] == 40


def test_without_a_test_accuracy_the_benchmarks_stand_alone(arguments: dict[str, tuple[Any, ...]]) -> None:
    published, _, label, bar = arguments["benchmarks"]
    assert len(figures.benchmarks(published, None, label, bar).data) == len(published)
    assert static_figures.benchmarks(published, None, label, bar).startswith(b"\x89PNG")


def test_the_confusion_figure_colours_errors_only(arguments: dict[str, tuple[Any, ...]]) -> None:
    figure = figures.confusion(*arguments["confusion"])
    assert all(figure.data[0].z[i][i] is None for i in range(10))
    bold = [a.text for a in figure.layout.annotations if a.text.startswith("<b>")]
    assert len(bold) == 10


def test_a_pruned_trial_is_drawn_hollow_and_never_the_best(arguments: dict[str, tuple[Any, ...]]) -> None:
    figure = figures.history(*arguments["history"])
    traces = {trace.name: trace for trace in figure.data}
    assert traces["pruned, when stopped"].marker.symbol == "circle-open"
    assert list(traces["best so far"].y) == sorted(traces["best so far"].y)
    assert max(traces["best so far"].y) == max(traces["complete"].y)


def test_a_legend_names_each_kind_of_mark_once(arguments: dict[str, tuple[Any, ...]]) -> None:
    assert plots.legend(figures.losses(*arguments["losses"])) == [
        ("training", plots.BLUE, "line"),
        ("validation", plots.RUST, "line"),
    ]
    assert [shape for _, _, shape in plots.legend(figures.history(*arguments["history"]))] == [
        "dot",
        "ring",
        "line",
    ]
