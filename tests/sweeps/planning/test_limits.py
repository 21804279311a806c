"""Limits on the networks of a search."""

from __future__ import annotations

import pytest

from cifar_core.data.data_set import CIFAR10
from cifar_core.models import parameter_count
from cifar_core.recipe import Recipe
from sweeps.planning import limits
from sweeps.planning.limits import Limits
from tests.sweeps.small_data import CPU

WIDE, NARROW = Recipe(model="five_conv", width=0.5), Recipe(model="five_conv", width=0.125)


def test_no_limit_is_broken_by_nothing() -> None:
    assert Limits().excesses(WIDE, CPU, CIFAR10) == {}
    assert Limits().broken({}) == ""
    assert str(Limits()) == "none"


def test_parameters() -> None:
    allowed = Limits(parameters=parameter_count("five_conv", 0.125))
    assert allowed.excesses(NARROW, CPU, CIFAR10) == {"parameters": 0}
    excesses = allowed.excesses(WIDE, CPU, CIFAR10)
    assert excesses["parameters"] > 0
    count = f"{parameter_count('five_conv', 0.5):,}"
    assert allowed.broken(excesses) == f"{count} weights where {allowed.parameters:,} are allowed"


def test_latency_is_measured_once_for_each_network(monkeypatch: pytest.MonkeyPatch) -> None:
    answers: list[int] = []
    monkeypatch.setattr(limits, "predict", lambda network, image, hardware: answers.append(len(image)))
    ticks = iter(range(10_000))
    monkeypatch.setattr("time.perf_counter", lambda: next(ticks) / 1000)  # a prediction takes 1 ms
    limits._latency.cache_clear()
    strict = Limits(latency=0.5, parameters=1)
    excesses = strict.excesses(NARROW, CPU, CIFAR10)
    assert excesses["latency"] == pytest.approx(1)
    assert strict.broken(excesses).endswith("weights where 1 are allowed and 1 ms for one image where 0.5 are allowed")
    before = len(answers)
    assert set(answers) == {1}
    assert Limits(latency=1.5).broken(Limits(latency=1.5).excesses(NARROW, CPU, CIFAR10)) == ""
    assert len(answers) == before
    limits._latency.cache_clear()
    assert str(strict) == "at most 1 weights and at most 0.5 ms for one image"
    slow = Limits(latency=1000.0).broken({"latency": 0.2345})
    assert slow == "1,230 ms for one image where 1000 are allowed"


def test_a_real_network_answers_within_a_minute() -> None:
    assert -1 < Limits(latency=60_000).excesses(NARROW, CPU, CIFAR10)["latency"] < 0
