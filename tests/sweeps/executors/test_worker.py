"""One job in this process: the events it sends, what stops it, and what becomes of its errors."""

from __future__ import annotations

import contextlib
import csv
import io
import itertools
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple
from unittest.mock import Mock

import pytest
import torch

from cifar_core.checkpoint import load_weights
from cifar_core.data import Split, Splits
from cifar_core.data.data_set import CIFAR10
from cifar_core.hardware import Hardware
from cifar_core.recipe import TTA_VIEWS, Recipe
from cifar_core.training import EvalSchedule, Progress, evenly, predict, total_steps
from sweeps.executors import worker
from sweeps.executors.protocol import (
    CheckpointWriteFailed,
    Diverged,
    EvaluateJob,
    Event,
    Failed,
    Finished,
    Job,
    Log,
    Outcome,
    Paused,
    Progressed,
    TrainJob,
)
from sweeps.executors.worker import Channel, run_job
from tests.sweeps.small_data import CPU, small_splits
from tests.sweeps.support import contents, file_size_limit, flip_bit

RECIPE = Recipe(model="fast_resnet", width=0.125, epochs=2.0, batch_size=25, learning_rate=0.5, color_jitter=0.2)
STEPS = 16
SCHEDULE = EvalSchedule(evenly(8), {0.25: 20, 0.5: 20, 1.0: 100})
JOB = TrainJob(key="trial-3", recipe=RECIPE, schedule=SCHEDULE)

# One worker's jobs on a machine with little memory: a large batch, a large batch to validate, and then a small run.
SMALL_MEMORY = """
import resource
from dataclasses import replace
from pathlib import Path
import torch
from cifar_core.hardware import Hardware
from cifar_core.recipe import Recipe
from cifar_core.training import EvalSchedule
from sweeps.executors.protocol import Progressed, TrainJob
from sweeps.executors.worker import Channel, run_job
from tests.synthetic import synthetic_splits

def tell(event):
    if not isinstance(event, Progressed):
        print(getattr(event, "reason", "Finished"))

torch.set_num_threads(1)
data = synthetic_splits(torch.Generator().manual_seed(0), train=64, val=500)
used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 400_000_000, resource.RLIM_INFINITY))
small = Recipe(model="fast_resnet", width=0.125, epochs=1.0, batch_size=32)
for recipe in (
    Recipe(model="custom_resnet", epochs=1.0, batch_size=2048),
    replace(small, width=2.0, batch_size=2, epochs=0.03),
    replace(small, model="vision_transformer"),  # which needs little
):
    job = TrainJob(key="trial-0", recipe=recipe, schedule=EvalSchedule(validations={1.0: 500}))
    run_job(job, data, lambda: data.val, Hardware(torch.device("cpu"), bf16=False), Channel(tell, lambda: True))
"""


@pytest.fixture(scope="module")
def data() -> Splits:
    return small_splits()


def carry_out(
    job: Job, data: Splits, answers: Sequence[bool] = (True, True), pause: Callable[[], bool] = lambda: False
) -> list[Event]:
    """All events of `job`; `answers` are given in turn, and one question too many is an error."""
    events: list[Event] = []
    left = list(answers)
    carry_out_with(job, data, Channel(events.append, lambda: left.pop(0), pause))
    return events


def carry_out_with(job: Job, data: Splits, channel: Channel) -> None:
    """Run `job`; a test of the champion meets the validation images."""

    def test_set() -> Split:
        assert isinstance(job, EvaluateJob), "the test set was opened"
        return data.val

    run_job(job, data, test_set, CPU, channel)


def curve(events: list[Event]) -> list[Progress]:
    return [event.point for event in events if isinstance(event, Progressed)]


def points(events: list[Event]) -> list[Progress]:
    """The points of a run without the seconds, which differ from time to time."""
    return [replace(point, train_seconds=0.0, validation_seconds=0.0) for point in curve(events)]


def same_weights(*folders: Path) -> bool:
    one, other = (load_weights(RECIPE, folder / "weights.safetensors").state_dict() for folder in folders)
    return all(torch.equal(value, other[name]) for name, value in one.items())


