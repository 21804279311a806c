"""Records of a study and of single runs, as they were read."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from cifar_core.data.data_set import DataSet
from cifar_core.evaluation.serving import Timing
from experiments.stats import Estimate
from sweeps.stages.adapted_result import images_before

# The splits in words, by their names in metrics.
SPLITS: Mapping[str, str] = {"train": "training", "val": "validation", "test": "test"}
BUILD, ADAPT = "build", "adapt"  # the ways of a label curve: training from nothing, a head on a pretrained network


@dataclass(frozen=True, slots=True)
class HttpSpeed:
    """The speed of the champion's server over HTTP, measured by clients on the same machine."""

    latency: float  # seconds of a request with one image, median
    p95: float  # seconds within which 95 % of these were answered
    clients: int  # clients that asked at the same time
    per_second: float  # requests with one image that these had answered together
    batch: int  # images in a large request
    per_second_batched: float  # images in large requests


@dataclass(frozen=True, slots=True)
class TestSetEvaluations:
    """Counts of evaluations on the test set, from `test_looks.jsonl`."""

    recorded: bool  # the file exists
    study: int = 0  # evaluations of this study
    store: int = 0  # evaluations of all studies in the store
    unreadable: int = 0  # damaged lines, such as one that a crash cut short
    again: int = 0  # evaluations of this study whose run was on record before
    adapted: int = 0  # evaluations of the study that adapts a pretrained network beside it


@dataclass(frozen=True, slots=True)
class ImageAnswers:
    """A run's predictions of the test images, in the order of the test set."""

    true: tuple[str, ...]
    predicted: tuple[str, ...]
    probability: tuple[float, ...]  # probability of the predicted class

    @property
    def right(self) -> tuple[bool, ...]:
        return tuple(t == p for t, p in zip(self.true, self.predicted, strict=True))


