"""What the platform costs on top of the arithmetic, as ratios measured side by side in one run.

python -m experiments.benchmarks.trainer                     # all of it
python -m experiments.benchmarks.trainer trainer --device cuda
"""

from __future__ import annotations

import contextlib
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from types import MappingProxyType
from unittest import mock

import torch
import torch.nn.functional as F
from optuna.trial import FixedTrial

from cifar_core.budget import affordable_eval_schedule, step_flops
from cifar_core.checkpoint import Checkpoints
from cifar_core.data import Split, Splits, load_train_val
from cifar_core.data.download import default_data_dir, ensure_cifar10
from cifar_core.hardware import DEVICES, Hardware, HardwareError, set_up_cpu
from cifar_core.memory import keep_freed_memory
from cifar_core.models import winograd
from cifar_core.recipe import Recipe
from cifar_core.training import EvalSchedule, TrainState, evenly, normalise, train
from experiments.benchmarks.platform_bench import bench_overhead, bench_resume
from sweeps.command_line import USAGE, OneLineParser, positive_int
from sweeps.console import SweepConsole
from sweeps.executors.protocol import Event, Finished, Outcome, Point, Progressed, TrainJob
from sweeps.executors.worker import Channel, run_job
from sweeps.planning.plan import LOSS_POINTS, SEARCH_VALIDATIONS
from sweeps.planning.presets import PRESETS
from sweeps.planning.search_space import SPACES
from sweeps.store import Store
from sweeps.tracking.tracker import MlflowTracker, RunLabel

_ROUNDS = 8
_STEPS = 4  # of each round
_PAIRS = 2
_TURNS = 4
_LARGE_BATCH = 512
_AUGMENTED = Recipe(optimizer="muon", learning_rate=0.1, momentum=0.6, cutout=8, color_jitter=0.2, mix="cutmix")


def bench_trainer(data: Splits, hardware: Hardware) -> Iterator[str]:
    """The trainer against a bare forward-backward-step loop, in turns, with every augmentation switched on."""
    yield "trainer: time of a step over that of a bare loop on the same network and resident batches (rule: <= 1.05)"
    for model in SPACES["full"].models:
        recipe = replace(_AUGMENTED, model=model, batch_size=256, epochs=(_ROUNDS + 1) * _STEPS * 256 / len(data.train))
        state = TrainState.create(recipe, data, hardware)
        bare = _bare_loop(recipe, data, hardware, _STEPS)
        ratios: list[float] = []
        before = 0.0
        for progress in train(state, data, EvalSchedule(evenly(_ROUNDS + 1), (), ())):
            trained, before = progress.train_seconds - before, progress.train_seconds
            ratio = trained / bare()
            if progress.step > _STEPS:  # the first round sets up kernels
                ratios.append(ratio)
        speed = _STEPS * step_flops(recipe) / trained / 1e12
        yield f"  {model:20} {median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f}), {speed:.3f} TFLOP/s"


def _bare_loop(recipe: Recipe, data: Splits, hardware: Hardware, steps: int) -> Callable[[], float]:
    """Seconds that so many steps take, each on the same resident batch."""
    state = TrainState.create(recipe, data, hardware)
    images = normalise(data.train.images[: recipe.batch_size].to(hardware.device).float() / 255)
    images = images.contiguous(memory_format=torch.channels_last)
    labels = data.train.labels[: recipe.batch_size].to(hardware.device)

    def run() -> float:
        state.model.train()
        started = time.perf_counter()
        for _ in range(steps):
            with hardware.autocast():
                loss = F.cross_entropy(state.model(images).float(), labels)
            state.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            state.optimizer.step()
        loss.item()  # waits for the device
        return time.perf_counter() - started

    return run


