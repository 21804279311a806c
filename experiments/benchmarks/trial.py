"""Overheads of a trial: validation, logging, pictures and checkpoints."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import median

from optuna.trial import FixedTrial

from cifar_core.checkpoint import Checkpoints
from cifar_core.data import Splits
from cifar_core.data.data_set import CIFAR10
from cifar_core.hardware import Hardware
from cifar_core.recipe import Recipe
from cifar_core.training import EvalSchedule, TrainState, train
from experiments.benchmarks import Line, real_data, seconds
from sweeps.executors.protocol import Event, Finished, Progressed, TrainJob
from sweeps.executors.worker import Channel, run_job
from sweeps.planning.plan import eval_schedule
from sweeps.planning.presets import PRESETS
from sweeps.planning.space_file import SPACES
from sweeps.store import Store
from sweeps.studies.keys import STUDY_KEY
from sweeps.tracking.tracker import MlflowTracker, RunLabel


def bench_trial(hardware: Hardware) -> Iterator[Line]:
    """Shares of a trial of the preset `quick` that are not training."""
    data = real_data()
    yield Line(
        "trial: shares of an unpruned trial's time (rules: validation <= 10 %, logging <= 1 %, pictures <= 3 %, "
        "checkpoints <= 1 %)"
    )
    space, preset = SPACES["full"], PRESETS["quick"]
    for model in space.models:
        recipe = space.suggest(FixedTrial({**space.starts[0], "model": model}), Recipe())
        recipe = preset.trial.apply(recipe, len(data.train), CIFAR10)
        with tempfile.TemporaryDirectory() as folder:
            store = Store.locate(Path(folder))
            store.create()
            tracker = MlflowTracker(store, "bench")
            tracker.open_study(RunLabel(key=STUDY_KEY, name="bench", tags={}, params={}))
            saving = _saving_seconds(recipe, data, hardware, store.checkpoints("bench", "trial"))
            yield _shares(recipe, tracker, saving * (len(preset.trial_validations()) - 1), data, hardware)
            tracker.close()


def _saving_seconds(recipe: Recipe, data: Splits, hardware: Hardware, folder: Path) -> float:
    """Median time to save a checkpoint, synced to the disk."""
    state = TrainState.create(recipe, data, hardware)
    next(train(state, data, EvalSchedule((1 / state.total_steps,))))  # the optimiser has a state after one step
    return median(seconds(lambda: Checkpoints(folder).save(state)) for _ in range(3))


def _shares(recipe: Recipe, tracker: MlflowTracker, saving: float, data: Splits, hardware: Hardware) -> Line:
    """Run a trial in this process, and time everything but training; its checkpoints take `saving` seconds."""
    received: list[tuple[Event, float, float]] = []  # with the seconds to log it, and the time when that was done

    def receive(event: Event) -> None:
        taken = seconds(lambda: tracker.point(event.key, event.point)) if isinstance(event, Progressed) else 0.0
        received.append((event, taken, time.perf_counter()))

    schedule = eval_schedule(PRESETS["quick"].trial_validations())
    label = RunLabel(key="trial", name="trial", tags={}, params=recipe.to_dict())
    logging = seconds(lambda: tracker.begin(label))
    job = TrainJob(key="trial", recipe=recipe, schedule=schedule)
    run_job(job, data, lambda: data.val, hardware, Channel(receive, lambda: True))
    *_, (last, _, began), (ending, _, ended) = received
    if not isinstance(last, Progressed) or not isinstance(ending, Finished) or ending.outcome is None:
        raise RuntimeError(f"the trial ended with {ending}")
    outcome, end = ending.outcome, partial(tracker.end, "trial", "complete")
    logging += sum(taken for _, taken, _ in received)
    logging += seconds(lambda: end(outcome=replace(outcome, files={})))
    drawing = ended - began + seconds(lambda: end(outcome=outcome))
    whole = last.point.train_seconds + last.point.validation_seconds
    kilobytes = sum(map(len, outcome.files.values())) / 1000
    times = {
        "validation": last.point.validation_seconds,
        "logging": logging,
        "pictures": drawing,
        "checkpoints": saving,
    }
    shares = {name: taken / whole for name, taken in times.items()}
    listed = ", ".join(f"{name} {share:.2%}" for name, share in shares.items())
    text = f"  {recipe.model:20} {whole:6.1f} s: {listed}; {kilobytes:.0f} kB of pictures"
    return Line(text, recipe.model, {"seconds": whole, **shares})