def job_in(folder: Path) -> TrainJob:
    return replace(JOB, checkpoints=folder / "checkpoints", weights=folder / "weights.safetensors")


def test_a_run_on_all_images_validates_on_none_and_resumes_from_any_point(data: Splits, tmp_path: Path) -> None:
    recipe = replace(RECIPE, val_fraction=0.0)
    job = replace(JOB, recipe=recipe, schedule=EvalSchedule((0.25, 0.5, 1.0)))
    jobs = [replace(job, checkpoints=tmp_path / n / "c", weights=tmp_path / n / "weights.safetensors") for n in "ab"]
    whole = carry_out(jobs[0], data, answers=())
    assert whole[-1] == Finished(job.key, None)
    assert [point.val_accuracy for point in curve(whole)] == [None] * 3
    steps = total_steps(recipe, len(data.train) + len(data.val))
    assert [point.step for point in curve(whole)] == [max(1, round(f * steps)) for f in (0.25, 0.5, 1.0)]

    def die_at_the_half(event: Event) -> None:
        if isinstance(event, Progressed) and event.point.fraction >= 0.5:
            raise BrokenPipeError

    with pytest.raises(BrokenPipeError):
        carry_out_with(jobs[1], data, Channel(die_at_the_half, lambda: True))
    resumed = carry_out(jobs[1], data, answers=())
    assert points(resumed) == points(whole)[1:], "from the checkpoint at the first point"
    one, other = (load_weights(recipe, one.weights).state_dict() for one in jobs if one.weights)
    assert all(torch.equal(value, other[name]) for name, value in one.items())


class Whole(NamedTuple):
    """A run that nothing disturbed."""

    folder: Path
    events: list[Event]
    outcome: Outcome


@pytest.fixture(scope="module")
def whole(data: Splits, tmp_path_factory: pytest.TempPathFactory) -> Whole:
    folder = tmp_path_factory.mktemp("whole")
    events = carry_out(job_in(folder), data)
    return Whole(folder, events, finished(events))


def finished(events: list[Event]) -> Outcome:
    assert isinstance(events[-1], Finished)
    assert events[-1].outcome is not None
    return events[-1].outcome


def failure(events: list[Event]) -> Failed:
    assert isinstance(events[-1], Failed)
    return events[-1]


class TestTraining:
    def test_points_then_the_outcome(self, whole: Whole) -> None:
        assert {event.key for event in whole.events} == {"trial-3"}
        shown, outcome = curve(whole.events), whole.outcome
        assert len(shown) == len(whole.events) - 1
        steps = range(2, STEPS + 1, 2)
        assert [(point.step, point.fraction) for point in shown] == [(step, step / STEPS) for step in steps]
        assert [point.step for point in shown if point.val_accuracy is not None] == [4, 8, 16]
        assert [point.step for point in shown if point.val_loss is not None] == [4, 8, 16]
        seconds = [point.train_seconds for point in shown]
        assert seconds[0] > 0
        assert seconds == sorted(seconds)
        assert shown[-1].epoch == 2.0
        assert all("system/process_memory_megabytes" in e.system for e in whole.events if isinstance(e, Progressed))
        assert (outcome.accuracy, outcome.loss) == (shown[-1].val_accuracy, shown[-1].val_loss)
        assert list(outcome.accuracies) == [
            *(f"class/{name}" for name in CIFAR10.classes),
            "group/animals",
            "group/vehicles",
        ]

    @pytest.mark.slow
    def test_watching_less_changes_nothing_of_what_is_learned(self, data: Splits, whole: Whole) -> None:
        seldom = carry_out(replace(JOB, schedule=EvalSchedule(evenly(1), {1.0: 100})), data)
        assert finished(seldom).loss == whole.outcome.loss

    @pytest.mark.parametrize(("answers", "steps"), [((False,), 4), ((True, False), 8)])
    def test_a_no_ends_the_run_without_another_event(self, data: Splits, answers: tuple[bool, ...], steps: int) -> None:
        *_, last = carry_out(JOB, data, answers)
        assert isinstance(last, Progressed)
        assert last.point.step == steps
        assert last.point.val_accuracy is not None

    def test_a_run_of_one_step(self, data: Splits) -> None:
        events = carry_out(replace(JOB, recipe=replace(RECIPE, epochs=0.01)), data, ())
        finished(events)
        assert (curve(events)[-1].step, curve(events)[-1].fraction) == (1, 1.0)

    def test_weights_are_those_of_the_end(self, data: Splits, whole: Whole) -> None:
        path = whole.folder / "weights.safetensors"
        again = predict(CPU.place(load_weights(RECIPE, path)), data.val, CPU)
        assert again.loss == whole.outcome.loss
        assert sorted(file.name for file in path.parent.glob("weights*")) == [path.name, path.name + ".sha256"]

    def test_a_pruned_run_leaves_no_weights_and_no_checkpoints(self, data: Splits, tmp_path: Path) -> None:
        carry_out(job_in(tmp_path), data, (False,))
        assert list(tmp_path.iterdir()) == []


