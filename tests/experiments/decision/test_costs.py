"""Costs beside those that tests/experiments/test_same_answers.py holds."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments.decision.costs import (
    SECONDS_A_MONTH,
    Cost,
    Speed,
    break_even,
    build,
    buy,
    machines_on,
)
from experiments.decision.facts import Facts, gather
from experiments.reading.published import load_published
from experiments.reading.scenario import Scenario, load_scenario
from sweeps.validation import InvalidFileError
from tests.experiments.support import known, with_artifacts

PUBLISHED = load_published()
SCENARIO = load_scenario(PUBLISHED.prices)
AZURE, VERTEX, _ = SCENARIO.vendors
COST = Cost(
    device="cpu", processor="a processor", machine=PUBLISHED.compute("cpu"), machines=1, run_machines=1,
    seconds=3600.0, estimated=False, flops=1e15, retrain_seconds=600.0, retrain_flops=1e14, training_per_second=500.0,
    speed=Speed(0.01, 0.02, 256, 2000.0, bounded=False, runs=("r",)),
)  # fmt: skip


def test_without_a_timing_training_bounds_the_speed(demo: Facts) -> None:
    speed = known(gather(with_artifacts(demo, serving={}).study, PUBLISHED, SCENARIO).cost.speed)
    assert speed.bounded
    assert speed.latency == pytest.approx(512 / 780)
    assert speed.per_second_batched == 780


def test_more_threads_than_a_machine_has_need_more_machines(demo: Facts) -> None:
    wide = replace(demo.study, tags={**demo.study.tags, "workers": "5"})
    assert gather(wide, PUBLISHED, SCENARIO).cost.machines == 3


def test_a_machine_of_another_device_is_refused(demo: Facts) -> None:
    h100 = replace(SCENARIO, compute=PUBLISHED.compute("cuda"))
    rule = "compute must be a machine with cpu, as study 'demo' ran on it, but 'aws-h100'"
    with pytest.raises(InvalidFileError, match=rule):
        gather(demo.study, PUBLISHED, h100)


def test_compute_that_waits_and_endpoints_that_stop_are_paid_by_the_hours_they_run() -> None:
    waiting = known(build(COST, replace(SCENARIO, latency_bar_ms=None)))
    assert waiting.serving == pytest.approx(250_000 / 2000 / 3600 * 0.0816)
    half = replace(VERTEX, endpoint_hours_per_month=365)
    assert buy(half, SCENARIO).serving == pytest.approx(365 * 1.375)
    assert break_even(COST, VERTEX, replace(SCENARIO, engineering_hours=1000)) is None


def test_more_images_than_a_machine_labels_need_more_machines() -> None:
    carried = 100 * SECONDS_A_MONTH
    assert [machines_on(COST, replace(SCENARIO, images_per_month=n)) for n in (1, carried, carried + 1)] == [1, 1, 2]


@pytest.mark.parametrize(
    ("field", "missing"),
    [
        ("machine", "no price is listed for compute on 'cpu'"),
        ("seconds", "the duration of the study was not recorded"),
        ("retrain_seconds", "no run of the recipe has finished"),
        ("speed", "the speed of the network was not recorded"),
    ],
)
def test_without_one_of_its_parts_building_has_no_cost(field: str, missing: str) -> None:
    assert COST.missing == ""
    cost = replace(COST, **{field: None})  # type: ignore[arg-type]
    assert cost.missing == missing
    assert build(cost, SCENARIO) is None
    assert break_even(cost, AZURE, SCENARIO) is None


@given(st.floats(0, 2000), st.floats(0.001, 1.0), st.none() | st.floats(1, 10_000), st.floats(0.1, 10))
def test_at_break_even_building_costs_what_the_vendor_costs(
    hours: float, latency: float, bar: float | None, years: float
) -> None:
    cost = replace(COST, speed=Speed(latency, None, 256, 2000.0, bounded=False, runs=("r",)))
    scenario = replace(SCENARIO, engineering_hours=hours, latency_bar_ms=bar, horizon_years=years)
    volume = break_even(cost, AZURE, scenario)
    if volume is None or volume == 0:
        assert saved(cost, replace(scenario, images_per_month=1e-6)) >= -1e-3 or volume is None
        return
    at = replace(scenario, images_per_month=volume)
    assert saved(cost, at) == pytest.approx(0, abs=1e-6 * buy(AZURE, at).total(at.months) + 1e-6)
    assert saved(cost, replace(scenario, images_per_month=0.99 * volume)) < 0


def saved(cost: Cost, scenario: Scenario) -> float:
    ours, theirs = known(build(cost, scenario)), buy(AZURE, scenario)
    return theirs.total(scenario.months) - ours.total(scenario.months)
