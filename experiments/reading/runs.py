"""Load a run from MLflow or from the result file of a reproduction."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime

from mlflow.entities import Run

from cifar_core.data.data_set import CIFAR10
from cifar_core.errors import UserError
from experiments.reading.results import Result
from experiments.reading.run_table import state_of
from experiments.reading.study import SPLITS, TrainedRun
from experiments.reading.study_reader import LARGEST, StudyReader
from sweeps.tracking.figures import metrics_of

_CURVES = tuple(f"{split}/{metric}" for split in SPLITS for metric in ("loss", "accuracy"))
_CONDITIONS = ("git_commit", "data", "data_sha256", "device", "cpu", "precision", "kernels", "threads", "torch")
_FOLDERS = {"val": "", "test": "test/"}  # of artifacts, by split


def from_mlflow(run: Run, study: str, reader: StudyReader) -> TrainedRun:
    """Load a run from MLflow, with its curves and any stored answers to the test images.

    Raises:
        StoreError: its artifacts, or the data set of its study, are missing.
        UserError: an accuracy is no share.
    """
    reader.require_artifacts(run)
    tags, run_id = run.data.tags, run.info.run_id
    metrics = {key: value for key, value in metrics_of(run).items() if abs(value) < LARGEST}
    for key, value in metrics.items():
        if key.endswith("/accuracy") and not 0 <= value <= 1:
            raise UserError(f"an accuracy must be a share in [0, 1], but {key} of run {run_id} is {value:g}")
    return TrainedRun(
        run_id=run_id,
        description=_describe(tags, run.data.params, study) or run.info.run_name or "a run",
        state=state_of(run),
        date=datetime.fromtimestamp(run.info.start_time / 1000, UTC).date(),
        params=dict(run.data.params),
        conditions={name: tags[name] for name in _CONDITIONS if name in tags},
        metrics=metrics,
        curves={key: points for key in _CURVES if (points := reader.curve(run_id, key))},
        data_set=reader.data_set(run),
        images=_images(reader, run_id),
        answers=reader.answers(run_id),
    )


def from_result(result: Result, reader: StudyReader | None) -> TrainedRun:
    """Convert a result of `reproduce.py`. Answers to single images come from the store, if it has the run."""
    test, watched = result.test, "val" if result.watched == "validation" else "test"
    series = {
        "train/loss": [(p.step, p.train_loss) for p in result.curve],
        "train/accuracy": [(p.step, p.train_accuracy) for p in result.curve],
        f"{watched}/loss": [(p.step, p.watched_loss) for p in result.curve if p.watched_loss is not None],
        f"{watched}/accuracy": [(p.step, p.watched_accuracy) for p in result.curve if p.watched_accuracy is not None],
    }
    curves = {key: tuple(points) for key, points in series.items() if points}
    metrics = {key: points[-1][1] for key, points in curves.items()}
    if test is not None:
        metrics |= {"test/accuracy": test.accuracy, "test/loss": test.loss}
        metrics |= {} if test.tta_accuracy is None else {"test/tta_accuracy": test.tta_accuracy}
        metrics |= {f"test_class/{name}": value for name, value in test.class_accuracy.items()}
    hardware = result.hardware
    images = {} if reader is None else _images(reader, result.run_id)
    if share := result.recipe.get("val_fraction"):
        images["val"] = max(1, round(share * (CIFAR10.train_images + CIFAR10.val_images)))
    return TrainedRun(
        run_id=result.run_id,
        description=f"reproduction of {result.name}, seed {result.seed}",
        state="complete" if test is not None else "interrupted",
        date=result.date,
        params={name: str(value) for name, value in result.recipe.items()},
        conditions={
            "git_commit": result.commit,
            "data_sha256": result.data_sha256,
            "device": hardware.device,
            "cpu": hardware.processor,
            "precision": hardware.precision,
            "threads": str(hardware.threads),
            "torch": result.versions.torch,
        },
        metrics=metrics | dict(result.costs),
        curves=curves,
        data_set=CIFAR10,
        images=images | ({} if test is None else {"test": test.images}),
        answers=None if reader is None else reader.answers(result.run_id),
    )


def _images(reader: StudyReader, run_id: str) -> dict[str, int]:
    found = {split: reader.confusion(run_id, f"{folder}confusion.json") for split, folder in _FOLDERS.items()}
    return {split: int(known[1].sum()) for split, known in found.items() if known}


def _describe(tags: Mapping[str, str], params: Mapping[str, str], study: str) -> str:
    match tags.get("stage"):
        case "search":
            return f"trial {tags.get('trial')} of {study}"
        case "confirm":
            return f"confirmation of trial {tags.get('source_trial')} of {study}, seed {tags.get('seed')}"
        case "final":
            return f"final of trial {tags.get('source_trial')} of {study}, seed {tags.get('seed')}"
        case "reproduction":
            return f"reproduction of {tags.get('system')}, seed {params.get('seed')}"
    return ""