def states_in(folder: Path) -> list[int]:
    """The steps of the checkpoints in `folder`, rising."""
    return sorted(int(path.stem.removeprefix("step-")) for path in folder.glob("*.safetensors"))


class TestCheckpoints:
    """A run that is cut off goes on from its last checkpoint."""

    @pytest.mark.slow
    @pytest.mark.parametrize(("at", "resumes_after"), [(2, 0), (6, 4), (8, 4), (10, 8), (16, 8)])
    def test_to_the_same_bits(self, data: Splits, whole: Whole, tmp_path: Path, at: int, resumes_after: int) -> None:
        def cut_off(event: Event) -> None:
            if isinstance(event, Progressed) and event.point.step == at:
                raise EOFError

        job = job_in(tmp_path)
        with pytest.raises(EOFError):
            carry_out_with(job, data, Channel(cut_off, lambda: True))
        rest = carry_out(job, data)
        assert [point.step for point in curve(rest)] == list(range(resumes_after + 2, STEPS + 1, 2))
        assert finished(rest) == whole.outcome
        assert same_weights(whole.folder, tmp_path)

    def test_the_last_two_lie_in_the_folder(self, whole: Whole) -> None:
        assert states_in(whole.folder / "checkpoints") == [4, 8]

    def test_a_damaged_one_is_noted_and_passed_over(self, data: Splits, whole: Whole, tmp_path: Path) -> None:
        shutil.copytree(whole.folder, tmp_path, dirs_exist_ok=True)
        newest = tmp_path / "checkpoints" / "step-000000008.safetensors"
        newest.write_bytes(newest.read_bytes()[:-1])
        noted, *rest = carry_out(job_in(tmp_path), data)
        assert isinstance(noted, Log)
        assert noted.key == "trial-3"
        assert noted.line.startswith(f"{newest}: SHA-256 must be ")
        assert points(rest) == points(whole.events)[2:]

    @pytest.mark.slow
    @pytest.mark.parametrize(("recorded", "resumes_after"), [(None, 8), (8, 8), (7, 4), (4, 4), (3, 0), (0, 0)])
    def test_none_is_used_that_would_leave_out_a_point(
        self, data: Splits, whole: Whole, tmp_path: Path, recorded: int | None, resumes_after: int
    ) -> None:
        """A coordinator may die between a checkpoint and the record of the points that came before it."""
        shutil.copytree(whole.folder, tmp_path, dirs_exist_ok=True)
        rest = carry_out(replace(job_in(tmp_path), recorded=recorded), data)
        assert points(rest) == [point for point in points(whole.events) if point.step > resumes_after]


