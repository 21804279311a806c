"""The law of a label curve on curves whose law is known."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from experiments.labels.power_law import MeanError, crossing, fit, held_out, points_of

COUNTS = (450, 1_350, 4_500, 13_500, 45_000)


def draws(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def curve(
    a: float, b: float, c: float, deviation: float = 0.002, noise: int | None = None, common: float = 0.0
) -> list[MeanError]:
    """Points of a law, drawn within their uncertainty with the seed `noise`."""
    drawn = np.zeros(len(COUNTS))
    if noise is not None:
        generator = draws(noise)
        drawn = generator.normal(0, deviation, len(COUNTS)) + generator.normal(0, common)
    return [MeanError(n, a + b * n**-c + float(d), deviation, common) for n, d in zip(COUNTS, drawn, strict=True)]


def test_a_law_is_found_again() -> None:
    law = fit(curve(0.02, 6.0, 0.45), draws())
    assert law is not None
    assert law.best == pytest.approx((0.02, 6.0, 0.45), rel=0.05)
    assert 1 - law.error(45_000) == pytest.approx(0.98 - 6 * 45_000**-0.45, abs=0.001)
    needed = law.labels_for(0.3)
    truth = (6 / 0.28) ** (1 / 0.45)
    assert needed.low < truth < needed.high < 1.1 * truth


@pytest.mark.parametrize("common", [0.0, 0.006])
def test_intervals_cover_the_truth_as_often_as_they_say(common: float) -> None:
    covered = {"labels": 0, "error": 0, "held": 0}
    for seed in range(20, 40):
        points = curve(0.02, 6.0, 0.45, noise=seed, common=common)
        law, left = fit(points, draws()), held_out(points, draws())
        assert law is not None
        needed, error = law.labels_for(0.1), law.interval(4_500)
        covered["labels"] += needed.low <= (6 / 0.08) ** (1 / 0.45) <= needed.high
        covered["error"] += error.low <= 0.02 + 6 * 4_500**-0.45 <= error.high
        covered["held"] += left is not None and left.held
    assert all(count >= 17 for count in covered.values()), covered  # 95 %, and room for chance


def test_a_point_that_lies_off_by_more_than_its_own_error_does_not_hold() -> None:
    points = curve(0.02, 6.0, 0.45, common=0.02)
    apart = replace(points[-1], error=points[-1].error + 0.02)
    left = held_out([*points[:-1], apart], draws())
    assert left is not None
    assert not left.held, "the other points would have moved with it"


def test_a_bar_above_what_any_number_of_labels_gives_needs_infinitely_many() -> None:
    law = fit(curve(0.1, 6.0, 0.45), draws())
    assert law is not None
    assert law.labels_for(0.05).high == math.inf


def test_points_off_the_law_widen_the_uncertainty_and_a_kink_does_not_hold() -> None:
    straight, bent = curve(0.0, 6.0, 0.45), curve(0.0, 6.0, 0.45)
    bent[-1] = replace(bent[-1], error=3 * bent[-1].error)  # saturated
    one, other = fit(straight, draws()), fit(bent, draws())
    assert one is not None
    assert other is not None
    assert other.interval(4_500).high - other.interval(4_500).low > 3 * (
        one.interval(4_500).high - one.interval(4_500).low
    )
    kept, broken = held_out(straight, draws()), held_out(bent, draws())
    assert kept is not None
    assert broken is not None
    assert kept.held
    assert not broken.held
    unsure = held_out([*straight[:-1], MeanError(45_000, straight[-1].error + 0.02, 0.02, 0.0)], draws())
    assert unsure is not None
    assert unsure.held, "a point may lie off by its own uncertainty"


def test_deviations_that_are_too_small_count_as_large_as_the_points_lie_off() -> None:
    points = [replace(point, deviation=0.0005) for point in curve(0.02, 6.0, 0.45, deviation=0.01, noise=0)]
    law = fit(points, draws())
    assert law is not None
    misfit = sum(((point.error - law.error(point.labels)) / point.deviation) ** 2 for point in points)
    factor = math.sqrt(misfit / (len(points) - 3))  # three constants are fitted
    honest = fit([replace(point, deviation=factor * point.deviation) for point in points], draws())
    assert factor > 2
    assert honest is not None
    assert (honest.interval(900).low, honest.interval(900).high) == pytest.approx(
        (law.interval(900).low, law.interval(900).high)
    )


def test_too_few_points_and_an_error_that_rises_have_no_law() -> None:
    assert fit(curve(0.02, 6.0, 0.45)[:3], draws()) is None
    assert held_out(curve(0.02, 6.0, 0.45)[:4], draws()) is None
    assert fit([MeanError(n, 0.2 + n / 1e6, 0.001, 0.0) for n in COUNTS], draws()) is None


def test_the_spread_between_runs_is_pooled_over_the_numbers_of_labels() -> None:
    alike = points_of({100: [0.6, 0.6], 1_000: [0.9]}, 10_000)
    spread = points_of({100: [0.55, 0.65], 1_000: [0.9]}, 10_000)
    assert alike[1].deviation == pytest.approx(math.sqrt(0.5 * 0.1 * 0.9 / 10_000))
    assert alike[1].common == pytest.approx(alike[1].deviation)
    assert spread[1].deviation > 5 * alike[1].deviation  # a single run has a spread too
    assert points_of({1_000: [0.9]}, 10**9)[0].deviation == pytest.approx(0.002, rel=0.01)
    assert points_of({1_000: [1.0]}, 100)[0].common > 0.007, "no error among 100 images is not none at all"


def test_two_laws_change_places_for_good_or_not_at_all() -> None:
    nothing, adapted = fit(curve(0.0, 6.0, 0.45), draws()), fit(curve(0.12, 1.2, 0.4), draws())
    assert nothing is not None
    assert adapted is not None
    place, sure = crossing(nothing, adapted, COUNTS[0], COUNTS[-1])
    grid = np.arange(450, 45_000)
    truth = int(grid[(6 * grid**-0.45 - 0.12 - 1.2 * grid**-0.4) <= 0][0])
    assert sure > 0.99
    assert place.low < truth < place.high
    better = fit(curve(0.0, 2.0, 0.45), draws())
    assert better is not None
    assert crossing(nothing, better, COUNTS[0], COUNTS[-1])[1] == 0
    steep, flat = fit(curve(0.1, 1000.0, 1.5, 1e-4), draws()), fit(curve(0.0, 0.592, 0.2, 1e-4), draws())
    assert steep is not None
    assert flat is not None
    assert steep.error(450) > flat.error(450)
    assert steep.error(4_500) < flat.error(4_500), "in the middle only"
    assert crossing(steep, flat, COUNTS[0], COUNTS[-1])[1] == 0


def test_the_interval_of_the_crossing_covers_the_truth() -> None:
    grid = np.arange(450, 45_000)
    truth = int(grid[(6 * grid**-0.45 - 0.12 - 1.2 * grid**-0.4) <= 0][0])
    covered = 0
    for seed in range(40):
        generator = draws(seed)
        nothing = fit(curve(0.0, 6.0, 0.45, 0.01, noise=2 * seed), generator)
        adapted = fit(curve(0.12, 1.2, 0.4, 0.01, noise=2 * seed + 1), generator)
        assert nothing is not None
        assert adapted is not None
        place, _ = crossing(nothing, adapted, COUNTS[0], COUNTS[-1])
        covered += place.low <= truth <= place.high
    assert covered >= 34  # 95 %, and room for chance


def test_a_flat_curve_has_its_floor_and_needs_few_labels_for_a_bar_that_it_clears() -> None:
    fitted = 0
    for seed in range(10):
        law = fit(curve(0.2, 0.0, 1.0, noise=seed), draws())
        if law is None:
            continue  # the errors rise
        fitted += 1
        assert law.labels_for(0.25).high < COUNTS[0]
        assert law.constants[0].high < 0.205, "no error stays that is larger than those measured"
    assert fitted >= 3