def bench_memory(data: Splits, hardware: Hardware) -> Iterator[str]:
    """Bare loops that use freed memory again, as training does, against such that give it back, in turns."""
    yield f"memory: time of a step with freed memory used again over that with it given back, batch {_LARGE_BATCH}"
    if hardware.device.type != "cpu":
        yield "  of a CPU only"
        return
    for model in SPACES["full"].models:
        loop = partial(
            _loop_alone,
            Recipe(model=model, batch_size=_LARGE_BATCH),
            data.train.head(_LARGE_BATCH),
            hardware,
            torch.get_num_threads(),
        )
        ratios = []
        with ProcessPoolExecutor(1, mp_context=get_context("spawn"), max_tasks_per_child=1) as alone:
            for _ in range(_PAIRS):
                (again, most), (anew, least) = (alone.submit(loop, kept).result() for kept in (True, False))
                ratios.append(again / anew)
        yield f"  {model:20} {', '.join(f'{ratio:.3f}' for ratio in ratios)}; peak {most:.2f} GB over {least:.2f} GB"


def _loop_alone(recipe: Recipe, batch: Split, hardware: Hardware, threads: int, kept: bool) -> tuple[float, float]:
    """Seconds of a few steps in a process of their own, and its peak of memory in GB."""
    torch.set_num_threads(threads)
    if kept:
        keep_freed_memory()
    run = _bare_loop(recipe, Splits(train=batch, val=batch), hardware, _STEPS // 2)
    run()  # sets up kernels, and finds places
    return run(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


def bench_winograd(data: Splits, hardware: Hardware) -> Iterator[str]:
    """Bare loops with wide convolutions by Winograd's algorithm, as in training, against such without, in turns."""
    yield "winograd: time of a step with wide 3x3 convolutions by Winograd's algorithm over that without, batch 256"
    if hardware.device.type != "cpu" or hardware.bf16:
        yield "  of a CPU in fp32 only"
        return
    for model in (*SPACES["full"].models, "custom_resnet"):
        run = _bare_loop(Recipe(model=model, batch_size=256), data, hardware, _STEPS // 2)
        ratios: list[float] = []
        for _ in range(1 + _TURNS):
            fast = run()
            with mock.patch.object(winograd, "is_faster", return_value=False):
                ratios.append(fast / run())
        _, *ratios = ratios  # the first turn sets up kernels
        yield f"  {model:20} {median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})"


def bench_trial(data: Splits, hardware: Hardware) -> Iterator[str]:
    """What a trial of the preset `quick` spends on anything but training."""
    yield (
        "trial: shares of an unpruned trial's time (rules: validation <= 10 %, logging <= 1 %, pictures <= 3 %, "
        "checkpoints <= 1 %)"
    )
    space, preset = SPACES["full"], PRESETS["quick"]
    for model in SPACES["full"].models:
        recipe = space.suggest(FixedTrial({**space.starts[0], "model": model}), Recipe())
        recipe = preset.trial.apply(recipe, len(data.train))
        with tempfile.TemporaryDirectory() as folder:
            store = Store.locate(Path(folder))
            store.create()
            tracker = MlflowTracker(store, "bench")
            tracker.open_study(RunLabel(key="study", name="bench", tags={}, params={}))
            saving = _saving_seconds(recipe, data, hardware, store.checkpoints("bench", "trial"))
            yield _Trial(recipe, tracker, saving * (len(SEARCH_VALIDATIONS) - 1)).shares(data, hardware)
            tracker.close()


def _saving_seconds(recipe: Recipe, data: Splits, hardware: Hardware, folder: Path) -> float:
    """What a checkpoint takes, synced to the disk."""
    state = TrainState.create(recipe, data, hardware)
    next(train(state, data, EvalSchedule((1 / state.total_steps,), (), ())))  # after a step there is an optimiser state
    times = []
    for _ in range(3):
        started = time.perf_counter()
        Checkpoints(folder).save(state)
        times.append(time.perf_counter() - started)
    return median(times)


@dataclass(slots=True)
class _Trial:
    """A trial carried out in this process, with a clock on everything that is not training."""

    recipe: Recipe
    tracker: MlflowTracker
    saving: float  # seconds, of all its checkpoints
    logging: float = 0.0  # likewise
    drawing: float = 0.0
    point: Point | None = None
    point_at: float = 0.0
    outcome: Outcome | None = None

    def shares(self, data: Splits, hardware: Hardware) -> str:
        watch = affordable_eval_schedule(
            self.recipe, len(data.train), len(data.val), losses=LOSS_POINTS, validations=SEARCH_VALIDATIONS
        )
        label = RunLabel(key="trial", name="trial", tags={}, params=self.recipe.to_dict())
        with self._clock("logging"):
            self.tracker.begin(label)
        job = TrainJob(key="trial", recipe=self.recipe, schedule=watch)
        run_job(job, data, lambda: data.val, hardware, Channel(self._receive, lambda: True))
        assert self.point is not None
        assert self.outcome is not None
        with self._clock("logging"):
            self.tracker.end("trial", "complete", outcome=replace(self.outcome, files={}))
        with self._clock("drawing"):
            self.tracker.end("trial", "complete", outcome=self.outcome)
        seconds = self.point.train_seconds + self.point.validation_seconds
        kilobytes = sum(map(len, self.outcome.files.values())) / 1000
        return (
            f"  {self.recipe.model:20} {seconds:6.1f} s: validation {self.point.validation_seconds / seconds:.1%}, "
            f"logging {self.logging / seconds:.2%}, pictures {self.drawing / seconds:.2%} ({kilobytes:.0f} kB), "
            f"checkpoints {self.saving / seconds:.2%}"
        )

    def _receive(self, event: Event) -> None:
        if isinstance(event, Progressed):
            with self._clock("logging"):
                self.tracker.point(event.key, event.point)
            self.point, self.point_at = event.point, time.perf_counter()
        elif isinstance(event, Finished):
            self.drawing += time.perf_counter() - self.point_at
            self.outcome = event.outcome
        else:
            raise RuntimeError(f"the trial ended with {event}")

    @contextlib.contextmanager
    def _clock(self, what: str) -> Iterator[None]:
        started = time.perf_counter()
        yield
        setattr(self, what, getattr(self, what) + time.perf_counter() - started)


BENCHES: Mapping[str, Callable[[Splits, Hardware], Iterator[str]]] = MappingProxyType(
    {
        "trainer": bench_trainer,
        "memory": bench_memory,
        "winograd": bench_winograd,
        "trial": bench_trial,
        "overhead": bench_overhead,
        "resume": bench_resume,
    }
)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = OneLineParser(prog="experiments.benchmarks.trainer", description=__doc__.partition("\n")[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"{', '.join(BENCHES)} (default: all)")
    parser.add_argument("--device", choices=DEVICES, default="auto", help="default: %(default)s")
    parser.add_argument(
        "--threads", type=positive_int, default=1, help="of a CPU (default: %(default)s, as in a sweep)"
    )
    options = parser.parse_args(arguments)
    if unknown := [name for name in options.names if name not in BENCHES]:
        parser.error(f"NAME must be one of {', '.join(BENCHES)}, but got {unknown[0]!r}")
    set_up_cpu(options.threads)
    try:
        hardware = Hardware.detect(options.device)
    except HardwareError as error:
        print(f"{parser.prog}: error: {error}", file=sys.stderr)
        return USAGE
    with SweepConsole() as console:
        ensure_cifar10(default_data_dir(), console.progress)
        data = load_train_val(default_data_dir())
        console.say(f"{hardware.describe()}, {hardware.precision}, {options.threads} thread, torch {torch.__version__}")
        for name in options.names or BENCHES:
            for line in BENCHES[name](data, hardware):
                console.say(line)
    return 0


if __name__ == "__main__":
    sys.exit(main())
