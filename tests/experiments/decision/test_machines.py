"""Machines and speed beside those that tests/experiments/test_same_answers.py holds."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cifar_core.evaluation.serving import Timing, p95
from experiments.decision.costs import build
from experiments.decision.facts import Facts
from experiments.decision.machines import (
    LOAD_LIMIT,
    SECONDS_A_MONTH,
    Cost,
    Speed,
    adapting_cost,
    answer_seconds,
    capacity,
    machines_on,
)
from experiments.reading.published import Price, load_published
from experiments.reading.scenario import load_scenario
from sweeps.validation import InvalidFileError
from tests.experiments.support import ADAPTED, HICCUPS, gathered, known, with_artifacts

PUBLISHED = load_published()
SCENARIO = load_scenario(PUBLISHED)
COST = Cost(
    device="cpu", processor="a processor", machine=PUBLISHED.compute("cpu"), units=2, run_units=1,
    seconds=3600.0, estimated=False, flops=1e15, retrain_seconds=600.0, retrain_flops=1e14, training_per_second=500.0,
    speed=Speed(0.01, 0.02, 256, 2000.0, bounded=False, runs=("r",)),
)  # fmt: skip


def test_without_a_timing_training_bounds_the_speed(demo: Facts) -> None:
    speed = known(gathered(with_artifacts(demo, serving={}).study, PUBLISHED, SCENARIO).cost.speed)
    assert speed.bounded
    assert speed.latency == pytest.approx(512 / 780)
    assert speed.per_second_batched == 780


def test_the_mean_of_the_timings_counts(demo: Facts) -> None:
    timings = {run: tuple(replace(t, mean_seconds=2 * t.seconds) for t in known(demo.study.artifacts.serving.get(run)))
               for run in demo.study.artifacts.serving}  # fmt: skip
    speed = known(gathered(with_artifacts(demo, serving=timings).study, PUBLISHED, SCENARIO).cost.speed)
    assert (speed.latency, speed.p95, speed.per_second_batched) == pytest.approx((0.008, 0.006, 800))


def test_more_threads_than_a_machine_has_need_more_machines(demo: Facts) -> None:
    wide = replace(demo.study, tags={**demo.study.tags, "workers": "5"})
    assert gathered(wide, PUBLISHED, SCENARIO).cost.machines == 3


def test_a_run_that_fills_two_machines_costs_both() -> None:
    one, two = COST, replace(COST, units=8, run_units=4)
    assert (known(one.machine).units, one.run_machines, two.run_machines) == (2, 1, 2)
    assert known(one.retrain_usd) == pytest.approx(known(one.machine).usd / 6)
    assert (two.retrain_usd, two.per_1000_single_usd) == (
        2 * known(one.retrain_usd),
        4 * known(one.per_1000_single_usd),
    )


def test_gpus_side_by_side_are_all_paid_for(demo: Facts) -> None:
    tags = {**demo.study.tags, "device": "cuda", "workers": "8", "gpus": "8"}
    cost = gathered(replace(demo.study, tags=tags), PUBLISHED, SCENARIO).cost
    assert (cost.machines, cost.run_machines) == (8, 1)
    assert cost.study_usd == pytest.approx(8 * known(cost.machine).usd * 1290 / 3600)
    four = replace(SCENARIO, compute=replace(known(cost.machine), units=4))
    assert gathered(replace(demo.study, tags=tags), PUBLISHED, four).cost.machines == 2
    del tags["gpus"]  # of an earlier version: the workers may have shared one
    assert gathered(replace(demo.study, tags=tags), PUBLISHED, SCENARIO).cost.machines == 1


def test_an_unfinished_study_has_taken_the_time_of_its_runs_by_their_share_of_the_machine(demo: Facts) -> None:
    trials = float(demo.study.search["metrics.cost/seconds"].sum())
    again = sum(float(runs["metrics.cost/seconds"].sum()) for runs in (demo.study.confirm, demo.study.final))
    assert trials > 0
    assert again > 0
    attempts = demo.study.attempts
    threads = ["1" if stage == "search" else "2" for stage in attempts["tags.stage"]]
    study = replace(demo.study, metrics={}, attempts=attempts.assign(**{"tags.threads": threads}))
    for more, seconds in (
        ({"cores": "2"}, trials / 2 + again),
        ({"cores": "3", "workers": "2"}, trials / 2 + again * 2 / 3),  # a core that no worker took
        ({"device": "cuda"}, (trials + again) / 2),
    ):
        cost = gathered(replace(study, tags={**study.tags, **more}), PUBLISHED, SCENARIO).cost
        assert cost.estimated
        assert cost.seconds == pytest.approx(seconds)


def test_all_cores_of_the_machine_that_is_paid_label_images(demo: Facts) -> None:
    cost = demo.cost
    assert cost.copies == 2  # of one thread each, on a machine of two
    assert cost.per_1000_usd == pytest.approx(0.0816 / 3600 * 1000 / (2 * 1600))
    own = gathered(demo.study, PUBLISHED, replace(SCENARIO, compute=replace(known(cost.machine), units=1)))
    assert own.cost.copies == 1


def test_an_adapted_network_has_the_machines_of_its_own_threads(demo: Facts) -> None:
    cluster = replace(COST, units=32)
    for threads, machines in ((2, 1), (8, 4)):
        cost = adapting_cost(cluster, replace(ADAPTED, threads=threads), PUBLISHED)
        assert (cost.machines, cost.run_machines) == (machines, machines)
        assert cost.study_usd == pytest.approx(machines * 0.0816 * 600 / 3600)
    assert [adapting_cost(cluster, replace(ADAPTED, threads=n), PUBLISHED).copies for n in (1, 2)] == [2, 1]
    gpu = adapting_cost(cluster, replace(ADAPTED, device="cuda", threads=8), PUBLISHED)
    assert (known(gpu.machine).device, gpu.machines, gpu.run_machines) == ("cuda", 1, 1)


def test_a_machine_whose_price_is_stated_has_the_threads_of_the_study(demo: Facts) -> None:
    stated = Price(key="scenario-compute", name="own", role="compute", usd=0.7, units=None, source="mine.toml", date="")
    wide = replace(demo.study, tags={**demo.study.tags, "workers": "8", "threads": "2"})
    for threads, copies in (("16", 1), ("4", 4)):
        study = replace(wide, final=demo.study.final.assign(**{"tags.threads": threads}))
        assert gathered(study, PUBLISHED, replace(SCENARIO, compute=stated)).cost.copies == copies


def test_a_machine_of_another_device_is_refused(demo: Facts) -> None:
    h100 = replace(SCENARIO, compute=PUBLISHED.compute("cuda"))
    rule = "compute must be a machine with cpu, as study 'demo' ran on it, but 'aws-h100'"
    with pytest.raises(InvalidFileError, match=rule):
        gathered(demo.study, PUBLISHED, h100)


def test_machines_are_busy_for_no_more_than_the_limit() -> None:
    carried = 2 * 100 * SECONDS_A_MONTH * LOAD_LIMIT
    assert [machines_on(COST, images) for images in (1, carried, carried + 1)] == [1, 1, 2]


@given(st.floats(1, 1e12))
def test_the_load_of_a_machine_adds_its_wait_to_an_answer(images: float) -> None:
    # At the limit of 60 %, 95 % of the images wait for at most 2.83 answers.
    seconds = known(answer_seconds(COST, images))
    assert 0.02 <= seconds <= 0.02 + 2.83 * 0.01
    one, two = (answer_seconds(replace(COST, run_units=threads), images) for threads in (2, 4))
    assert one == pytest.approx(two), "two machines answer as one"
    assert answer_seconds(COST, 2 * 100 * SECONDS_A_MONTH * LOAD_LIMIT) == pytest.approx(0.0483, abs=1e-5)


@pytest.mark.parametrize("load", [0.02, 0.1, 0.3, 0.6])
@pytest.mark.parametrize(("spread", "least", "most"), [(0.0, 0.945, 0.981), (0.3, 0.92, 0.985)])
def test_95_percent_of_the_answers_of_a_simulated_queue_come_in_time(
    load: float, spread: float, least: float, most: float
) -> None:
    generator, count = np.random.default_rng(0), 300_000
    taken = generator.lognormal(-np.log1p(spread**2) / 2, np.sqrt(np.log1p(spread**2)), count)  # 1 on average
    balance = np.cumsum(taken[:-1] - generator.exponential(1 / load, count - 1))  # Lindley, 1952
    balance = np.concatenate([[0.0], balance])
    answers = balance - np.minimum.accumulate(balance) + taken
    speed = Speed(1.0, float(np.quantile(taken, 0.95)), 256, 2000.0, bounded=False, runs=("r",))
    cost = replace(COST, speed=speed)
    assert least <= (answers <= known(answer_seconds(cost, load * capacity(cost))) + 1e-9).mean() <= most


def timed(times: np.ndarray) -> Speed:
    """The speed of a network of which single images took so long."""
    taken = [float(seconds) for seconds in times]
    single = Timing(1, float(np.median(times)), p95(taken), len(taken), float(times.mean()))
    return known(adapting_cost(COST, replace(ADAPTED, serving=(single, ADAPTED.serving[-1])), PUBLISHED).speed)


@pytest.mark.parametrize("count", [59, 200])
def test_times_are_uneven_where_an_equal_time_says_nothing_of_the_wait(count: int) -> None:
    generator = np.random.default_rng(0)

    def drawn(spread: float) -> np.ndarray:
        deviation = np.sqrt(np.log1p(spread**2))
        return generator.lognormal(-(deviation**2) / 2, deviation, count)

    assert not any(timed(drawn(spread)).uneven for spread in (0.0, 0.1, 0.3) for _ in range(50))
    assert sum(timed(drawn(0.6)).uneven is not None for _ in range(100)) <= 10
    assert sum(timed(drawn(1.5)).uneven is not None for _ in range(100)) >= 90
    hiccup = drawn(0.1)
    hiccup[0] += 0.2 * count
    assert timed(hiccup).uneven


def test_one_uneven_run_of_several_makes_the_speed_uneven(demo: Facts) -> None:
    single, large = ADAPTED.serving
    for first, second in ((single, HICCUPS), (HICCUPS, single)):
        both = with_artifacts(demo, serving={"r1": (first, large), "r2": (second, large)})
        assert known(gathered(both.study, PUBLISHED, SCENARIO).cost.speed).uneven == HICCUPS


def test_the_time_of_an_answer_is_unknown_where_images_wait_and_were_timed_unevenly() -> None:
    uneven = replace(COST, speed=replace(known(COST.speed), uneven=HICCUPS))
    waiting = 0.051 * capacity(COST)  # more than 5 % of them do
    assert answer_seconds(uneven, waiting) is None
    assert answer_seconds(COST, waiting) is not None
    assert answer_seconds(uneven, 0.049 * capacity(COST)) == 0.02


@pytest.mark.parametrize(
    ("field", "missing"),
    [
        ("machine", "no price is listed for compute on 'cpu'"),
        ("seconds", "the duration of the study was not recorded"),
        ("retrain_seconds", "no run of the recipe has finished"),
        ("speed", "the speed of the network was not recorded"),
    ],
)
def test_without_one_of_its_parts_building_has_no_price(field: str, missing: str) -> None:
    assert COST.missing == ""
    cost = replace(COST, **{field: None})  # type: ignore[arg-type]
    assert cost.missing == missing
    assert build(cost, SCENARIO).unpriced == missing