class TestPause:
    """A run that is paused at any step goes on to the same bits and the same later points."""

    @pytest.mark.slow
    @pytest.mark.parametrize("every", [1, 3, 5, 15])
    def test_again_and_again(self, data: Splits, whole: Whole, tmp_path: Path, every: int) -> None:
        job = job_in(tmp_path)
        shown: list[Progress] = []
        reached = [0]
        while True:
            asked = itertools.count()
            events = carry_out(job, data, pause=lambda asked=asked: next(asked) >= every)  # type: ignore[misc]
            shown += points(events)
            if not isinstance(events[-1], Paused):
                break
            *_, newest = states_in(tmp_path / "checkpoints")
            assert reached[-1] < newest <= reached[-1] + every
            reached.append(newest)
        assert len(reached) > 1
        assert shown == points(whole.events)
        assert finished(events) == whole.outcome
        assert same_weights(whole.folder, tmp_path)

    def test_before_it_begins(self, data: Splits, tmp_path: Path) -> None:
        assert carry_out(replace(JOB, checkpoints=tmp_path / "c"), data, pause=lambda: True) == [Paused("trial-3")]
        assert not (tmp_path / "c").exists()

    def test_without_checkpoints_it_just_ends(self, data: Splits, tmp_path: Path) -> None:
        asked = itertools.count()
        events = carry_out(replace(JOB, weights=tmp_path / "w"), data, pause=lambda: next(asked) >= 3)
        assert [point.step for point in curve(events)] == [2]
        assert events[-1] == Paused("trial-3")
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.slow
    def test_while_it_waits_for_an_answer(self, data: Splits, whole: Whole, tmp_path: Path) -> None:
        events: list[Event] = []
        job = replace(JOB, checkpoints=tmp_path / "c")
        waits = Channel(events.append, lambda: True, lambda: bool(events) and curve(events)[-1].step == 4)
        carry_out_with(job, data, waits)
        assert events[-1] == Paused("trial-3")
        assert states_in(tmp_path / "c") == [4]
        assert points(events) + points(carry_out(job, data)) == points(whole.events)

    @pytest.mark.slow
    def test_not_after_the_last_step(self, data: Splits) -> None:
        asked = itertools.count()
        events = carry_out(JOB, data, pause=lambda: next(asked) > 100)
        assert isinstance(events[-1], Finished)
        assert next(asked) == STEPS, "before it begins, and after each step but the last"


class TestDisk:
    """A disk that cannot be written is not the fault of the run."""

    @pytest.fixture
    def disk(self, tmp_path: Path) -> Iterator[Path]:
        """A disk of eight megabytes."""
        folder = tmp_path / "disk"
        folder.mkdir()
        mount = ["mount", "-t", "tmpfs", "-o", "size=8m", "none", str(folder)]
        mounted = subprocess.run(mount, capture_output=True, text=True)
        if mounted.returncode:
            pytest.skip(f"a disk that can be filled must be mounted, but {mounted.stderr.strip()}")
        yield folder
        subprocess.run(["umount", str(folder)], check=True)

    @pytest.mark.slow
    @pytest.mark.parametrize("at", [4, 8, 16])
    @pytest.mark.parametrize("fault", ["full", "read-only"])
    def test_the_run_ends_and_resumes_later(self, data: Splits, whole: Whole, disk: Path, fault: str, at: int) -> None:
        job = replace(JOB, checkpoints=disk / "checkpoints", weights=disk / "weights")
        events: list[Event] = []
        found: list[dict[Path, bytes]] = []

        def send(event: Event) -> None:
            events.append(event)
            if not (isinstance(event, Progressed) and event.point.step == at):
                return
            if fault == "read-only":
                subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
            else:
                with contextlib.suppress(OSError), (disk / "filler").open("wb", buffering=0) as filler:
                    while True:
                        filler.write(bytes(4096))
            found.append(contents(disk))

        carry_out_with(job, data, Channel(send, lambda: True))
        kept = {4: "a checkpoint", 8: "a checkpoint", 16: "the weights"}[at]
        path = disk / "weights" if at == 16 else disk / "checkpoints" / f"step-{at:09d}.safetensors"
        if at == 4 and fault == "read-only":  # the folder itself could not be made
            assert not (disk / "checkpoints").exists()
        said = {"full": "No space left on device", "read-only": "Read-only file system"}[fault]
        assert events[-1] == CheckpointWriteFailed("trial-3", f"{path}: {kept} must be writable, but got: {said}")
        assert found == [contents(disk)], "nothing is lost, and nothing is left lying"

        subprocess.run(["mount", "-o", "remount,rw", str(disk)], check=True)
        (disk / "filler").unlink(missing_ok=True)
        rest = carry_out(job, data)
        assert points(events)[: {4: 0, 8: 2, 16: 4}[at]] + points(rest) == points(whole.events)
        assert isinstance(rest[-1], Finished)

    def test_files_that_may_not_be_as_large(self, data: Splits, tmp_path: Path) -> None:
        with file_size_limit(10_000):
            *_, last = carry_out(replace(JOB, checkpoints=tmp_path), data)
        said = f"{tmp_path}/step-000000004.safetensors: a checkpoint must be writable, but got: File too large"
        assert last == CheckpointWriteFailed("trial-3", said)
        assert list(tmp_path.iterdir()) == []


