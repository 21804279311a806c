"""Parameters and conditions in which groups differ."""

from __future__ import annotations

from dataclasses import replace

import pytest

from experiments.comparison.differences import CONDITIONS, PARAMETERS, Comparison
from experiments.comparison.settings import compare_settings, section, shown
from experiments.pages.blocks import Table
from experiments.pages.text import CitedText
from tests.experiments.comparison.conftest import Chosen
from tests.experiments.comparison.test_differences import with_run


def test_only_parameters_that_differ_are_listed(chosen: Chosen) -> None:
    comparison = chosen("good/trial-0", "twice")
    different, common, partial = compare_settings(comparison, PARAMETERS)
    assert different.T.to_dict("list") == {"model": ["five_conv", "fast_resnet"], "seed": ["0", "0, 1"]}
    assert {"width", "batch_size", "learning_rate"} <= set(common.index)
    assert partial.empty
    assert compare_settings(comparison, CONDITIONS)[0].empty


def test_parameters_that_some_groups_did_not_record_are_named(pair: Comparison) -> None:
    params = pair.groups[1].runs[0].params
    changed = with_run(pair, params={k: v for k, v in params.items() if k != "width"})
    assert list(compare_settings(changed, PARAMETERS)[2].index) == ["width"]
    texts = [block.text for block in section(changed).blocks if isinstance(block, CitedText)]
    assert "Only some groups recorded this, with equal values: width." in texts


def test_a_setting_that_one_of_three_groups_lacks_is_shown_as_not_recorded(chosen: Chosen) -> None:
    comparison = chosen("good", "level", "good/trial-0")
    params = {"level": {"width": "2.0"}, "good/trial-0": {}}
    groups = tuple(
        replace(group, runs=(replace(group.runs[0], params=params.get(group.name, {"width": "1.0"})),))
        for group in comparison.groups
    )
    tables = [block for block in section(replace(comparison, groups=groups)).blocks if isinstance(block, Table)]
    assert [cell.text for cell in tables[0].rows[0].cells] == ["width", "1.0", "2.0", "not recorded"]


def test_conditions_that_differ_are_listed(pair: Comparison) -> None:
    moved = with_run(pair, conditions={**pair.groups[1].runs[0].conditions, "threads": "8"})
    assert compare_settings(moved, CONDITIONS)[0].T.to_dict("list") == {"threads": ["1", "8"]}


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("git_commit", "0f" * 20 + "-dirty", "0f0f0f0f-dirty"),
        ("learning_rate", "0.3213508006975254", "0.321351"),
        ("seed", "0, 1", "0, 1"),
        ("trial_flops", "319450479722496.0, 5946280574976.0", "319.45 TFLOP, 5.94628 TFLOP"),
        ("trial_flops", "5889926676480, 5888724295680", "5.88993 TFLOP, 5.88872 TFLOP"),
        ("trial_flops", "0", "0 MFLOP"),
        ("flops_per_image", "626432448.0", "626.432 MFLOP"),
        ("flops_per_image", "626432448.0.", "626.432 MFLOP."),
        ("parameters", "1972792", "1,972,792"),
        ("parameters", "9" * 5000, "9" * 5000),
        ("torch", None, "not recorded"),
    ],
)
def test_long_values_are_shortened_or_get_their_unit(name: str, value: str | None, text: str) -> None:
    assert shown(name, value) == text
