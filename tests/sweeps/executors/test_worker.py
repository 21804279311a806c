"""One job in this process: the events it sends, what stops it, and what becomes of its errors."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from cifar_core.checkpoint import load_weights
from cifar_core.data import CLASSES, Splits, synthetic_splits
from cifar_core.hardware import Hardware
from cifar_core.recipe import Recipe
from cifar_core.training import Watch, evenly, predict
from sweeps.executors import worker
from sweeps.executors.protocol import Diverged, Event, Failed, Finished, Job, Outcome, Progressed

CPU = Hardware(torch.device("cpu"), bf16=False)
RECIPE = Recipe(model="fast_resnet", width=0.125, epochs=2.0, batch_size=25, learning_rate=0.5, color_jitter=0.2)
STEPS = 16
WATCH = Watch(losses=evenly(8), validations=(0.25, 0.5, 1.0), validation_images=(20, 20, 100))
JOB = Job(key="trial-3", recipe=RECIPE, watch=WATCH)
NOWHERE = Path("/nowhere")


@pytest.fixture(scope="module")
def data() -> Splits:
    return synthetic_splits(torch.Generator().manual_seed(0), train=200, val=100)


def carry_out(job: Job, data: Splits, answers: Sequence[bool] = (True, True)) -> list[Event]:
    """All events of `job`; `answers` are given in turn, and one question too many is an error."""
    events: list[Event] = []
    left = list(answers)
    worker.carry_out(job, data, NOWHERE, CPU, events.append, lambda: left.pop(0))
    return events


@pytest.fixture(scope="module")
def outcome(data: Splits) -> Outcome:
    last = carry_out(JOB, data)[-1]
    assert isinstance(last, Finished)
    return last.outcome


def failure(events: list[Event]) -> Failed:
    assert isinstance(events[-1], Failed)
    return events[-1]


class TestTraining:
    def test_points_then_the_outcome(self, data: Splits) -> None:
        *points, last = carry_out(JOB, data)
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

    def test_watching_less_changes_nothing_of_what_is_learned(self, data: Splits) -> None:
        often = carry_out(JOB, data)[-1]
        seldom = carry_out(replace(JOB, watch=Watch(evenly(1), (1.0,), (100,))), data)[-1]
        assert isinstance(often, Finished)
        assert isinstance(seldom, Finished)
        assert seldom.outcome.loss == often.outcome.loss

    @pytest.mark.parametrize(("answers", "steps"), [((False,), 4), ((True, False), 8)])
    def test_a_no_ends_the_run_without_another_event(self, data: Splits, answers: tuple[bool, ...], steps: int) -> None:
        *_, last = carry_out(JOB, data, answers)
        assert isinstance(last, Progressed)
        assert last.point.step == steps
        assert last.point.val_accuracy is not None

    def test_nobody_is_asked_after_the_last_validation(self, data: Splits) -> None:
        assert isinstance(carry_out(JOB, data, (True, True))[-1], Finished)

    def test_a_run_of_one_step(self, data: Splits) -> None:
        *_, point, last = carry_out(replace(JOB, recipe=replace(RECIPE, epochs=0.01)), data, ())
        assert isinstance(point, Progressed)
        assert (point.point.step, point.point.fraction) == (1, 1.0)
        assert isinstance(last, Finished)

    def test_weights_are_those_of_the_end(self, data: Splits, tmp_path: Path) -> None:
        path = tmp_path / "study" / "confirm-3-0.safetensors"
        last = carry_out(replace(JOB, weights=path), data)[-1]
        assert isinstance(last, Finished)
        again = predict(CPU.place(load_weights(RECIPE, path)), data.val, CPU)
        assert again.loss == last.outcome.loss
        assert sorted(file.name for file in path.parent.iterdir()) == [path.name, path.name + ".sha256"]

    def test_a_pruned_run_leaves_no_weights(self, data: Splits, tmp_path: Path) -> None:
        carry_out(replace(JOB, weights=tmp_path / "w.safetensors"), data, (False,))
        assert list(tmp_path.iterdir()) == []


class TestCheckpoints:
    """A run that is cut off goes on from its last checkpoint."""

    def job(self, folder: Path) -> Job:
        return replace(JOB, checkpoints=folder / "checkpoints", weights=folder / "weights.safetensors")

    @pytest.mark.parametrize(("at", "goes_on_after"), [(2, 0), (6, 4), (8, 4), (10, 8), (16, 8)])
    def test_to_the_same_bits(self, data: Splits, tmp_path: Path, at: int, goes_on_after: int) -> None:
        undisturbed = carry_out(self.job(tmp_path / "whole"), data)

        def cut_off(event: Event) -> None:
            if isinstance(event, Progressed) and event.point.step == at:
                raise EOFError

        job = self.job(tmp_path / "cut")
        with pytest.raises(EOFError):
            worker.carry_out(job, data, NOWHERE, CPU, cut_off, lambda: True)
        rest = carry_out(job, data)
        steps = [event.point.step for event in rest if isinstance(event, Progressed)]
        assert steps == list(range(goes_on_after + 2, STEPS + 1, 2))
        assert isinstance(rest[-1], Finished)
        assert isinstance(undisturbed[-1], Finished)
        assert rest[-1].outcome.files == undisturbed[-1].outcome.files
        assert rest[-1].outcome.loss == undisturbed[-1].outcome.loss
        weights = [
            load_weights(RECIPE, tmp_path / name / "weights.safetensors").state_dict() for name in ("whole", "cut")
        ]
        assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())

    def test_none_where_a_run_was_told_to_stop(self, data: Splits, tmp_path: Path) -> None:
        carry_out(self.job(tmp_path), data, (False,))
        assert not (tmp_path / "checkpoints").exists()

    def test_the_last_two_lie_in_the_folder(self, data: Splits, tmp_path: Path) -> None:
        carry_out(self.job(tmp_path), data)
        states = sorted(path.name for path in (tmp_path / "checkpoints").glob("*.safetensors"))
        assert states == ["step-000000004.safetensors", "step-000000008.safetensors"]


class TestArtifacts:
    def test_names_and_sizes(self, outcome: Outcome) -> None:
        assert set(outcome.files) == {
            "confusion.json",
            "pictures/augmented.png",
            "pictures/confusion.png",
            "pictures/mistakes.png",
            "pictures/predictions.png",
            "summary.txt",
            "weakness.md",
        }
        # Noise is the hardest thing to compress: real images take less.
        assert sum(map(len, outcome.files.values())) < 300_000

    def test_pictures_can_be_opened(self, outcome: Outcome) -> None:
        for name, content in outcome.files.items():
            if name.endswith(".png"):
                with Image.open(io.BytesIO(content)) as picture:
                    picture.verify()
                    assert picture.width > 200

    def test_confusion_counts_every_validation_image(self, outcome: Outcome, data: Splits) -> None:
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
            raise RuntimeError("out of memory\nand much more")

        monkeypatch.setattr(worker, "train", broken)
        event = failure(carry_out(JOB, data))
        assert event.reason == "RuntimeError: out of memory"
        assert "and much more" in event.details

    def test_an_error_without_words(self, data: Splits, monkeypatch: pytest.MonkeyPatch) -> None:
        def broken(*_: object) -> None:
            raise MemoryError

        monkeypatch.setattr(worker, "train", broken)
        assert failure(carry_out(JOB, data)).reason.startswith("MemoryError")

    def test_an_infinite_rate_diverges(self, data: Splits) -> None:
        events = carry_out(replace(JOB, recipe=replace(RECIPE, learning_rate=1e30, warmup=0.0)), data)
        assert isinstance(events[-1], Diverged)
        assert events[-1].key == "trial-3"
        assert events[-1].reason.startswith(("training loss was nan at step ", "training loss was inf at step "))
        assert not any(isinstance(event, Finished | Failed) for event in events)

    def test_a_watch_that_never_validates(self, data: Splits) -> None:
        event = failure(carry_out(replace(JOB, watch=Watch(evenly(4), (), ())), data))
        assert event.reason == "RuntimeError: a watch must validate at the end of training"

    @pytest.mark.parametrize("error", [BrokenPipeError, EOFError])
    def test_a_coordinator_that_is_gone_ends_the_worker(self, data: Splits, error: type[Exception]) -> None:
        def gone(event: Event) -> None:
            raise error

        with pytest.raises(error):
            worker.carry_out(JOB, data, NOWHERE, CPU, gone, lambda: True)


class TestTestSet:
    @pytest.fixture
    def job(self, data: Splits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Job:
        """A test of a trained network, on a test set of synthetic images."""
        path = tmp_path / "w.safetensors"
        carry_out(replace(JOB, weights=path), data)
        monkeypatch.setattr(worker, "load_test", lambda directory: data.val)
        return Job(key="confirm-3-0", recipe=RECIPE, watch=Watch((), (), ()), weights=path, open_test_set=True)

    def test_one_event_with_everything_in_a_folder_of_its_own(self, data: Splits, job: Job) -> None:
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

    def test_the_test_set_stays_closed_while_training(self, data: Splits, monkeypatch: pytest.MonkeyPatch) -> None:
        def opened(directory: Path) -> None:
            raise AssertionError("the test set was opened")

        monkeypatch.setattr(worker, "load_test", opened)
        assert isinstance(carry_out(JOB, data)[-1], Finished)

    def test_damaged_weights(self, data: Splits, job: Job) -> None:
        assert job.weights is not None
        content = bytearray(job.weights.read_bytes())
        content[-1] ^= 1
        job.weights.write_bytes(content)
        assert "CheckpointError" in failure(carry_out(job, data, ())).reason

    def test_no_weights(self, data: Splits, job: Job) -> None:
        assert failure(carry_out(replace(job, weights=None), data, ())).reason == "RuntimeError: a test needs weights"
