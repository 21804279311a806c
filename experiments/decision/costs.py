"""What building took and costs, and what a vendor would: US dollars, from measured seconds and dated prices.

Pure functions of a `Study` and a `Scenario`. None means: not measured, or no price.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable
from dataclasses import dataclass

from experiments.reading.published import Price, Published
from experiments.reading.scenario import HOURS_A_MONTH, Scenario, ScenarioError, Vendor
from experiments.reading.studies import Study

SECONDS_A_MONTH = 3600 * HOURS_A_MONTH


@dataclass(frozen=True, slots=True)
class Speed:
    """How fast a network labels images.

    Attributes:
        latency: seconds from one image to its answer.
        per_second: images a second, one after the other.
        batch: images of a large batch.
        per_second_batched: images a second in large batches.
        bounded: nothing of this was timed; these are bounds from the speed of training, which does more work for an
            image: no answer takes longer than a step on a batch, and no batch goes slower than in training.
    """

    latency: float
    slow: float | None  # seconds within which 95 % of single images were answered
    per_second: float
    batch: int
    per_second_batched: float
    bounded: bool
    runs: tuple[str, ...]

    @property
    def worst(self) -> float:
        """Seconds to hold against a latency bar."""
        return self.latency if self.slow is None else self.slow


@dataclass(frozen=True, kw_only=True, slots=True)
class Cost:
    """What was spent on a study and on its subject's runs, and what that costs at the price of `machine`."""

    device: str
    processor: str  # that the seconds were measured on; "" where it was not recorded
    machine: Price | None
    machines: int  # how many of them the study would fill
    run_machines: int  # and one of its runs
    seconds: float | None  # wall time of the whole study
    estimated: bool  # seconds come from adding up the runs, as the study did not end
    flops: float | None  # training FLOPs of search and confirmation
    retrain_seconds: float | None  # mean over the runs of the recipe
    retrain_flops: float | None
    training_per_second: float | None  # images, while training
    speed: Speed | None
    runs: tuple[str, ...]  # that retraining and labelling were measured on

    @property
    def hourly(self) -> float | None:
        """Of the machines that one run needs."""
        return None if self.machine is None else self.machine.usd * self.run_machines

    @property
    def study_usd(self) -> float | None:
        if self.machine is None or self.seconds is None:
            return None
        return self.machine.usd * self.machines * self.seconds / 3600

    @property
    def retrain_usd(self) -> float | None:
        return self._of_seconds(self.retrain_seconds)

    @property
    def per_1000_usd(self) -> float | None:
        """Compute for 1,000 predictions in large batches, paid by the second."""
        return self._of_seconds(1000 / self.speed.per_second_batched if self.speed else None)

    @property
    def per_1000_single_usd(self) -> float | None:
        """Compute for 1,000 predictions one by one, paid by the second."""
        return self._of_seconds(1000 / self.speed.per_second if self.speed else None)

    @property
    def month_usd(self) -> float | None:
        """One machine kept on."""
        return self._of_seconds(SECONDS_A_MONTH)

    def _of_seconds(self, seconds: float | None) -> float | None:
        return None if seconds is None or self.hourly is None else self.hourly * seconds / 3600


@dataclass(frozen=True, kw_only=True, slots=True)
class Way:
    """What one way to labelled images costs: at once, and each month; US dollars."""

    name: str
    people: float
    training: float  # the first one: the study, or the least that a vendor sells
    retraining: float  # a month
    serving: float  # a month
    vendor: Vendor | None = None  # None: building

    @property
    def once(self) -> float:
        return self.people + self.training

    @property
    def month(self) -> float:
        return self.retraining + self.serving

    def total(self, months: float) -> float:
        return self.once + months * self.month


def cost_of(study: Study, published: Published, scenario: Scenario) -> Cost:
    """
    Raises:
        ScenarioError: the scenario's compute is of another device than the study's.
    """
    subject = study.subject
    device = study.tags.get("device", "").partition(":")[0]
    machine = scenario.compute or published.compute(device)
    if machine is not None and machine.device and device and machine.device != device:
        raise ScenarioError(
            f"{scenario.file}: compute must be a machine with {device}, as study {study.name!r} ran on it, but "
            f"{machine.key!r} is one with {machine.device}"
        )
    workers, threads = _whole(study.tags.get("workers")), _whole(study.tags.get("threads"))
    seconds = study.metrics.get("study/seconds")
    estimated = seconds is None
    if seconds is None:
        spent = float(study.attempts["metrics.cost/seconds"].sum())
        seconds = spent / workers if spent > 0 else None
    run_threads = max((_whole(t) for t in subject["tags.threads"]), default=1)
    flops = [v for k in ("study/search_flops", "study/confirm_flops") if (v := study.metrics.get(k)) is not None]
    return Cost(
        device=device,
        processor=study.tags.get("cpu", ""),
        machine=machine,
        machines=_machines(machine, device, workers * threads),
        run_machines=_machines(machine, device, run_threads),
        seconds=seconds,
        estimated=estimated,
        flops=sum(flops) if flops else _sum(study.attempts["metrics.cost/training_flops"]),
        retrain_seconds=_mean(subject["metrics.cost/seconds"]),
        retrain_flops=_mean(subject["metrics.cost/training_flops"]),
        training_per_second=_mean(subject["metrics.cost/images_per_second"]),
        speed=_speed(study),
        runs=tuple(subject["run_id"]),
    )