class TestMemory:
    @pytest.mark.slow
    def test_the_batch_that_did_not_fit_is_named_and_the_worker_lives_on(self) -> None:
        """In a process of its own, which may not grow by more than 400 MB."""
        here = Path(__file__).parents[3]  # for `tests.synthetic`
        # A heap for each thread would take 64 MB or more of the addresses, now and then.
        environment = {**os.environ, "MALLOC_ARENA_MAX": "1"}
        said = subprocess.check_output([sys.executable, "-c", SMALL_MEMORY], cwd=here, env=environment, text=True)
        first, second, third = said.splitlines()
        assert re.fullmatch(
            r"out of memory: a batch of 2048 images did not fit beside the network \(custom_resnet, width 1\): "
            r".*DefaultCPUAllocator: can't allocate memory: you tried to allocate \d+ bytes\..*",
            first,
        )
        assert re.fullmatch(
            r"out of memory: a batch of 500 images did not fit beside the network \(fast_resnet, width 2\): .+", second
        )
        assert third == "Finished"


class TestGpus:
    SECOND = Hardware(torch.device("cuda", 1), bf16=False)

    def test_the_gpu_of_a_worker_is_the_current_one(self, data: Splits, monkeypatch: pytest.MonkeyPatch) -> None:
        chosen: list[torch.device] = []
        monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
        carry_out(JOB, data)
        assert chosen == []
        run_job(JOB, data, Mock(), self.SECOND, Channel(Mock(), lambda: True))
        assert chosen == [self.SECOND.device]

    @pytest.mark.parametrize(("device", "releases"), [("cpu", 0), ("cuda", 1), ("mps", 1)])
    def test_a_run_that_ends_leaves_no_memory_of_a_gpu_in_use(
        self, data: Splits, monkeypatch: pytest.MonkeyPatch, device: str, releases: int
    ) -> None:
        monkeypatch.setattr(worker, "release_memory", released := Mock())
        hardware = Hardware(torch.device(device), bf16=False)
        run_job(JOB, data, Mock(), hardware, Channel(events := Mock(), Mock(), lambda: True))
        assert events.call_args.args == (Paused("trial-3"),)  # before it touched the device
        assert released.call_count == releases

    @pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
    def test_the_second_gpu_trains_a_network_in_graphs(self, data: Splits) -> None:
        events: list[Event] = []
        with torch.cuda.device(0):  # which is the current one again afterwards
            run_job(JOB, data, Mock(), self.SECOND, Channel(events.append, lambda: True))
        assert isinstance(events[-1], Finished), events[-1]


class TestArtifacts:
    def test_names_and_sizes(self, whole: Whole) -> None:
        assert set(whole.outcome.files) == {
            "confusion.json",
            "pictures/augmented.png",
            "pictures/classes.png",
            "pictures/confusion.png",
            "pictures/mistakes.png",
            "pictures/predictions.png",
            "predictions.csv",
            "summary.txt",
            "weakness.md",
        }

    def test_confusion_counts_every_validation_image(self, whole: Whole, data: Splits) -> None:
        matrix = torch.tensor(json.loads(whole.outcome.files["confusion.json"])["matrix"])
        assert matrix.sum(1).tolist() == data.val.labels.bincount(minlength=10).tolist()
        assert matrix.trace() / 100 == pytest.approx(whole.outcome.accuracy)


