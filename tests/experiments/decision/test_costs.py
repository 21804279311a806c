from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

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
    cheapest,
    machines_on,
    payback_months,
)
from experiments.decision.measures import measure
from experiments.reading.published import load_published
from experiments.reading.scenario import Scenario, ScenarioError, load_scenario
from experiments.reading.studies import Reader

if TYPE_CHECKING:
    from tests.experiments.conftest import Fake

SCENARIO = load_scenario(load_published())
AZURE, VERTEX, REKOGNITION = SCENARIO.vendors
COST = Cost(
    device="cpu",
    processor="a processor",
    machine=load_published().compute("cpu"),
    machines=1,
    run_machines=1,
    seconds=3600.0,
    estimated=False,
    flops=1e15,
    retrain_seconds=600.0,
    retrain_flops=1e14,
    training_per_second=500.0,
    speed=Speed(0.01, 0.02, 100.0, 256, 2000.0, bounded=False, runs=("r",)),
    runs=("r",),
)


def test_compute_is_priced_by_measured_wall_time(store: Fake) -> None:
    cost = store.measures("demo").cost
    assert cost.machine is not None
    assert (cost.machine.key, cost.machines, cost.estimated) == ("aws-m7g", 1, False)
    assert cost.study_usd == pytest.approx(0.0816 * 1290 / 3600)
    assert cost.retrain_usd == pytest.approx(0.0816 * 240.5 / 3600)
    assert cost.flops == pytest.approx(3.1e14 + 7e14)


def test_labelling_is_priced_by_what_was_timed(store: Fake) -> None:
    cost = store.measures("demo").cost
    assert cost.speed is not None
    assert (cost.speed.latency, cost.speed.worst, cost.speed.batch, cost.speed.bounded) == (0.004, 0.006, 256, False)
    assert cost.per_1000_single_usd == pytest.approx(0.0816 / 3600 * 4)
    assert cost.per_1000_usd == pytest.approx(0.0816 / 3600 * 1000 / 1600)


def test_without_a_timing_training_bounds_the_speed(fresh_store: Fake) -> None:
    fresh_store.add(omit=("test/serving.json",))
    speed = fresh_store.measures("demo").cost.speed
    assert speed is not None
    assert speed.bounded
    assert speed.latency == pytest.approx(512 / 780)
    assert speed.per_second_batched == 780


def test_more_threads_than_a_machine_has_need_more_machines(store: Fake) -> None:
    study = Reader(store.place).read("demo")
    wide = measure(replace(study, tags={**study.tags, "workers": "5"}), load_published(), SCENARIO)
    assert wide.cost.machines == 3


def test_without_a_recorded_wall_time_the_runs_are_added_up(store: Fake) -> None:
    cost = store.measures("interrupted").cost
    assert cost.estimated
    assert cost.seconds == pytest.approx(95 / 2)  # one complete trial; two workers


def test_a_machine_of_another_device_is_refused(store: Fake) -> None:
    study, h100 = Reader(store.place).read("demo"), load_published().compute("cuda")
    with pytest.raises(
        ScenarioError, match=r"compute must be a machine with cpu, as study 'demo' ran on it, but 'aws-h100'"
    ):
        measure(study, load_published(), replace(SCENARIO, compute=h100))


def test_building_adds_up_people_study_retraining_and_a_machine_kept_on() -> None:
    way = build(COST, SCENARIO)
    assert way is not None
    assert way.once == pytest.approx(9600 + 0.0816)
    assert way.month == pytest.approx(0.0816 / 6 * 4 / 12 + 730 * 0.0816)
    assert way.total(36) == pytest.approx(way.once + 36 * way.month)


def test_without_a_latency_bar_compute_is_paid_by_the_second() -> None:
    way = build(COST, replace(SCENARIO, latency_bar_ms=None))
    assert way is not None
    assert way.serving == pytest.approx(250_000 / 2000 / 3600 * 0.0816)


def test_more_images_than_a_machine_labels_need_more_machines() -> None:
    carried = 100 * SECONDS_A_MONTH
    assert [machines_on(COST, replace(SCENARIO, images_per_month=n)) for n in (1, carried, carried + 1)] == [1, 1, 2]


def test_buying_adds_up_trainings_calls_and_idle_hours() -> None:
    assert buy(AZURE, SCENARIO).total(36) == pytest.approx(10 + 12 * 10 + 36 * 250 * 2)
    assert buy(VERTEX, SCENARIO).total(36) == pytest.approx(27.72 * 13 + 36 * 730 * 1.375)
    half = replace(VERTEX, endpoint_hours_per_month=365)
    assert buy(half, SCENARIO).serving == pytest.approx(365 * 1.375)
    assert cheapest(SCENARIO).name == "Azure Custom Vision"


@pytest.mark.parametrize("field", ["machine", "seconds", "retrain_seconds", "speed"])
def test_a_part_that_is_unknown_leaves_building_without_a_cost(field: str) -> None:
    cost = replace(COST, **{field: None})  # type: ignore[arg-type]
    assert build(cost, SCENARIO) is None
    assert break_even(cost, AZURE, SCENARIO) is None


@given(
    st.floats(0, 2000),
    st.floats(0.001, 1.0),
    st.one_of(st.none(), st.floats(1, 10_000)),
    st.floats(0.1, 10),
)
def test_at_break_even_building_costs_what_the_vendor_costs(
    hours: float, latency: float, bar: float | None, years: float
) -> None:
    cost = replace(COST, speed=Speed(latency, None, 1 / latency, 256, 2000.0, bounded=False, runs=("r",)))
    scenario = replace(SCENARIO, engineering_hours=hours, latency_bar_ms=bar, horizon_years=years)
    volume = break_even(cost, AZURE, scenario)
    if volume is None or volume == 0:
        assert saved(cost, replace(scenario, images_per_month=1e-6)) >= -1e-3 or volume is None
        return
    at = replace(scenario, images_per_month=volume)
    assert saved(cost, at) == pytest.approx(0, abs=1e-6 * buy(AZURE, at).total(at.months) + 1e-6)
    assert saved(cost, replace(scenario, images_per_month=0.99 * volume)) < 0


def test_an_endpoint_has_no_break_even_that_it_does_not_have_at_once() -> None:
    assert break_even(COST, VERTEX, SCENARIO) == 0
    dear = replace(SCENARIO, engineering_hours=1000)
    assert break_even(COST, VERTEX, dear) is None


def test_payback_is_where_the_lines_cross() -> None:
    ours, theirs = build(COST, SCENARIO), buy(AZURE, SCENARIO)
    assert ours is not None
    months = payback_months(ours, theirs)
    assert months is not None
    assert ours.total(months) == pytest.approx(theirs.total(months))
    assert payback_months(theirs, ours) == 0
    assert payback_months(replace(ours, serving=1000.0), theirs) is None


def saved(cost: Cost, scenario: Scenario) -> float:
    ours = build(cost, scenario)
    assert ours is not None
    return buy(AZURE, scenario).total(scenario.months) - ours.total(scenario.months)