@dataclass(frozen=True, kw_only=True, slots=True)
class Adapted:
    """A pretrained network that was adapted to the images of a study: its head alone, or its last blocks too.

    None: not recorded.

    Attributes:
        study: name of the study that adapted it.
        source: source of the pretrained weights.
        pretrained_on: images that the pretrained weights were trained on; "" if unknown.
        threads: CPU threads used for adapting and timing.
        side: side in pixels that images are scaled to.
        validation: validation accuracy by which it was chosen, between the best head and the fine-tuned network.
        head, tuned: validation accuracy of these two; `tuned` is None if none was fine-tuned.
        is_tuned: True if it is the fine-tuned network.
        test, augmented: test accuracy without and with test-time augmentation.
        study_seconds: time of all passes over the images and all fits.
        seconds, flops: time and FLOPs of the passes and fits of this network.
        serving: timings, smallest batch first.
        http: speed of the server.
    """

    study: str
    run_id: str
    backbone: str
    source: str
    pretrained_on: str
    device: str
    threads: int
    side: int
    parameters: int
    validation: float
    test: Estimate
    augmented: float | None
    study_seconds: float | None
    seconds: float | None
    flops: float | None
    answers: ImageAnswers | None
    serving: tuple[Timing, ...]
    http: HttpSpeed | None
    head: float
    tuned: float | None
    is_tuned: bool

    @property
    def title(self) -> str:
        """Its name among the ways to labelled images."""
        return f"{self.backbone} ({'fine-tuned' if self.is_tuned else 'new head'})"

    @property
    def overlap(self) -> str:
        """The caveat wherever it is compared."""
        images = images_before(self.pretrained_on)
        return (
            f"The adapted {self.backbone} learnt from {images} before. Whether these include test images is unknown; "
            "if they do, its accuracy is too high."
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainedRun:
    """A single run. Metrics, parameters and conditions have the names that they have in MLflow."""

    run_id: str
    description: str
    state: str  # complete | pruned | failed | running | interrupted
    date: datetime.date
    params: Mapping[str, str]
    conditions: Mapping[str, str]  # commit, data, hardware, versions
    metrics: Mapping[str, float]
    curves: Mapping[str, tuple[tuple[int, float], ...]]  # metric -> (optimiser step, value), by step
    data_set: DataSet
    images: Mapping[str, int]  # val | test -> number of images behind the final accuracy, where known
    answers: ImageAnswers | None

    @property
    def steps_an_epoch(self) -> float | None:
        """Optimiser steps an epoch; None without curves or epochs."""
        epochs = self.metrics.get("cost/epochs")
        return max(points[-1][0] for points in self.curves.values()) / epochs if self.curves and epochs else None


@dataclass(frozen=True, kw_only=True, slots=True)
class StudyArtifacts:
    """Artifacts of the runs that the report is about; None or empty where the store lacks them."""

    samples: bytes | None = None  # PNG: training images with labels
    mistakes: bytes | None = None  # PNG: most confident mistakes
    mistakes_run: str = ""
    prediction_picture: bytes | None = None  # PNG: one test image
    prediction: Mapping[str, Any] | None = None  # {"index", "true", "predicted", "probability"}
    prediction_run: str = ""
    confusions: Mapping[str, npt.NDArray[np.int64]] = field(default_factory=dict)  # run id -> counts, rows = true class
    classes: tuple[str, ...] = ()  # in the order of the confusion matrices
    recipe: str | None = None  # TOML
    space: str | None = None  # TOML: the search space of the study
    model_uris: Mapping[str, str] = field(default_factory=dict)  # run id -> models:/...
    answers: Mapping[str, ImageAnswers] = field(default_factory=dict)  # by run id
    serving: Mapping[str, tuple[Timing, ...]] = field(default_factory=dict)  # run id -> timings, smallest batch first
    http: Mapping[str, HttpSpeed] = field(default_factory=dict)  # run id -> speed of its server
    missing: tuple[str, ...] = ()  # files that every version has logged, as "recipe.toml of trial 0"


@dataclass(frozen=True, kw_only=True, slots=True)
class Study:
    """A study, read from MLflow.

    `search`, `confirm` and `final` have one row for each run (the last attempt), `attempts` has all runs. Columns:
    run_id, state, start, end (UTC); `metrics.<name>` (float), `params.<name>` and `tags.<name>` (text or None) as in
    MLflow; and trial, attempt, source_trial and seed as numbers.
    `curves` has columns run_id, key, step, value, for the runs in `subject`.
    """

    name: str
    run_id: str
    state: str  # running | finished | interrupted
    start: datetime.datetime
    end: datetime.datetime  # end of the parent run, else of the last run that ended
    tags: Mapping[str, str]
    params: Mapping[str, str]
    metrics: Mapping[str, float]
    attempts: pd.DataFrame
    search: pd.DataFrame
    confirm: pd.DataFrame
    final: pd.DataFrame
    curves: pd.DataFrame = field(default_factory=pd.DataFrame)
    test_set_evaluations: TestSetEvaluations
    artifacts: StudyArtifacts = StudyArtifacts()
    data_set: DataSet
    in_default_store: bool
    on_server: bool = False  # it was read from an MLflow server
    adapted: Adapted | None = None  # the adapted network that the store has for the same images
    adapting: str = ""  # without one: the study of the store that adapts one beside this study, and has not finished

    @property
    def champion(self) -> pd.DataFrame:
        """The complete final runs of the champion by seed; empty if there is no champion."""
        return self._of_champion(self.final, "complete")

    @property
    def diverged(self) -> int:
        """The number of final runs of the champion that diverged."""
        return len(self._of_champion(self.final, "pruned"))

    @property
    def champion_trial(self) -> int | None:
        """The trial whose recipe is the champion, which may change when a study goes on; None before one is chosen."""
        chosen = self.tags.get("champion", "")
        return int(chosen) if chosen.isdecimal() else None

    @property
    def validated(self) -> pd.DataFrame:
        """The runs on whose validation accuracy `subject` was chosen."""
        return self._of_champion(self.confirm, "complete") if len(self.champion) else self.subject

    @property
    def complete_trials(self) -> pd.DataFrame:
        """The complete trials of the search that have a validation accuracy, the best first."""
        complete = self.search[(self.search["state"] == "complete") & self.search["metrics.val/accuracy"].notna()]
        return complete.sort_values(["metrics.val/accuracy", "trial"], ascending=[False, True], kind="stable")

    @property
    def has_selected(self) -> bool:
        """The best trial was chosen by its validation accuracy among several, those included that were pruned for it.

        A trial that broke a limit is pruned too, but has no accuracy.
        """
        compared = self.search["state"].isin(["complete", "pruned"]) & self.search["metrics.val/accuracy"].notna()
        return int(compared.sum()) > 1

    @property
    def subject(self) -> pd.DataFrame:
        """The runs that the report is about: the champion's, else the best complete search trial, if any."""
        return champion if len(champion := self.champion) else self.complete_trials.head(1)

    @property
    def trial_images(self) -> int:
        """The validation images that the accuracy of a complete trial of the search is over."""
        given = self.params.get("trial_images", "")
        return int(given) if given.isdecimal() else self.data_set.val_images

    def _of_champion(self, runs: pd.DataFrame, state: str) -> pd.DataFrame:
        return runs[(runs["source_trial"] == self.champion_trial) & (runs["state"] == state)]


@dataclass(frozen=True, kw_only=True, slots=True)
class LabelledRun:
    """A complete training of a label curve."""

    way: str  # BUILD or ADAPT
    labels: int  # labelled images that it learnt from
    seed: int
    accuracy: float  # on the validation images
    run_id: str
    model: str  # the network that was trained, or the pretrained one
    pretrained_on: str = ""  # images that this learnt from before; "": none, or unknown ones


@dataclass(frozen=True, kw_only=True, slots=True)
class LabelCurve:
    """A label curve.

    Attributes:
        run_id: id of the curve's own run.
        source: id of the run of the study whose recipe is trained.
        planned: number of planned runs, including the complete ones.
        runs: complete runs.
        diverged: number of runs that ended without an accuracy; they are not trained again.
    """

    run_id: str
    source: str
    planned: int
    runs: tuple[LabelledRun, ...]
    diverged: int = 0

    @property
    def ways(self) -> tuple[str, ...]:
        """The ways that have a run, in the order of the plan."""
        return tuple(dict.fromkeys(run.way for run in self.runs))

    def of_way(self, way: str) -> dict[int, list[LabelledRun]]:
        """Return the runs of a way by their number of labels, rising."""
        found: dict[int, list[LabelledRun]] = {}
        for run in sorted(self.runs, key=lambda run: (run.labels, run.seed)):
            if run.way == way:
                found.setdefault(run.labels, []).append(run)
        return found
