"""Cost of a trial without training, and of resuming a study of thousands of trials."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from statistics import median

import optuna
from mlflow import MlflowClient
from mlflow.entities import Metric, Param
from optuna.pruners import NopPruner
from optuna.trial import TrialState, create_trial

from cifar_core.data.data_set import CIFAR10
from cifar_core.files import write_atomically
from cifar_core.hardware import Hardware, set_up_cpu
from cifar_core.recipe import Recipe
from cifar_core.training import Progress, total_steps
from experiments.benchmarks import Line, peak_gigabytes, real_data, seconds
from experiments.benchmarks.quiet_sweep import run_quietly
from experiments.benchmarks.synthetic import fill_store
from sweeps.executors.protocol import Event, Executor, Finished, Job, Outcome, Progressed, TrainJob
from sweeps.planning.plan import Plan
from sweeps.planning.presets import EIGHTHS, fixed_epochs
from sweeps.planning.space_file import SPACES
from sweeps.store import Store
from sweeps.studies.storage import open_storage
from sweeps.studies.study import SAMPLERS, open_study

_WARM_UP, _TRIALS = 10, 40
_TRAIN_IMAGES = 500  # few, so that a trial has few steps
_MANY, _ASKS = 10_000, 6
_PICTURES = {f"pictures/{number}.png": bytes(30_000) for number in range(9)}  # about as many bytes as a trial logs
_ACCURACIES = {2: 0.4, 4: 0.5, 6: 0.55, 8: 0.6}  # validation, by eighth of the steps


def bench_overhead(hardware: Hardware) -> Iterator[Line]:
    """Time a sweep whose trials train in no time, per trial, and the fewest calls that log the same."""
    yield Line("overhead: wall time per trial when training takes no time (rule: <= 100 ms)")
    with tempfile.TemporaryDirectory() as folder:
        sweep = NoOpSweep(Path(folder), hardware)
        sweep.run(_WARM_UP)
        started = time.perf_counter()
        _, executor = sweep.run(_WARM_UP + _TRIALS)
        each = (time.perf_counter() - started) / _TRIALS
        text = f"  {1000 * each:.0f} ms a trial over {_TRIALS} trials of {executor.points} points, all in MLflow"
        yield Line(text, "sweep", {"seconds": each})
    with tempfile.TemporaryDirectory() as folder:
        log_trials = _bare_calls(Path(folder), executor.points)
        log_trials(_WARM_UP)
        least = seconds(lambda: log_trials(_TRIALS)) / _TRIALS
        text = f"  {1000 * least:.0f} ms with the fewest calls of Optuna and MLflow for points, params and pictures"
        yield Line(f"{text}; {each / least:.2f} times that", "fewest calls", {"seconds": least, "ratio": each / least})


def bench_resume(hardware: Hardware) -> Iterator[Line]:
    """Resume a study of 10,000 trials in a separate process."""
    rules = "rules: <= 10 s and 1 GB, <= 0.3 s an ask"
    yield Line(f"resume: resuming a study of {_MANY:,} trials ({rules})")
    with tempfile.TemporaryDirectory() as folder:
        NoOpSweep(Path(folder), hardware).fill(_MANY)
        command = [sys.executable, "-m", "experiments.benchmarks.sweep", folder, str(hardware.device)]
        found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        yield Line(
            f"  {found['first']:.1f} s until the first trial starts (data and imports, {found['imports']:.1f} s more); "
            f"{found['ask']:.2f} s an ask; {found['trial']:.2f} s from one trial to the next; "
            f"peak {found['gigabytes']:.2f} GB",
            "run_study.py",
            found,
        )


def _resume(folder: Path, device: str) -> dict[str, float]:
    """Resume the study in `folder` in this process; medians, in seconds."""
    began = time.perf_counter()
    real_data()  # as a sweep does
    sweep = NoOpSweep(folder, Hardware.detect(device))
    ready = time.perf_counter()
    study, executor = sweep.run(_MANY + _ASKS)
    first = executor.starts[0] - ready
    each = [later - earlier for earlier, later in itertools.pairwise(executor.starts)]
    asks = [_seconds_to_ask(study) for _ in range(_ASKS)]
    times = {"first": first, "imports": ready - began, "ask": median(asks), "trial": median(each)}
    return times | {"gigabytes": peak_gigabytes()}


def _seconds_to_ask(study: optuna.Study) -> float:
    started = time.perf_counter()
    trial = study.ask()
    SPACES["full"].suggest(trial, Recipe())
    taken = time.perf_counter() - started
    study.tell(trial, state=TrialState.FAIL)
    return taken


class NoOpSweep:
    """A sweep over a real store, whose executor trains nothing."""

    def __init__(self, root: Path, hardware: Hardware) -> None:
        self.hardware = hardware
        self.store = Store.locate(root / "store")
        self.store.create()

    def plan(self, trials: int, pruner: str = "none") -> Plan:
        return Plan(
            study="bench",
            trials=trials,
            space=SPACES["full"],
            preset=fixed_epochs(20),
            seed=0,
            sampler="tpe",
            pruner=pruner,
            confirm=False,
            data_set=replace(CIFAR10, train_images=_TRAIN_IMAGES),
            hardware=self.hardware,
            workers=2,
            threads=1,
            cores=2,
            flops_per_second=1e12,
        )

    def run(self, trials: int) -> tuple[optuna.Study, _NoOpExecutor]:
        """Run the sweep until everything is in MLflow."""
        executor = _NoOpExecutor()
        return self.run_on(executor, self.plan(trials)), executor

    def run_on(self, executor: Executor, plan: Plan, stop: Callable[[], bool] = lambda: False) -> optuna.Study:
        """Run the sweep on `executor` to its end, or until `stop` returns true, and until everything is in MLflow."""
        return run_quietly(plan, self.store, executor, samples=lambda: bytes(30_000), stop=lambda study: stop())

    def fill(self, trials: int) -> None:
        """Add complete trials to the study, in Optuna and in MLflow."""
        fill_store(self.store, trials, "bench")
        study = open_study(self.plan(trials), open_storage(self.store.storage_url))
        sampler = optuna.samplers.RandomSampler(seed=0)
        source = optuna.create_study(sampler=sampler)
        for number in range(trials):
            drawn = source.ask()
            SPACES["full"].suggest(drawn, Recipe())
            study.add_trial(
                create_trial(
                    params=drawn.params,
                    distributions=drawn.distributions,
                    value=0.3 + 0.6 * ((number * 7919) % trials) / trials,
                    intermediate_values=_ACCURACIES,
                    user_attrs={"flops": 1e12, "spent_flops": 1e12, "recipe": Recipe().to_dict()},
                )
            )


def _bare_calls(root: Path, points: int) -> Callable[[int], None]:
    """Return a function that logs no-op trials with the fewest calls: no queue, and whole curves at once."""
    store = Store.locate(root / "store")
    store.create()
    study = optuna.create_study(
        storage=store.storage_url, direction="maximize", sampler=SAMPLERS["tpe"](0), pruner=NopPruner()
    )
    client = MlflowClient(store.tracking_uri)
    experiment = client.create_experiment("bare", artifact_location=store.artifacts("bare"))
    for name, content in _PICTURES.items():
        write_atomically(root / "files" / name, content)
    metrics = [
        Metric(name, 0.5, 0, step) for step in range(1, points + 1) for name in ("train/loss", "train/accuracy", "lr")
    ] + [Metric(name, 0.5, 0, step) for step in _ACCURACIES for name in ("val/loss", "val/accuracy")]

    def run(trials: int) -> None:
        for _ in range(trials):
            trial = study.ask()
            recipe = SPACES["full"].suggest(trial, Recipe())
            for eighth, accuracy in _ACCURACIES.items():
                trial.report(accuracy, eighth)
            run_id = client.create_run(experiment).info.run_id
            params = [Param(name, str(value)) for name, value in recipe.to_dict().items()]
            client.log_batch(run_id, metrics, params)
            client.log_artifacts(run_id, str(root / "files"))
            client.set_terminated(run_id)
            study.tell(trial, _ACCURACIES[8])

    return run


class RecordedExecutor:
    """Workers that train nothing: their runs give `recorded_events`, at times that a subclass decides."""

    def __init__(self, workers: int) -> None:
        self._workers = workers
        self._left: dict[str, deque[Event]] = {}  # events to come, by the key of their run

    @property
    def free(self) -> int:
        return self._workers - len(self._left)

    @property
    def pending_workers(self) -> int:
        return 0

    def close(self) -> None:
        self._left.clear()


class _NoOpExecutor(RecordedExecutor):
    """Two workers whose training takes no time and always gives the same points."""

    def __init__(self) -> None:
        super().__init__(2)
        self.points = 0  # of the curve of a trial
        self.starts: list[float] = []  # time of the start of each trial
        self._waiting: set[str] = set()

    def start(self, job: Job) -> None:
        self.starts.append(time.perf_counter())
        assert isinstance(job, TrainJob)
        self._left[job.key] = deque(recorded_events(job))
        self.points = len(self._left[job.key]) - 1

    def events(self, timeout: float) -> list[Event]:
        happened = []
        for key in [key for key in self._left if key not in self._waiting]:
            event = self._left[key].popleft()
            happened.append(event)
            if isinstance(event, Finished):
                del self._left[key]
            elif isinstance(event, Progressed) and event.point.val_accuracy is not None and event.point.fraction < 1:
                self._waiting.add(key)
        return happened

    def reply(self, key: str, *, go_on: bool) -> None:
        self._waiting.remove(key)

    def pause(self) -> None:
        raise NotImplementedError("a benchmark is never paused")


def recorded_events(job: TrainJob, more: float = 0.0) -> Iterator[Event]:
    """Yield the events of a trial as if it had trained; `more` is added to each accuracy."""
    steps = total_steps(job.recipe, _TRAIN_IMAGES)
    validated = replace(job.schedule, losses=()).steps(steps)
    for step in job.schedule.steps(steps):
        accuracy = _ACCURACIES.get(round(step / steps * EIGHTHS), 0.6) + more if step in validated else None
        yield Progressed(
            job.key,
            Progress(
                step=step,
                fraction=step / steps,
                epoch=20 * step / steps,
                train_loss=1 / step,
                train_accuracy=0.5,
                learning_rate=0.1,
                train_seconds=float(step),
                validation_seconds=0.1,
                val_loss=None if accuracy is None else 1.0,
                val_accuracy=accuracy,
            ),
        )
    yield Finished(
        job.key,
        Outcome(
            loss=1.0,
            accuracy=0.6 + more,
            accuracies={f"class/{number}": 0.6 for number in range(12)},  # as many as classes and groups
            files=_PICTURES,
        ),
    )


if __name__ == "__main__":
    set_up_cpu(1)
    print(json.dumps(_resume(Path(sys.argv[1]), sys.argv[2])))
