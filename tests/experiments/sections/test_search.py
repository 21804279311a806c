from __future__ import annotations

import math
from dataclasses import replace

import pandas as pd
import pytest

from cifar_core.data.data_set import CIFAR10
from experiments.decision.facts import Facts
from experiments.pages.blocks import Missing, Pairs, Table
from experiments.sections.search import architectures_of, best_so_far, failure, pareto_front, section
from experiments.stats import wilson
from tests.experiments.support import figures, said, with_cost, with_study


def with_trials(facts: Facts, accuracies: list[float], models: list[str] | None = None) -> Facts:
    """`facts` of a study with complete trials of these validation accuracies; NaN: a trial that failed."""
    search = pd.concat([facts.study.search.head(1)] * len(accuracies), ignore_index=True)
    search = search.assign(
        **{
            "trial": [float(n) for n in range(len(accuracies))],
            "run_id": [f"{n:032x}" for n in range(len(accuracies))],
            "state": ["failed" if math.isnan(v) else "complete" for v in accuracies],
            "metrics.val/accuracy": accuracies,
            "params.model": models or ["fast_resnet"] * len(accuracies),
        }
    )
    return with_study(facts, search=search)


def test_only_complete_trials_can_be_the_best() -> None:
    trials = pd.DataFrame(
        {
            "trial": [3.0, 0.0, 1.0, 2.0],
            "metrics.val/accuracy": [0.7, 0.9, 0.5, math.nan],
            "state": ["complete", "pruned", "complete", "failed"],
            "params.model": ["a", "b", None, "a"],
            "run_id": ["r3", "r0", "r1", "r2"],
        }
    )
    frame = best_so_far(trials)
    assert frame["trial"].tolist() == [0, 1, 3]
    assert math.isnan(frame["best"].iloc[0])
    assert frame["best"].tolist()[1:] == [0.5, 0.7]
    assert frame["model"].tolist() == ["b", "unknown", "a"]


def test_the_table_counts_trials_compute_and_time(demo: Facts) -> None:
    table = next(block for block in section(demo).blocks if isinstance(block, Pairs))
    rows = {label.text: value.text for label, value in table.rows}
    assert rows["Trials"] == "2 complete, 3 pruned, 1 failed (loss is not finite); 6 planned"
    assert rows["Training compute"].startswith("0.31 PFLOP spent on the search, of 0.82 PFLOP that full trials would")
    assert rows["Pruning"].startswith("Saved ")
    assert rows["Wall time"] == "21 min 30 s"
    begun = section(with_cost(with_study(demo, metrics={}), flops=3e14))
    table = next(block for block in begun.blocks if isinstance(block, Pairs))
    assert {label.text: value.text for label, value in table.rows}["Training compute"] == "0.30 PFLOP so far"
    bare = section(with_cost(with_study(demo, metrics={}), seconds=None, flops=None))
    table = next(block for block in bare.blocks if isinstance(block, Pairs))
    assert [value.text for _, value in table.rows][3:5] == ["not recorded", "not recorded"]


def test_failed_trials_have_their_most_frequent_reason(demo: Facts) -> None:
    failed = with_trials(demo, [math.nan] * 3).study
    assert failure(failed) == ""
    for reasons, told in ((["a", "a", "a"], " (a)"), (["b", "a", "a"], " (most often a)"), ([None, "b", None], " (b)")):
        assert failure(replace(failed, search=failed.search.assign(**{"tags.reason": reasons}))) == told


def test_the_history_draws_only_what_there_is(demo: Facts) -> None:
    pruned = demo.study.search[demo.study.search["state"] == "pruned"]
    history = figures(section(with_study(demo, search=pruned)))["history"].figure
    assert [trace.name for trace in history.data] == ["pruned, when stopped"]
    assert history.layout.xaxis.range[0] < 0, "the mark of trial 0 stands beside the axis"


def test_the_images_behind_an_accuracy_of_the_search_are_stated(demo: Facts) -> None:
    assert "was not recorded" in judged(demo)
    judges = {**demo.study.params, "rung_images": "1000", "trial_images": "3000"}
    assert judged(with_study(demo, params=judges)) == (
        "1,000 validation images where trials are pruned (95 % interval of 70 %: \N{PLUS-MINUS SIGN}2.84 points), "
        "3,000 at the end (\N{PLUS-MINUS SIGN}1.64 points)"
    )


def judged(facts: Facts) -> str:
    table = next(block for block in section(facts).blocks if isinstance(block, Pairs))
    return {label.text: value.text for label, value in table.rows}["Judged on"]


@pytest.mark.parametrize(
    ("accuracies", "words"),
    [
        ([math.nan], "No trial is complete, so the search has taught nothing yet"),
        ([0.84], "One trial is complete, at 84.0 % validation accuracy (trial 0): too few"),
        ([0.5] * 8 + [0.84], "9 complete trials are too few"),
        ([0.5] * 24 + [0.84] + [0.5] * 6, "number 25 of 31 that are complete. Where the best one lies does not tell"),
        ([0.84] + [0.5] * 11, "The first complete trial stayed the best, at 84.0 % validation accuracy"),
        ([0.84] + [0.5] * 11, "none of the 11 complete trials after it did better"),
    ],
)
def test_nothing_is_concluded_from_where_the_best_trial_lies(demo: Facts, accuracies: list[float], words: str) -> None:
    assert words in said(section(with_trials(demo, accuracies)), "learning")


