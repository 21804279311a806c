"""One job in this process: the events it sends, what stops it, and what becomes of its errors."""

from __future__ import annotations

import contextlib
import csv
import io
import itertools
import json
import os
import re
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from cifar_core.checkpoint import load_weights
from cifar_core.data import CLASSES, Split, Splits
from cifar_core.recipe import Recipe
from cifar_core.training import EvalSchedule, evenly, predict
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
    Point,
    Progressed,
    TrainJob,
)
from sweeps.executors.worker import Channel, run_job
from tests.sweeps.small_data import CPU, small_splits

RECIPE = Recipe(model="fast_resnet", width=0.125, epochs=2.0, batch_size=25, learning_rate=0.5, color_jitter=0.2)
STEPS = 16
SCHEDULE = EvalSchedule(losses=evenly(8), validations=(0.25, 0.5, 1.0), validation_images=(20, 20, 100))
JOB = TrainJob(key="trial-3", recipe=RECIPE, schedule=SCHEDULE)

# One worker's jobs on a machine with little memory: a large batch, a large batch to validate, and then a small run.
SMALL_MEMORY = """
import resource
from dataclasses import replace
from pathlib import Path
import torch
from cifar_core.data import synthetic_splits
from cifar_core.hardware import Hardware
from cifar_core.recipe import Recipe
from cifar_core.training import EvalSchedule
from sweeps.executors.protocol import Failed, Finished, TrainJob
from sweeps.executors.worker import Channel, run_job

def tell(event):
    if isinstance(event, Failed):
        print(event.reason)
    elif isinstance(event, Finished):
        print("Finished")

torch.set_num_threads(1)
data = synthetic_splits(torch.Generator().manual_seed(0), train=64, val=500)
used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 300_000_000, resource.RLIM_INFINITY))
small = Recipe(model="fast_resnet", width=0.125, epochs=1.0, batch_size=32)
for recipe in (
    Recipe(model="custom_resnet", epochs=1.0, batch_size=2048),
    replace(small, width=2.0, batch_size=2, epochs=0.03),
    small,
):
    job = TrainJob(key="trial-0", recipe=recipe, schedule=EvalSchedule((), (1.0,), (500,)))
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


def points(events: list[Event]) -> list[Point]:
    """What is shown of a run, without the seconds, which differ from time to time."""
    shown = [event.point for event in events if isinstance(event, Progressed)]
    return [replace(point, train_seconds=0.0, validation_seconds=0.0) for point in shown]


def same_weights(*files: Path) -> bool:
    first, *others = (load_weights(RECIPE, path).state_dict() for path in files)
    return all(torch.equal(value, other[name]) for other in others for name, value in first.items())


def job_in(folder: Path) -> TrainJob:
    return replace(JOB, checkpoints=folder / "checkpoints", weights=folder / "weights.safetensors")


@dataclass(frozen=True)
class Whole:
    """A run that nothing disturbed."""

    folder: Path
    events: list[Event]

    @property
    def outcome(self) -> Outcome:
        return finished(self.events)


@pytest.fixture(scope="module")
def whole(data: Splits, tmp_path_factory: pytest.TempPathFactory) -> Whole:
    folder = tmp_path_factory.mktemp("whole")
    return Whole(folder, carry_out(job_in(folder), data))


def finished(events: list[Event]) -> Outcome:
    assert isinstance(events[-1], Finished)
    return events[-1].outcome


def failure(events: list[Event]) -> Failed:
    assert isinstance(events[-1], Failed)
    return events[-1]


class TestTraining:
    def test_points_then_the_outcome(self, whole: Whole) -> None:
        *points, last = whole.events
        assert {event.key for event in (*points, last)} == {"trial-3"}
        assert all(isinstance(event, Progressed) for event in points)
        curve = [event.point for event in points if isinstance(event, Progressed)]
        assert [point.step for point in curve] == list(range(2, STEPS + 1, 2))
        assert [point.step for point in curve if point.val_accuracy is not None] == [4, 8, 16]
        assert [point.fraction for point in curve] == [step / STEPS for step in range(2, STEPS + 1, 2)]
        assert curve[-1].epoch == 2.0
        assert all((point.val_loss is None) == (point.val_accuracy is None) for point in curve)
        seconds = [point.train_seconds for point in curve]
        assert seconds[0] > 0
        assert seconds == sorted(seconds)
        assert isinstance(last, Finished)
        assert last.outcome.accuracy == curve[-1].val_accuracy
        assert last.outcome.loss == curve[-1].val_loss
        assert last.outcome.images == 100
        assert len(last.outcome.class_accuracy) == len(CLASSES)

    def test_watching_less_changes_nothing_of_what_is_learned(self, data: Splits, whole: Whole) -> None:
        seldom = carry_out(replace(JOB, schedule=EvalSchedule(evenly(1), (1.0,), (100,))), data)
        assert finished(seldom).loss == whole.outcome.loss

    @pytest.mark.parametrize(("answers", "steps"), [((False,), 4), ((True, False), 8)])
    def test_a_no_ends_the_run_without_another_event(self, data: Splits, answers: tuple[bool, ...], steps: int) -> None:
        *_, last = carry_out(JOB, data, answers)
        assert isinstance(last, Progressed)
        assert last.point.step == steps
        assert last.point.val_accuracy is not None

    def test_a_run_of_one_step(self, data: Splits) -> None:
        *_, point, last = carry_out(replace(JOB, recipe=replace(RECIPE, epochs=0.01)), data, ())
        assert isinstance(point, Progressed)
        assert (point.point.step, point.point.fraction) == (1, 1.0)
        assert isinstance(last, Finished)

    def test_weights_are_those_of_the_end(self, data: Splits, whole: Whole) -> None:
        path = whole.folder / "weights.safetensors"
        again = predict(CPU.place(load_weights(RECIPE, path)), data.val, CPU)
        assert again.loss == whole.outcome.loss
        assert sorted(file.name for file in path.parent.glob("weights*")) == [path.name, path.name + ".sha256"]

    def test_a_pruned_run_leaves_no_weights(self, data: Splits, tmp_path: Path) -> None:
        carry_out(replace(JOB, weights=tmp_path / "w.safetensors"), data, (False,))
        assert list(tmp_path.iterdir()) == []


def states_in(folder: Path) -> list[int]:
    """The steps of the checkpoints there, rising."""
    return sorted(int(path.stem.removeprefix("step-")) for path in folder.glob("*.safetensors"))


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


class TestCheckpoints:
    """A run that is cut off goes on from its last checkpoint."""

    @pytest.mark.parametrize(("at", "resumes_after"), [(2, 0), (6, 4), (8, 4), (10, 8), (16, 8)])
    def test_to_the_same_bits(self, data: Splits, whole: Whole, tmp_path: Path, at: int, resumes_after: int) -> None:
        def cut_off(event: Event) -> None:
            if isinstance(event, Progressed) and event.point.step == at:
                raise EOFError

        job = job_in(tmp_path)
        with pytest.raises(EOFError):
            carry_out_with(job, data, Channel(cut_off, lambda: True))
        rest = carry_out(job, data)
        steps = [event.point.step for event in rest if isinstance(event, Progressed)]
        assert steps == list(range(resumes_after + 2, STEPS + 1, 2))
        assert finished(rest).files == whole.outcome.files
        assert finished(rest).loss == whole.outcome.loss
        assert same_weights(*(folder / "weights.safetensors" for folder in (whole.folder, tmp_path)))

    def test_none_where_a_run_was_told_to_stop(self, data: Splits, tmp_path: Path) -> None:
        carry_out(job_in(tmp_path), data, (False,))
        assert not (tmp_path / "checkpoints").exists()

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

    @pytest.mark.parametrize("every", [1, 3, 5, 15])
    def test_again_and_again(self, data: Splits, whole: Whole, tmp_path: Path, every: int) -> None:
        job = job_in(tmp_path)
        shown: list[Point] = []
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
        assert same_weights(*(folder / "weights.safetensors" for folder in (whole.folder, tmp_path)))

    def test_before_it_begins(self, data: Splits, tmp_path: Path) -> None:
        assert carry_out(replace(JOB, checkpoints=tmp_path / "c"), data, pause=lambda: True) == [Paused("trial-3")]
        assert not (tmp_path / "c").exists()

    def test_without_checkpoints_it_just_ends(self, data: Splits, tmp_path: Path) -> None:
        asked = itertools.count()
        events = carry_out(replace(JOB, weights=tmp_path / "w"), data, pause=lambda: next(asked) >= 3)
        assert [point.step for point in points(events)] == [2]
        assert events[-1] == Paused("trial-3")
        assert list(tmp_path.iterdir()) == []

    def test_while_it_waits_for_an_answer(self, data: Splits, whole: Whole, tmp_path: Path) -> None:
        events: list[Event] = []

        def waits() -> bool:
            last = events[-1]
            return isinstance(last, Progressed) and last.point.step == 4

        job = replace(JOB, checkpoints=tmp_path / "c")
        carry_out_with(job, data, Channel(events.append, lambda: True, lambda: bool(events) and waits()))
        assert events[-1] == Paused("trial-3")
        assert states_in(tmp_path / "c") == [4]
        assert points(events) + points(carry_out(job, data)) == points(whole.events)

    def test_not_after_the_last_step(self, data: Splits) -> None:
        asked = itertools.count()
        events = carry_out(JOB, data, pause=lambda: next(asked) > 100)
        assert isinstance(events[-1], Finished)
        assert next(asked) == STEPS, "before it begins, and after each step but the last"


class TestDisk:
    """A disk that cannot be written is not the fault of the run."""

    @pytest.fixture
    def disk(self, tmp_path: Path) -> Iterator[Path]:
        """A disk of one megabyte."""
        folder = tmp_path / "disk"
        folder.mkdir()
        mounted = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=1m", "none", str(folder)], capture_output=True, text=True
        )
        if mounted.returncode:
            pytest.skip(f"a disk that can be filled must be mounted, but {mounted.stderr.strip()}")
        yield folder
        subprocess.run(["umount", str(folder)], check=True)

    def carry_out(self, job: TrainJob, data: Splits, fault: Callable[[], None], at: int) -> list[Event]:
        """All events of `job`, with `fault` at the point of step `at`."""
        events: list[Event] = []

        def send(event: Event) -> None:
            events.append(event)
            if isinstance(event, Progressed) and event.point.step == at:
                fault()

        carry_out_with(job, data, Channel(send, lambda: True))
        return events

    @pytest.mark.parametrize("at", [4, 8, 16])
    @pytest.mark.parametrize("fault", ["full", "read-only"])
    def test_the_run_ends_and_resumes_later(self, data: Splits, whole: Whole, disk: Path, fault: str, at: int) -> None:
        job = replace(JOB, checkpoints=disk / "checkpoints", weights=disk / "weights")
        found: list[dict[Path, bytes]] = []

        def spoil() -> None:
            if fault == "read-only":
                subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
            else:
                with contextlib.suppress(OSError), (disk / "filler").open("wb", buffering=0) as filler:
                    while True:
                        filler.write(bytes(4096))
            found.append(contents(disk))

        events = self.carry_out(job, data, spoil, at)
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

    def test_a_folder_that_is_not_ours(self, data: Splits, tmp_path: Path) -> None:
        if os.geteuid() == 0:
            pytest.skip("the superuser may write everywhere")
        (tmp_path / "c").mkdir(mode=0o500)
        *_, last = carry_out(replace(JOB, checkpoints=tmp_path / "c"), data)
        path = tmp_path / "c" / "step-000000004.safetensors"
        assert last == CheckpointWriteFailed(
            "trial-3", f"{path}: a checkpoint must be writable, but got: Permission denied"
        )

    def test_files_that_may_not_be_as_large(self, data: Splits, tmp_path: Path) -> None:
        job = replace(JOB, checkpoints=tmp_path / "c")
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, before[1]))
        try:
            *_, last = carry_out(job, data)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        path = tmp_path / "c" / "step-000000004.safetensors"
        assert last == CheckpointWriteFailed(
            "trial-3", f"{path}: a checkpoint must be writable, but got: File too large"
        )
        assert list((tmp_path / "c").iterdir()) == []


class TestMemory:
    def test_the_batch_that_did_not_fit_is_named_and_the_worker_lives_on(self, tmp_path: Path) -> None:
        """In a process of its own, which may not grow by more than 300 MB."""
        script = tmp_path / "small_memory.py"
        script.write_text(SMALL_MEMORY)
        done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=True)
        first, second, third = done.stdout.splitlines()
        assert re.fullmatch(
            r"out of memory: a batch of 2048 images did not fit beside the network \(custom_resnet, width 1\): "
            r".*DefaultCPUAllocator: can't allocate memory: you tried to allocate \d+ bytes\..*",
            first,
        )
        assert re.fullmatch(
            r"out of memory: a batch of 500 images did not fit beside the network \(fast_resnet, width 2\): .+", second
        )
        assert third == "Finished"


class TestArtifacts:
    def test_names_and_sizes(self, whole: Whole) -> None:
        assert set(whole.outcome.files) == {
            "confusion.json",
            "pictures/augmented.png",
            "pictures/confusion.png",
            "pictures/mistakes.png",
            "pictures/predictions.png",
            "summary.txt",
            "weakness.md",
        }
        # Noise is the hardest thing to compress: real images take less.
        assert sum(map(len, whole.outcome.files.values())) < 300_000

    def test_pictures_can_be_opened(self, whole: Whole) -> None:
        for name, content in whole.outcome.files.items():
            if name.endswith(".png"):
                with Image.open(io.BytesIO(content)) as picture:
                    picture.verify()
                    assert picture.width > 200

    def test_confusion_counts_every_validation_image(self, whole: Whole, data: Splits) -> None:
        outcome = whole.outcome
        confusion = json.loads(outcome.files["confusion.json"])
        assert confusion["classes"] == list(CLASSES)
        rows = [sum(row) for row in confusion["matrix"]]
        assert rows == data.val.labels.bincount(minlength=10).tolist()
        right = sum(row[k] for k, row in enumerate(confusion["matrix"]))
        assert right / outcome.images == pytest.approx(outcome.accuracy)


class TestErrors:
    def test_an_error_is_one_line_and_its_details(self, data: Splits) -> None:
        event = failure(carry_out(replace(JOB, recipe=replace(RECIPE, model="five_convs")), data))
        assert event.key == "trial-3"
        assert not event.worker_died
        assert event.reason.startswith("RecipeError: unknown model 'five_convs'; expected one of block_cnn, ")
        assert "\n" not in event.reason
        assert event.details.startswith("Traceback")
        assert "build_model" in event.details

    def test_only_the_first_line_of_an_error_is_its_reason(self, data: Splits, monkeypatch: pytest.MonkeyPatch) -> None:
        def broken(*_: object) -> None:
            raise RuntimeError("no such kernel\nand much more")

        monkeypatch.setattr(worker, "train", broken)
        event = failure(carry_out(JOB, data))
        assert event.reason == "RuntimeError: no such kernel"
        assert "and much more" in event.details

    def test_an_error_without_words(self, data: Splits, monkeypatch: pytest.MonkeyPatch) -> None:
        def broken(*_: object) -> None:
            raise MemoryError

        monkeypatch.setattr(worker, "train", broken)
        assert failure(carry_out(JOB, data)).reason == "out of memory: MemoryError"

    def test_an_infinite_rate_diverges(self, data: Splits) -> None:
        events = carry_out(replace(JOB, recipe=replace(RECIPE, learning_rate=1e30, warmup=0.0)), data)
        assert isinstance(events[-1], Diverged)
        assert events[-1].key == "trial-3"
        assert events[-1].reason.startswith(("training loss was nan at step ", "training loss was inf at step "))
        assert not any(isinstance(event, Finished | Failed) for event in events)

    def test_a_watch_that_never_validates(self, data: Splits) -> None:
        event = failure(carry_out(replace(JOB, schedule=EvalSchedule(evenly(4), (), ())), data))
        assert event.reason == "RuntimeError: an evaluation schedule must validate at the end of training"

    @pytest.mark.parametrize("error", [BrokenPipeError, EOFError])
    def test_a_coordinator_that_is_gone_ends_the_worker(self, data: Splits, error: type[Exception]) -> None:
        def gone(event: Event) -> None:
            raise error

        with pytest.raises(error):
            carry_out_with(JOB, data, Channel(gone, lambda: True))


class TestTestSet:
    @pytest.fixture
    def job(self, whole: Whole) -> EvaluateJob:
        """A test of a trained network."""
        return EvaluateJob(key="confirm-3-0", recipe=RECIPE, weights=whole.folder / "weights.safetensors")

    def test_one_event_with_everything_in_a_folder_of_its_own(self, data: Splits, job: EvaluateJob) -> None:
        [event] = carry_out(job, data, ())
        assert isinstance(event, Finished)
        outcome = event.outcome
        assert outcome.images == 100
        assert set(outcome.files) == {
            f"test/{name}"
            for name in (
                "confusion.json",
                "confusion.png",
                "mistakes.png",
                "prediction.json",
                "prediction.png",
                "predictions.csv",
                "predictions.png",
                "serving.json",
                "weakness.md",
            )
        }
        rows = list(csv.DictReader(io.StringIO(outcome.files["test/predictions.csv"].decode())))
        assert [int(row["index"]) for row in rows] == list(range(100))
        assert [row["true"] for row in rows] == [CLASSES[label] for label in data.val.labels]
        right = sum(row["true"] == row["predicted"] for row in rows)
        assert right / 100 == pytest.approx(outcome.accuracy)
        one = json.loads(outcome.files["test/prediction.json"])
        assert {name: str(value) for name, value in one.items()} == rows[0]
        assert 0.1 <= one["probability"] <= 1
        [alone] = json.loads(outcome.files["test/serving.json"])  # 100 images make no large batch
        assert alone["images"] == 1
        assert 0 < alone["seconds"] <= alone["slow_seconds"]

    def test_damaged_weights(self, data: Splits, job: EvaluateJob, tmp_path: Path) -> None:
        shutil.copytree(job.weights.parent, tmp_path, dirs_exist_ok=True)
        path = tmp_path / job.weights.name
        content = bytearray(path.read_bytes())
        content[-1] ^= 1
        path.write_bytes(content)
        assert "CheckpointError" in failure(carry_out(replace(job, weights=path), data, ())).reason