class TestErrors:
    @pytest.mark.slow
    def test_an_error_is_one_line_and_its_details(self, data: Splits) -> None:
        event = failure(carry_out(replace(JOB, recipe=replace(RECIPE, model="five_convs")), data))
        assert event.key == "trial-3"
        assert not event.worker_died
        assert event.reason.startswith("RecipeError: unknown model 'five_convs'; expected one of airbench, ")
        assert "\n" not in event.reason
        assert event.details.startswith("Traceback")
        assert "build_model" in event.details

    @pytest.mark.slow
    @pytest.mark.parametrize(
        ("error", "reason"),
        [
            (RuntimeError("no such kernel\nand much more"), "RuntimeError: no such kernel"),
            (MemoryError(), "out of memory: MemoryError"),
        ],
    )
    def test_only_the_first_line_of_an_error_is_its_reason(
        self, data: Splits, monkeypatch: pytest.MonkeyPatch, error: Exception, reason: str
    ) -> None:
        monkeypatch.setattr(worker, "train", Mock(side_effect=error))
        event = failure(carry_out(JOB, data))
        assert (event.reason, event.out_of_memory) == (reason, isinstance(error, MemoryError))
        assert str(error) in event.details

    def test_an_infinite_rate_diverges(self, data: Splits) -> None:
        events = carry_out(replace(JOB, recipe=replace(RECIPE, learning_rate=1e30, warmup=0.0)), data)
        assert isinstance(events[-1], Diverged)
        assert events[-1].key == "trial-3"
        assert events[-1].reason.startswith(("training loss was nan at step ", "training loss was inf at step "))
        assert not any(isinstance(event, Finished | Failed) for event in events)

    @pytest.mark.parametrize("error", [BrokenPipeError, EOFError])
    def test_a_coordinator_that_is_gone_ends_the_worker(self, data: Splits, error: type[Exception]) -> None:
        with pytest.raises(error):
            carry_out_with(JOB, data, Channel(Mock(side_effect=error), lambda: True))


class TestTestSet:
    @pytest.fixture
    def job(self, whole: Whole) -> EvaluateJob:
        """A test of a trained network."""
        return EvaluateJob(key="confirm-3-0", recipe=RECIPE, weights=whole.folder / "weights.safetensors")

    def test_one_event_with_everything_in_a_folder_of_its_own(self, data: Splits, job: EvaluateJob) -> None:
        [event] = events = carry_out(job, data, ())
        outcome = finished(events)
        assert event.key == "confirm-3-0"
        tables = {"confusion.json", "prediction.json", "predictions.csv", "serving.json", "weakness.md"}
        pictures = {"classes.png", "confusion.png", "mistakes.png", "prediction.png", "predictions.png"}
        assert set(outcome.files) == {f"test/{name}" for name in tables | pictures}
        rows = list(csv.DictReader(io.StringIO(outcome.files["test/predictions.csv"].decode())))
        assert [row["true"] for row in rows] == [CIFAR10.classes[label] for label in data.val.labels]
        right = sum(row["true"] == row["predicted"] for row in rows)
        assert right / 100 == pytest.approx(outcome.accuracy)
        alone, large = json.loads(outcome.files["test/serving.json"])
        assert (alone["images"], large["images"]) == (1, 256)
        assert 0 < alone["seconds"] <= alone["slow_seconds"]

    @pytest.mark.parametrize("tta", TTA_VIEWS)
    def test_the_accuracy_with_test_time_augmentation_stands_beside_the_plain_one(
        self, data: Splits, job: EvaluateJob, tta: str
    ) -> None:
        augmented = finished(carry_out(replace(job, recipe=replace(RECIPE, tta=tta)), data, ()))
        plain = finished(carry_out(job, data, ()))
        assert (augmented.accuracy, augmented.accuracies) == (plain.accuracy, plain.accuracies)
        expected = predict(load_weights(RECIPE, job.weights), data.val, CPU, tta=tta).accuracy
        assert augmented.tta_accuracy == (None if tta == "none" else expected)

    def test_damaged_weights(self, data: Splits, job: EvaluateJob, tmp_path: Path) -> None:
        shutil.copytree(job.weights.parent, tmp_path, dirs_exist_ok=True)
        path = tmp_path / job.weights.name
        flip_bit(path)
        assert "CheckpointError" in failure(carry_out(replace(job, weights=path), data, ())).reason