def build(cost: Cost, scenario: Scenario) -> Way | None:
    """Building under the scenario; None where a part of its cost is not known.

    With a latency bar, machines are kept on that keep up with the images one by one; without one, compute is paid by
    the second of large batches.
    """
    serving = serving_usd(cost, scenario)
    if cost.study_usd is None or cost.retrain_usd is None or serving is None:
        return None
    return Way(
        name="build",
        people=scenario.people_usd,
        training=cost.study_usd,
        retraining=cost.retrain_usd * scenario.retraining_per_year / 12,
        serving=serving,
    )


def buy(vendor: Vendor, scenario: Scenario) -> Way:
    """A vendor under the scenario: each training is the least that it sells, and one endpoint carries all images.

    Both lean towards buying: how many hours this data needs, and how much a node carries, is not published.
    """
    calls = vendor.per_call.usd * scenario.images_per_month / 1000 if vendor.per_call else 0.0
    idle = vendor.endpoint.usd * vendor.endpoint_hours_per_month if vendor.endpoint else 0.0
    each = vendor.training.least_purchase
    return Way(
        name=vendor.name,
        people=0.0,
        training=each,
        retraining=each * scenario.retraining_per_year / 12,
        serving=calls + idle,
        vendor=vendor,
    )


def cheapest(scenario: Scenario) -> Way:
    """The vendor that costs least over the horizon."""
    ways = [buy(vendor, scenario) for vendor in scenario.vendors]
    return min(ways, key=lambda way: (way.total(scenario.months), way.name))


def machines_on(cost: Cost, scenario: Scenario) -> int:
    """Machines that are kept on to label a month's images one by one as they come."""
    return max(1, math.ceil(scenario.images_per_month / _carried(cost))) * cost.run_machines


def serving_usd(cost: Cost, scenario: Scenario) -> float | None:
    """A month's labelling of our own."""
    if cost.per_1000_usd is None or cost.month_usd is None or cost.machine is None:
        return None
    if scenario.latency_bar_ms is None:
        return cost.per_1000_usd * scenario.images_per_month / 1000
    return machines_on(cost, scenario) * cost.machine.usd * HOURS_A_MONTH


def break_even(cost: Cost, vendor: Vendor, scenario: Scenario) -> float | None:
    """The least images a month at which building costs no more than the vendor over the horizon; None: at none.

    0 means: at any volume that one machine carries.
    """
    ours, theirs = build(cost, scenario), buy(vendor, scenario)
    if ours is None:
        return None
    months = scenario.months
    call = vendor.per_call.usd / 1000 if vendor.per_call else 0.0
    # What building costs more than the vendor before the first image is labelled.
    ahead = (ours.once + months * ours.retraining) - (theirs.total(months) - months * call * scenario.images_per_month)
    if scenario.latency_bar_ms is None:
        assert cost.per_1000_usd is not None
        return _least(ahead, months * (call - cost.per_1000_usd / 1000))
    assert cost.hourly is not None
    machine, carried = months * cost.hourly * HOURS_A_MONTH, _carried(cost)
    # With n machines on, building breaks even at (ahead + n * machine) / (months * call) images, if they carry these.
    if ahead + machine <= 0:
        return 0.0
    gained = months * call * carried - machine
    if gained <= 0:
        return None
    n = max(1, math.ceil(ahead / gained))
    return (ahead + n * machine) / (months * call)


def payback_months(ours: Way, theirs: Way) -> float | None:
    """Months until what building costs at once has come back; None: never. 0: at once."""
    return _least(ours.once - theirs.once, theirs.month - ours.month)


def _least(ahead: float, gained: float) -> float | None:
    """The least x >= 0 with ahead <= x * gained."""
    if ahead <= 0:
        return 0.0
    return ahead / gained if gained > 0 else None


def _carried(cost: Cost) -> float:
    """Images a month that one run's machines label one by one."""
    assert cost.speed
    return cost.speed.per_second * SECONDS_A_MONTH


def _machines(machine: Price | None, device: str, threads: int) -> int:
    # A GPU is shared by the workers; a CPU's threads add up, and whole machines are paid for.
    return math.ceil(threads / machine.units) if machine and device == "cpu" else 1


def _speed(study: Study) -> Speed | None:
    """What was timed where the champion met the test set, else bounds from its training."""
    timed = study.exhibits.serving
    if timed:
        single = [batches[0] for batches in timed.values()]
        large = [batches[-1] for batches in timed.values()]
        latency = statistics.fmean(b.seconds for b in single)
        return Speed(
            latency=latency,
            slow=statistics.fmean(b.slow_seconds for b in single),
            per_second=1 / latency,
            batch=large[0].images,
            per_second_batched=statistics.fmean(b.images / b.seconds for b in large),
            bounded=False,
            runs=tuple(timed),
        )
    subject = study.subject
    rate = _mean(subject["metrics.cost/images_per_second"])
    sizes = [int(float(v)) for v in subject.get("params.batch_size", []) if v is not None]
    if rate is None or not sizes:
        return None
    latency = max(sizes) / rate
    return Speed(latency, None, 1 / latency, max(sizes), rate, bounded=True, runs=tuple(subject["run_id"]))


def _mean(column: Iterable[float]) -> float | None:
    known = [float(v) for v in column if v == v]
    return statistics.fmean(known) if known else None


def _sum(column: Iterable[float]) -> float | None:
    known = [float(v) for v in column if v == v]
    return sum(known) if known else None


def _whole(text: str | None) -> int:
    return int(text) if text and text.isdigit() and int(text) > 0 else 1