@pytest.mark.parametrize(
    ("saved", "words"),
    [
        (None, "was not recorded"),
        (0.0, "saved nothing"),
        (0.496, "Pruning saved 49.6 % of the training compute that full trials would have taken, short of the aim"),
        (0.5, "meets the aim of half"),
    ],
)
def test_pruning_is_compared_with_the_aim(demo: Facts, saved: float | None, words: str) -> None:
    metrics = {} if saved is None else {"study/saved_fraction": saved}
    assert words in said(section(with_study(demo, metrics=metrics)), "learning")


@pytest.mark.parametrize(
    ("accuracies", "words"),
    [
        ([math.nan] * 3, "No architecture has a complete trial"),
        ([0.9, 0.7, math.nan], "Only one architecture has a complete trial (a)"),
        ([0.9, 0.7, 0.8], "Of the two architectures with a complete trial, the best trials lie 10.0 points"),
    ],
)
def test_the_worth_of_an_architecture_needs_two(demo: Facts, accuracies: list[float], words: str) -> None:
    assert words in said(section(with_trials(demo, accuracies, ["a", "a", "b"])), "customisation")


def test_architectures_are_ranked_by_their_best_trial(demo: Facts) -> None:
    facts = with_trials(demo, [0.5, 0.9, math.nan, 0.9, 0.7], ["b", "c", "a", "a", "b"])
    found = [(a.name, a.best, a.complete, a.tried) for a in architectures_of(facts.study)]
    assert found == [("a", 0.9, 1, 2), ("c", 0.9, 1, 1), ("b", 0.7, 2, 2)]
    figure = figures(section(facts))["architectures"]
    assert "from b (70.0 %) to a (90.0 %, tried in 2 of 5 trials)" in figure.caption.text
    assert list(figure.figure.layout.yaxis.categoryarray) == ["b", "c", "a"]


def test_where_the_study_names_no_images_of_a_trial_all_those_of_its_data_count(demo: Facts) -> None:
    few = architectures_of(replace(demo.study, data_set=replace(CIFAR10, val_images=40)))[0]
    assert (few.low, few.high) == wilson(few.best, 40)


def test_architectures_stand_in_a_table_with_intervals_and_times(demo: Facts) -> None:
    facts = with_trials(demo, [0.5, 0.9, 0.7], ["b", "a", "b"])
    facts = with_study(facts, params={**facts.study.params, "trial_images": "1000"})
    [table] = [block for block in section(facts).blocks if isinstance(block, Table)]
    assert table.titles[3] == "Best trial", "with --epochs, trials differ in their compute"
    rows = [[cell.text for cell in row.cells] for row in table.rows]
    assert [row[:5] for row in rows] == [
        ["a", "1", "1", "90.0 %", "88.0 % to 91.7 %"],
        ["b", "2", "2", "70.0 %", "67.1 % to 72.8 %"],
    ]
    alone = with_trials(demo, [0.5, 0.9], ["a", "a"])
    assert not [block for block in section(alone).blocks if isinstance(block, Table)]


def test_a_pruned_trial_is_drawn_hollow_and_never_the_best(demo: Facts) -> None:
    history = figures(section(demo))["history"]
    traces = {trace.name: trace for trace in history.figure.data}
    assert traces["pruned, when stopped"].marker.symbol == "circle-open"
    assert list(traces["best so far"].y) == sorted(traces["best so far"].y)
    assert max(traces["best so far"].y) == max(traces["complete"].y)
    assert [shape for _, _, shape in history.legend] == ["dot", "ring", "line"]


def test_the_pareto_front_holds_what_nothing_beats_with_less_compute(demo: Facts) -> None:
    found = pareto_front(demo.study)
    assert sorted(found.runs["stage"].value_counts().to_dict().items()) == [("confirm", 2), ("search", 2)]
    assert [pytest.approx(point) for point in found.best] == [(9e13, 0.929)]
    cheap = demo.study.search.assign(**{"metrics.cost/training_flops": 1e13})
    assert [flops for flops, _ in pareto_front(replace(demo.study, search=cheap)).best] == [1e13, 9e13]


def test_published_systems_stand_beside_ours_and_those_of_unknown_compute_at_the_edge(demo: Facts) -> None:
    figure = figures(section(demo))["front"]
    traces = {trace.name: trace for trace in figure.figure.data}
    assert list(traces["this study (fast_resnet) (test)"].y) == [pytest.approx(92.3)]
    known = traces["published (test)"]
    [edge] = set(traces["published, compute not stated (at the right edge)"].x)
    assert edge == pytest.approx(4 * max(known.x), rel=1e-5)
    assert [text for text in known.text if text].count("airbench") == 1
    assert "The champion took 90.00 TFLOP a run and reached 92.30 %; the least compute published" in figure.caption.text
    untested = figures(section(replace(demo, test=None)))["front"]
    assert untested.caption.text == "Each point of this study is a run, on validation images."
    told = "Each point of this study is a run, on validation images; the champion is on test images."
    assert figure.caption.text.startswith(told)
    assert "this study (fast_resnet) (test)" not in {trace.name for trace in untested.figure.data}


def test_a_study_without_a_run_has_nothing_to_draw(demo: Facts) -> None:
    made = section(with_study(demo, search=demo.study.search.head(0), confirm=demo.study.confirm.head(0)))
    assert made.pictures == ()
    assert made.blocks[-1] == Missing(
        "No run has both an accuracy and its compute on record, so there is nothing to draw."
    )
