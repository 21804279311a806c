"""Time and compute of a study, the speed of its network, and the machines that they take; in US dollars too.

Pure functions of a `Study` and a `Scenario`. None means: not measured, or no price.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import pandas as pd
from scipy.optimize import brentq

from cifar_core.evaluation.serving import Timing
from experiments.reading.published import Price, Published
from experiments.reading.scenario import HOURS_A_MONTH, Scenario
from experiments.reading.study import Adapted, Study
from sweeps.validation import InvalidFileError

SECONDS_A_MONTH = 3600 * HOURS_A_MONTH
LOAD_LIMIT = 0.6  # load of a machine that must answer at once: at it, one image in 20 waits for 2.8 answers or longer


@dataclass(frozen=True, slots=True)
class Speed:
    """The speed at which a network labels images.

    Attributes:
        bounded: True if inference was not timed. The speed is then a bound from training, which does more work for an
            image: a label takes no longer than a training step on a batch, and batches are no slower than in training.
        uneven: timing of single images in a run where they took too unequally long to tell how long images wait (see
            `_is_uneven`); None if they did in no run.
    """

    latency: float  # seconds to label one image, on average
    p95: float | None  # seconds within which 95 % of single images were labelled
    batch: int  # images in a large batch
    per_second_batched: float  # images in large batches
    bounded: bool
    runs: tuple[str, ...]
    uneven: Timing | None = None

    @property
    def per_second(self) -> float:
        """Images a second, one after the other."""
        return 1 / self.latency

    @property
    def worst(self) -> float:
        """Seconds of an answer that waits for no other: of 95 % of them, or their mean where no more is known."""
        return self.latency if self.p95 is None else self.p95

    def faster(self, factor: float) -> Speed:
        """The speed of a network that is faster by a factor."""
        p95, batched = self.p95 and self.p95 / factor, self.per_second_batched * factor
        return replace(self, latency=self.latency / factor, p95=p95, per_second_batched=batched)


@dataclass(frozen=True, kw_only=True, slots=True)
class Cost:
    """The time and compute of a study and of its subject's runs, and their cost at the price of `machine`."""

    device: str
    processor: str  # processor that the seconds were measured on; "" if not recorded
    machine: Price | None
    units: int  # threads or GPUs that the study took
    run_units: int  # threads or GPUs that one run took
    seconds: float | None  # wall time of the whole study
    estimated: bool  # `seconds` is a sum over the runs, because the study did not end
    flops: float | None  # training FLOPs of search and confirmation
    retrain_seconds: float | None  # mean over the runs of the recipe
    retrain_flops: float | None
    training_per_second: float | None  # images trained on in a second
    speed: Speed | None
    labels: int = 0  # labelled images that it trained and validated with

    @property
    def machines(self) -> int:
        """Machines that the study would fill."""
        return self._filled(self.units)

    @property
    def run_machines(self) -> int:
        """Machines that one run would fill."""
        return self._filled(self.run_units)

    @property
    def copies(self) -> int:
        """Copies of the network that label side by side on the machines of one run."""
        if self.machine is None or self.device != "cpu":
            return 1
        return max(1, (self.machine.units or self.units) // self.run_units)

    @property
    def machine_sources(self) -> tuple[str, ...]:
        return (f"source/{self.machine.key}",) if self.machine else ()

    @property
    def missing(self) -> str:
        """The reason why building has no cost; "" where it has one."""
        if self.machine is None:
            return f"no price is listed for compute on {self.device!r}" if self.device else "no device was recorded"
        if self.seconds is None:
            return "the duration of the study was not recorded"
        if self.retrain_seconds is None:
            return "no run of the recipe has finished"
        return "" if self.speed else "the speed of the network was not recorded"

    @property
    def hourly(self) -> float | None:
        """An hour of the machines that one run needs."""
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
        return self._of_seconds(1000 / (self.speed.per_second_batched * self.copies) if self.speed else None)

    @property
    def per_1000_single_usd(self) -> float | None:
        """Compute for 1,000 predictions one by one, paid by the second."""
        return self._of_seconds(1000 / (self.speed.per_second * self.copies) if self.speed else None)

    @property
    def month_usd(self) -> float | None:
        """A month of the machines that one run needs."""
        return self._of_seconds(SECONDS_A_MONTH)

    def _filled(self, units: int) -> int:
        if self.machine is None or self.machine.units is None:
            return 1
        return math.ceil(units / self.machine.units)

    def _of_seconds(self, seconds: float | None) -> float | None:
        return None if seconds is None or self.hourly is None else self.hourly * seconds / 3600


def cost_of(study: Study, published: Published, scenario: Scenario) -> Cost:
    """The cost of a study on the scenario's machine, or else on the published one with the study's device.

    Raises:
        InvalidFileError: the scenario's machine has another device than the study's.
    """
    subject = study.subject
    device = study.tags.get("device", "")
    machine = scenario.compute or published.compute(device)
    if machine is not None and machine.device and device and machine.device != device:
        raise InvalidFileError(
            f"{scenario.file}: compute must be a machine with {device}, as study {study.name!r} ran on it, but "
            f"{machine.key!r} is one with {machine.device}"
        )
    workers, cores = _count(study.tags.get("workers")), study.tags.get("cores")
    # Of a cluster, which has many machines, no number of cores is on record.
    threads = _count(cores) if cores else workers * _count(study.tags.get("threads"))
    recorded = seconds = study.metrics.get("study/seconds")
    if recorded is None:
        spent = _spent(study, device, workers, threads)
        seconds = spent if spent > 0 else None
    run_threads = max((_count(t) for t in subject["tags.threads"]), default=1)
    # Workers can share a GPU.
    units, run_units = (threads, run_threads) if device == "cpu" else (_count(study.tags.get("gpus")), 1)
    flops = [
        v
        for k in ("study/search_flops", "study/confirm_flops", "study/final_flops")
        if (v := study.metrics.get(k)) is not None
    ]
    flops = flops or study.attempts["metrics.cost/training_flops"].dropna().tolist()
    return Cost(
        device=device,
        processor=study.tags.get("cpu", ""),
        machine=machine,
        units=units,
        run_units=run_units,
        seconds=seconds,
        estimated=recorded is None,
        flops=sum(flops) if flops else None,
        retrain_seconds=_mean(subject, "cost/seconds"),
        retrain_flops=_mean(subject, "cost/training_flops"),
        training_per_second=_mean(subject, "cost/images_per_second"),
        speed=_speed(study),
        labels=study.data_set.train_images + study.data_set.val_images,
    )


def capacity(cost: Cost) -> float:
    """Images a month that the machines of one run can label one by one, busy all the time."""
    assert cost.speed
    return cost.speed.per_second * cost.copies * SECONDS_A_MONTH


def adapting_cost(cost: Cost, adapted: Adapted, published: Published) -> Cost:
    """The cost of the adapted network, on as many machines as its threads fill.

    The machines are those of `cost`, the study's; where the network ran on another device, the published ones with it.
    """
    speed = _timed({adapted.run_id: adapted.serving}) if adapted.serving else None
    machine = cost.machine if adapted.device == cost.device else published.compute(adapted.device)
    units = adapted.threads if adapted.device == "cpu" else 1
    return replace(
        cost,
        device=adapted.device,
        machine=machine,
        units=units,
        run_units=units,
        seconds=adapted.study_seconds,
        estimated=False,
        flops=adapted.flops,
        retrain_seconds=adapted.seconds,
        retrain_flops=adapted.flops,
        training_per_second=None,
        speed=speed,
    )


def machines_on(cost: Cost, images: float) -> int:
    """Machines that must run all month to label so many images in it one by one, at no more than `LOAD_LIMIT`."""
    return max(1, math.ceil(images / (LOAD_LIMIT * capacity(cost)))) * cost.run_machines


def answer_seconds(cost: Cost, images: float) -> float | None:
    """The seconds to compare with a latency bar: what 95 % of single images take at most, and what 95 % of them wait.

    None if they wait, and were timed too unevenly to tell how long.

    The sum is not quite the 95 % of both together: in simulations of images that take unequally long, with a standard
    deviation of up to 60 % of the mean, 91 to 98 % of the answers come within it.
    """
    assert cost.speed
    load = images / (capacity(cost) * machines_on(cost, images) / cost.run_machines)
    wait = _wait(load)
    return None if wait > 0 and cost.speed.uneven else cost.speed.worst + cost.speed.latency * wait


def _wait(load: float) -> float:
    """The wait for earlier images that 95 % of images do not exceed, in units of an answer.

    Each copy of the network is taken for a queue of its own, with images that come at random and take equally long
    (M/D/1; Erlang, 1909). The terms alternate: digits are lost as the load rises, and at 0.95 none is left.
    """

    def beyond(wait: float) -> float:
        terms = (
            math.exp(load * (wait - k)) * (load * (k - wait)) ** k / math.factorial(k) for k in range(int(wait) + 1)
        )
        return (1 - load) * sum(terms) - 0.95

    return brentq(beyond, 0.0, 3 / (1 - load)) if beyond(0.0) < 0 else 0.0


def _spent(study: Study, device: str, workers: int, cores: int) -> float:
    """The wall time of the runs so far: each takes its share of the workers, and of the cores if it had more of them.

    Confirmations and finals on a CPU have few runs side by side, and all cores between them.
    """
    seconds = study.attempts["metrics.cost/seconds"].fillna(0.0)
    threads = [_count(t or study.tags.get("threads")) if device == "cpu" else 0 for t in study.attempts["tags.threads"]]
    return sum(float(s) * max(1 / workers, t / cores) for s, t in zip(seconds, threads, strict=True))


def _speed(study: Study) -> Speed | None:
    """The speed as timed when the champion was tested, else bounds from its training."""
    if study.artifacts.serving:
        return _timed(study.artifacts.serving)
    subject = study.subject
    rate = _mean(subject, "cost/images_per_second")
    sizes = [int(float(v)) for v in subject.get("params.batch_size", []) if v is not None]
    if rate is None or not sizes:
        return None
    return Speed(max(sizes) / rate, None, max(sizes), rate, bounded=True, runs=tuple(subject["run_id"]))


def _timed(serving: Mapping[str, Sequence[Timing]]) -> Speed:
    """The speed as timed in runs, given by id, whose timings begin with the smallest batch."""
    single = [batches[0] for batches in serving.values()]
    large = [batches[-1] for batches in serving.values()]
    return Speed(
        latency=statistics.fmean(b.mean_seconds for b in single),
        p95=statistics.fmean(b.slow_seconds for b in single),
        batch=large[0].images,
        per_second_batched=statistics.fmean(b.images / b.mean_seconds for b in large),
        bounded=False,
        runs=tuple(serving),
        uneven=next(filter(_is_uneven, single), None),
    )


def _is_uneven(timing: Timing) -> bool:
    """True if times vary too much for `_wait`, which takes them for equal.

    Log-normal times have a mean of 1.17 medians at a standard deviation of 60 % of it, and of 1.3 at 80 %. Up to 60 %
    the mean lies up to a ninth of the way from the median to the 95th percentile: one of over a quarter, and 5 % for
    noise, is due to hiccups that this percentile does not show, and that many images then wait for. In simulations of
    such times just within both bounds, with and without hiccups, 80 to 92 % of the answers come within the sum at
    `LOAD_LIMIT`, and 91 to 95 % at half of it.
    """
    explained = 1.05 * timing.seconds + (timing.slow_seconds - timing.seconds) / 4
    return timing.mean_seconds > min(explained, 1.3 * timing.seconds)


def _mean(runs: pd.DataFrame, metric: str) -> float | None:
    known = runs[f"metrics.{metric}"].dropna()
    return statistics.fmean(known) if len(known) else None


def _count(text: str | None) -> int:
    return int(text) if text and text.isdecimal() and int(text) > 0 else 1
