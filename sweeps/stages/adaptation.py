"""Adapting a pretrained network: a study of its own, beside the one of networks that are trained from nothing.

Its name is that of the other study and "-adapted". Its trials fit heads to features of all images; the best head is
fitted again to all training images, and that network alone is tested. In MLflow a trial has the key `trial-NUMBER`, the
network `final-TRIAL-0`.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import optuna
import torch
from optuna.storages import BaseStorage
from optuna.trial import Trial
from torch import Tensor

from cifar_core.data import Split, Splits
from cifar_core.data.data_set import DataSet
from cifar_core.evaluation.metrics import Predictions
from cifar_core.evaluation.serving import time_serving
from cifar_core.hardware import Hardware
from cifar_core.training import Progress
from cifar_core.transfer.adapted import NORMALISATION, flops_per_image, load_network, save_adapted
from cifar_core.transfer.backbone import Backbone
from cifar_core.transfer.features import Features, default_cache, features
from cifar_core.transfer.head import SCALINGS, Head, HeadRecipe, fit
from sweeps.checks.consistency import check_before_training
from sweeps.console import SweepConsole, percent, with_tta
from sweeps.executors.job_loop import DataSource
from sweeps.executors.protocol import Outcome
from sweeps.store import Store
from sweeps.study import StudyError, derive_seed, started_trials, unfinished_trials
from sweeps.tracking import artifacts
from sweeps.tracking.locations import DATA_SET
from sweeps.tracking.mlflow_client import STUDY_KEY
from sweeps.tracking.notes import run_note, study_note
from sweeps.tracking.tracker import MlflowTracker, RunLabel

TRIALS = 16  # heads that are tried
OVERLAP = "whether these hold images of the test set is unknown"
_SETTINGS = "adaptation"  # attribute of the Optuna study: all that its trials depend on
_STARTUP = 6  # random heads before the sampler learns from them


class Stopped(Exception):
    """The user asked to stop; everything so far is recorded."""


def study_name(study: str) -> str:
    """Return the name of the study that adapts a network beside the study of that name."""
    return f"{study}-adapted"


@dataclass(frozen=True, slots=True)
class AdaptedResult:
    """The adapted network of a study.

    Attributes:
        trial: whose head it has.
        val_accuracy: of that trial, which the head was chosen by.
        test_accuracy, tta_accuracy: of the network; None if it was not tested.
    """

    backbone: Backbone
    trial: int
    val_accuracy: float
    test_accuracy: float | None
    tta_accuracy: float | None

    def __str__(self) -> str:
        said = f"{self.backbone.name} with the head of trial {self.trial}, {percent(self.val_accuracy, 2)} validation "
        said += "accuracy"
        if self.test_accuracy is not None:
            said += f"; fitted to all images it has {percent(self.test_accuracy, 2)} test accuracy"
            said += with_tta(self.tta_accuracy)
        return f"{said}. It learnt from {pretrained_on(self.backbone.pretrained_on)} before; {OVERLAP}"


def pretrained_on(images: str) -> str:
    """Return the images that a backbone learnt from, in words."""
    return images or "images that its file does not name"


@dataclass(frozen=True, kw_only=True)
class Adaptation:
    """Adapts a pretrained network, from wherever an earlier process stopped.

    Args:
        study: its name in Optuna and MLflow.
        seed: of the search.
        tags: of every run: commit, data, machine.
        command: that runs the study, for its description in MLflow.
        test: evaluate the network on the sealed test set, and register it.
        stop: called between steps; once it returns true, the study is interrupted.
    """

    study: str
    backbone: Backbone
    data: DataSource
    data_set: DataSet
    hardware: Hardware
    seed: int
    store: Store
    storage: BaseStorage
    tracker: MlflowTracker
    console: SweepConsole
    tags: Mapping[str, str]
    command: str = ""
    test: bool = True
    stop: Callable[[], bool] = lambda: False

    def run(self) -> AdaptedResult:
        """Search for a head, fit it to all training images, and test the network.

        Raises:
            Stopped: `stop` returned true; the same call resumes the study.
            StudyError: the study was started with another backbone or other data.
            InconsistentError: resuming it would give wrong results.
        """
        study = self._open()
        try:
            data = self.data.train_val()
            sets = {(name, mirrored): self._features(name, split, mirrored) for name, split, mirrored in _passes(data)}
            for trial in self._trials(study):
                self._check()
                self._try(study, trial, data, sets)
            best = study.best_trial
            key, recipe = f"final-{best.number}-0", HeadRecipe(**best.user_attrs["recipe"])
            if self.tracker.state(key) != "complete" or not self.store.weights(self.study, key).exists():
                self._check()
                self._fit_to_all(study, key, recipe, data, sets)
            if self.test and self.tracker.metric(key, "test/accuracy") is None:
                self._check()
                self._test(key, best.number, recipe)
            accuracies = {name: self.tracker.metric(key, f"test/{name}") for name in ("accuracy", "tta_accuracy")}
            result = AdaptedResult(
                self.backbone, best.number, best.value or 0.0, accuracies["accuracy"], accuracies["tta_accuracy"]
            )
            if self.test:
                self._register(key, result, recipe)
            note = study_note(str(result), [f"[The network](run:{key})"], [], self.command)
            self.tracker.describe(STUDY_KEY, note=note)
            self.tracker.end_study("finished", {})
            return result
        except Stopped:
            self.tracker.end_study("interrupted", {})
            raise

    def _open(self) -> optuna.Study:
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        settings = {"data": self.data_set.sha256, "backbone": self.backbone.sha256, "side": self.backbone.side}
        known = self.study in optuna.get_all_study_names(self.storage)
        if not known:
            check_before_training(self.store, self.study, None, self.console.say)
        study = optuna.create_study(
            study_name=self.study, storage=self.storage, direction="maximize", load_if_exists=True
        )
        if (before := study.user_attrs.get(_SETTINGS, settings)) != settings or (
            known and study.user_attrs and _SETTINGS not in study.user_attrs
        ):
            raise StudyError(
                f"study {self.study!r} was started with {before}, but got {settings}; give it another name with --study"
            )
        if known:
            check_before_training(self.store, self.study, study.get_trials(deepcopy=False), self.console.say)
        if not study.get_trials(deepcopy=False):
            study.enqueue_trial(HeadRecipe().to_dict())
        study.set_user_attr(_SETTINGS, settings)
        seed = derive_seed(self.seed, len(study.get_trials(deepcopy=False)))
        study.sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=_STARTUP)
        tags = {**self._tags(), "stage": "adapted-study"}
        files = {DATA_SET: json.dumps(self.data_set.to_dict(), ensure_ascii=False).encode()}
        self.tracker.open_study(RunLabel(key=STUDY_KEY, name=self.study, tags=tags, params={}, files=files))
        return study

    def _trials(self, study: optuna.Study) -> Iterator[Trial]:
        """Yield the trials that a killed process left, then new ones."""
        for trial, _ in unfinished_trials(study, self.storage):
            yield trial
        while started_trials(study) < TRIALS:
            yield study.ask()

    def _check(self) -> None:
        if self.stop():
            raise Stopped

    def _features(self, name: str, split: Split, mirrored: bool) -> Features:
        what = f"features of the {'mirrored ' if mirrored else ''}{name} images by {self.backbone.name}"
        pixels = split.images[0].numel()

        def progress(done: int, total: int) -> None:
            self.console.progress(what, done * pixels, total * pixels)
            self._check()

        return features(
            self.backbone, split.images, self.hardware, mirrored=mirrored, cache=default_cache(), progress=progress
        )

    def _try(self, study: optuna.Study, trial: Trial, data: Splits, sets: Mapping[tuple[str, bool], Features]) -> None:
        """Fit a head to the training images, and record its validation accuracy in MLflow, then in Optuna."""
        recipe = HeadRecipe(
            penalty=trial.suggest_float("penalty", 1e-5, 1.0, log=True),
            scaling=trial.suggest_categorical("scaling", SCALINGS),  # type: ignore[arg-type]
            mirrored=trial.suggest_categorical("mirrored", (False, True)),
        )
        trial.set_user_attr("recipe", recipe.to_dict())
        key, tags = f"trial-{trial.number}", {"stage": "adapt", "trial": str(trial.number)}
        used = [sets["training", mirrored] for mirrored in ((False, True) if recipe.mirrored else (False,))]
        name = f"#{trial.number} {self.backbone.name} {recipe.scaling}, penalty {recipe.penalty:.2g}"
        self.tracker.begin(self._label(key, name, tags, recipe))
        head, costs = self._fit([each.values for each in used], data.train.labels, recipe, used)
        predictions = head.predict(sets["validation", False].values, data.val)
        on_train = head.predict(sets["training", False].values, data.train)
        self._record(key, name, head, on_train, predictions, costs, artifacts.of_predictions(data.val, predictions))
        study.tell(trial, predictions.accuracy)
        self.console.say(f"head {trial.number}: {percent(predictions.accuracy)} validation accuracy, {recipe.scaling}")

    def _fit_to_all(
        self,
        study: optuna.Study,
        key: str,
        recipe: HeadRecipe,
        data: Splits,
        sets: Mapping[tuple[str, bool], Features],
    ) -> None:
        """Fit the best head to the training and validation images, and keep the whole network."""
        everything, trial = data.everything(), study.best_trial.number
        tags = {"stage": "adapted", "trial": key, "source_trial": str(trial), "seed": "0", "champion": "true"}
        tags["val_accuracy"] = f"{study.best_value:.4f}"
        name = f"adapted {self.backbone.name} #{trial}"
        self.tracker.begin(self._label(key, name, tags, recipe))
        views = [False, True] if recipe.mirrored else [False]
        used = [sets[split, mirrored] for mirrored in views for split in ("training", "validation")]
        both = [torch.cat([sets[s, m].values for s in ("training", "validation")]) for m in views]
        head, costs = self._fit(both, everything.labels, recipe, used)
        weights = self.store.weights(self.study, key)
        save_adapted(self.backbone, head, self.data_set, weights)
        costs["cost/model_bytes"] = float(weights.stat().st_size)
        fits = [self.tracker.metric(f"trial-{number}", "cost/fit_seconds") or 0.0 for number in range(TRIALS)]
        passes = sum(each.seconds for each in sets.values())
        costs["cost/study_seconds"] = passes + sum(fits) + costs["cost/fit_seconds"]
        self._record(key, name, head, head.predict(both[0], everything), None, costs, {})

    def _test(self, key: str, trial: int, recipe: HeadRecipe) -> None:
        """Evaluate the network on the sealed test set, once."""
        weights = self.store.weights(self.study, key)
        self.tracker.log_model(key, recipe, weights)
        self.store.record_test_set_evaluation(study=self.study, key=key)
        test = self.data.test()
        network, _ = load_network({}, weights)
        head: Head = network.head  # type: ignore[assignment]
        logits = [self._logits(head, test, mirrored) for mirrored in (False, True)]
        both = logits[0], torch.stack(logits).mean(0)
        plain, averaged = (Predictions(each.softmax(1), test.labels.cpu(), test.data_set) for each in both)
        timings = time_serving(self.hardware.place(network), test, self.hardware, NORMALISATION)
        files = artifacts.of_test(test, plain) | artifacts.of_serving(timings)
        outcome = Outcome.of(plain, files, averaged.accuracy)
        note = f"Adapted: {percent(plain.accuracy, 2)} test accuracy{with_tta(averaged.accuracy)}; {self._learnt()}"
        name = f"adapted {self.backbone.name} #{trial} {percent(plain.accuracy)}"
        self.tracker.tested(key, outcome, name=name, note=run_note(note, {}, outcome.files))

    @torch.no_grad()
    def _logits(self, head: Head, test: Split, mirrored: bool) -> Tensor:
        logits: Tensor = head(features(self.backbone, test.images, self.hardware, mirrored=mirrored).values)
        return logits

    def _register(self, key: str, result: AdaptedResult, recipe: HeadRecipe) -> None:
        numbers = {
            "data": self.data_set.name,
            "side": str(self.data_set.side),
            "study": self.study,
            "trial": str(result.trial),
            "architecture": self.backbone.name,
            "val_accuracy": f"{result.val_accuracy:.4f}",
        }
        numbers |= {
            name: f"{value:.4f}"
            for name, value in (("test_accuracy", result.test_accuracy), ("tta_accuracy", result.tta_accuracy))
            if value is not None
        }
        self.tracker.register(key, recipe, self.store.weights(self.study, key), numbers)

    def _fit(
        self, views: Sequence[Tensor], labels: Tensor, recipe: HeadRecipe, used: Sequence[Features]
    ) -> tuple[Head, dict[str, float]]:
        """Fit a head, and return its costs with those of the features that it needs."""
        classes, images = len(self.data_set.classes), sum(len(each) for each in views)
        began = time.perf_counter()
        head = fit([each.to(self.hardware.device) for each in views], labels, recipe, classes).cpu()
        seconds = time.perf_counter() - began
        of_features = sum(each.seconds for each in used)
        # A product forward, and one for the gradient of the weights.
        of_head = 4.0 * head.evaluations * images * views[0].shape[1] * classes
        return head, {
            "cost/seconds": seconds + of_features,
            "cost/fit_seconds": seconds,
            "cost/training_flops": of_head + images * flops_per_image(self.backbone),
            "cost/epochs": float(len(views)),
            "cost/images_per_second": images / of_features,
            "cost/validation_share": 0.0,
        }

    def _record(
        self,
        key: str,
        name: str,
        head: Head,
        on_train: Predictions,
        predictions: Predictions | None,
        costs: Mapping[str, float],
        files: Mapping[str, bytes],
    ) -> None:
        """Record the end of a run: one point of its curves, its costs, and its pictures."""
        self.tracker.point(
            key,
            Progress(
                step=head.evaluations,
                fraction=1.0,
                epoch=float(head.evaluations),
                train_loss=on_train.loss,
                train_accuracy=on_train.accuracy,
                learning_rate=1.0,
                train_seconds=costs["cost/seconds"],
                validation_seconds=0.0,
                val_loss=predictions.loss if predictions is not None else None,
                val_accuracy=predictions.accuracy if predictions is not None else None,
            ),
        )
        outcome = Outcome.of(predictions, dict(files)) if predictions is not None else None
        result = f"{percent(outcome.accuracy)} validation accuracy" if outcome else "fitted to all training images"
        self.tracker.end(
            key,
            "complete",
            outcome=outcome,
            metrics=costs,
            name=f"{name} {percent(outcome.accuracy)}" if outcome else name,
            note=run_note(f"{result}; {self._learnt()}", costs, files),
        )

    def _label(self, key: str, name: str, tags: Mapping[str, str], recipe: HeadRecipe) -> RunLabel:
        parameters = sum(each.numel() for each in self.backbone.network.parameters())
        params = {**recipe.to_dict(), "model": self.backbone.name, "side": self.backbone.side, "parameters": parameters}
        files = {
            "recipe.toml": recipe.to_toml().encode(),
            DATA_SET: json.dumps(self.data_set.to_dict(), ensure_ascii=False).encode(),
        }
        return RunLabel(key=key, name=name, tags={**self._tags(), **tags}, params=params, files=files)

    def _tags(self) -> dict[str, str]:
        return {
            **self.tags,
            "study": self.study,
            "backbone": self.backbone.name,
            "backbone_sha256": self.backbone.sha256,
            "backbone_source": self.backbone.source,
            "pretrained_on": self.backbone.pretrained_on,
        }

    def _learnt(self) -> str:
        return f"the backbone learnt from {pretrained_on(self.backbone.pretrained_on)}, and {OVERLAP}"


def _passes(data: Splits) -> Iterator[tuple[str, Split, bool]]:
    for mirrored in (False, True):
        yield "training", data.train, mirrored
        yield "validation", data.val, mirrored
