"""The answer in a sentence, caveats, and McNemar's test image by image."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from experiments.comparison import outcome
from experiments.comparison.differences import Comparison
from experiments.pages.blocks import Bullets, Table
from experiments.pages.text import CitedText
from tests.experiments.comparison.conftest import Chosen
from tests.experiments.comparison.test_differences import scaled


@pytest.mark.parametrize(
    ("factor", "text"),
    [
        (2, "Yes, worse than good: level in time to train."),
        (0.5, "No: nothing that can be judged is worse than good."),
    ],
)
def test_regressions_name_the_metrics(chosen: Chosen, factor: float, text: str) -> None:
    comparison = scaled(chosen("good", "level", baseline="good"), "cost/seconds", factor)
    assert outcome.headline(comparison).text == text


def test_groups_without_a_comparable_accuracy_or_loss_are_no_all_clear(chosen: Chosen) -> None:
    told = outcome.headline(chosen("good", "searched", baseline="good")).text
    reason = "No accuracy or loss of searched can be compared with good: none is on the same images."
    assert told == f"{reason} Nothing that can be judged is worse."
    worse = outcome.headline(chosen("good", "searched", "bad", baseline="good")).text
    assert worse == f"Yes, worse than good: bad in test accuracy. {reason}"
    for conditions, why in (({"data_sha256": "cd" * 32}, "another data set"), ({}, "the data set of level is not rec")):
        first, second = chosen("good", "level", baseline="good").groups
        moved = replace(second, runs=tuple(replace(r, conditions=conditions) for r in second.runs))
        told = outcome.headline(Comparison((first, moved), first, baseline=True)).text
        assert told.startswith(f"No accuracy or loss of level can be compared with good: {why}")


def test_without_a_baseline_the_headline_compares_accuracies(chosen: Chosen) -> None:
    told = outcome.headline(chosen("good", "bad", "level", "searched")).text
    assert told == (
        "On the test images bad is worse than good (-12.00 points) and level is not significantly different from good "
        "(0.00 points). searched cannot be compared on them."
    )
    told = outcome.headline(chosen("good/trial-1", "bad")).text
    assert told == "No accuracy of good/trial-1 can be compared with another: no accuracy on the same images."
    comparison = chosen("good", "bad")
    first, second = comparison.groups
    begun = replace(first, runs=(replace(first.runs[0], metrics={}),))
    told = outcome.headline(replace(comparison, groups=(begun, second), reference=begun)).text
    assert told == "good has no accuracy yet, so that none can be compared with it."


def test_each_reason_against_a_comparison_names_its_groups(chosen: Chosen) -> None:
    changes: dict[str, dict[str, Any]] = {
        "bad": {"conditions": {"data_sha256": "cd" * 32}},
        "level": {"metrics": {"val/accuracy": 0.9}},
        "twice": {"conditions": {}},
    }
    groups = tuple(
        replace(group, runs=tuple(replace(r, **changes.get(group.name, {})) for r in group.runs))
        for group in chosen("good", "bad", "level", "twice", "searched").groups
    )
    comparison = Comparison(groups, groups[0], baseline=False)
    assert outcome.headline(comparison).text == (
        "No accuracy of good can be compared with another: another data set (bad); no accuracy on the same images "
        "(level and searched); the data set of twice is not recorded."
    )


def test_what_was_not_measured_for_the_reference_is_said_once(chosen: Chosen) -> None:
    _, line, *_ = outcome.metrics(chosen("good", "good/trial-0", "good/trial-2")).blocks
    assert line == CitedText("Not judged, as not measured for good: validation accuracy and validation loss.")
    _, line, *_ = outcome.metrics(chosen("good", "bad")).blocks
    assert line == CitedText(outcome.RULES)


def test_groups_say_what_they_are_and_which_runs_are_not_complete(chosen: Chosen) -> None:
    comparison = chosen("twice", "good/trial-1")
    table = next(block for block in outcome.lead(comparison).blocks if isinstance(block, Table))
    assert [row.cells[1].text for row in table.rows] == ["champion of the study, 2 runs", "trial 1 of good; pruned"]
    caveats = next(block for block in outcome.metrics(comparison).blocks if isinstance(block, Bullets))
    assert [item.text for item in caveats.items] == [
        "good/trial-1 is pruned: its latest figures are shown but not compared."
    ]


def test_each_group_has_a_row_or_a_reason(chosen: Chosen) -> None:
    comparison = chosen("good", "bad", "searched", "twice")
    _, table, note = outcome.images(comparison).blocks
    assert isinstance(table, Table)
    assert [cell.text for cell in table.rows[0].cells] == [
        *("bad", "120", "0", "800", "80", "-12.00", "chi-squared, p < 0.001"),
    ]
    assert table.rows[1].cells[1].text == "Answers to single images: none of searched, which was not tested."
    first = comparison.groups[3].run_ids[0][:8]
    assert note == CitedText(f"Of a group of several runs the test takes the first: run {first} for twice.")
