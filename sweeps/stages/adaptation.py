"""Adapting a pretrained network: a study of its own, beside the one of networks that are trained from nothing.

Its name is that of the other study and "-adapted". Its trials fit heads to features of all images. From the best head
on, the last blocks are fine-tuned. The better of the two by validation accuracy is tested, and no other: the head is
fitted again to all training images before, the fine-tuned network stays as it was validated. In MLflow a trial has the
key `trial-NUMBER`, the head on all images `final-TRIAL-0`, the fine-tuned network `final-TRIAL-1`.
"""

from __future__ import annotations

import functools
import math
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import optuna
import torch
from optuna.storages import BaseStorage
from optuna.trial import Trial
from torch import Tensor

from cifar_core.checkpoint import CheckpointError, is_whole
from cifar_core.data import Split, Splits
from cifar_core.data.source import DataSource
from cifar_core.evaluation.metrics import Predictions
from cifar_core.evaluation.serving import time_serving
from cifar_core.machine import free_memory
from cifar_core.transfer.adapted import NORMALISATION, AdaptedNetwork, load_network, save_adapted
from cifar_core.transfer.backbone import Backbone
from cifar_core.transfer.features import Features, activations, compute, default_cache, features
from cifar_core.transfer.head import SCALINGS, Head, HeadRecipe, fit
from cifar_core.transfer.tuning import Tuning, TuningRecipe, tune
from sweeps.checks.consistency import check_before_training
from sweeps.command_line import Interrupted
from sweeps.console import SweepConsole
from sweeps.executors.protocol import Outcome
from sweeps.planning.plan import Plan
from sweeps.stages.adaptation_costs import head_costs, tuning_costs
from sweeps.stages.adaptation_runs import AdaptationRuns
from sweeps.stages.adapted_result import AdaptedResult, provenance_of
from sweeps.store import Store
from sweeps.studies.keys import STUDY_KEY, head_key, trial_key, tuned_key
from sweeps.studies.settings import ADAPTATION, adaptation_settings, check_adaptation
from sweeps.studies.storage import StudyError
from sweeps.studies.study import derive_seed, started_trials, unfinished_trials
from sweeps.tracking import artifacts
from sweeps.tracking.notes import run_note, study_note
from sweeps.tracking.registry import version_tags
from sweeps.tracking.tracker import MlflowTracker
from sweeps.words import percent, with_tta

TRIALS = 16  # heads that are tried
_STARTUP = 6  # random heads before the sampler learns from them


@dataclass(frozen=True, slots=True)
class _Images:
    """The training and validation images.

    Attributes:
        features: of the training images and then the validation images, and of their mirror images.
        activations: the same below the blocks that fine-tuning trains; nothing if it shall train none.
    """

    splits: Splits
    features: Sequence[Features]
    activations: Sequence[Features]


@dataclass(frozen=True, kw_only=True)
class Adaptation:
    """Adapts a pretrained network, from wherever an earlier process stopped.

    Args:
        study: its name in Optuna and MLflow.
        plan: of the sweep beside it. The fine-tuning has the budget of a final; a plan that confirms also evaluates the
            network on the sealed test set, and registers it.
        tags: tags of every run: commit, data, machine.
        command: the command line, for the description of the study in MLflow.
        stop: called between steps; once it returns true, the study is interrupted.
    """

    study: str
    plan: Plan
    backbone: Backbone
    fine_tune: bool
    data: DataSource
    store: Store
    storage: BaseStorage
    tracker: MlflowTracker
    console: SweepConsole
    tags: Mapping[str, str]
    command: str
    stop: Callable[[], bool]

    def run(self) -> AdaptedResult:
        """Search for a head, fine-tune the network, and test the better of the two.

        Raises:
            Interrupted: `stop` returned true; the same call resumes the study.
            StudyError: the study was started with another backbone, preset or seed, or other data; or its fine-tuning
                was interrupted, and there is too little memory now; or the file of the fine-tuned network is damaged.
            UserError: resuming it would give wrong results.
        """
        study = self._open()
        try:
            images = self._images()
            for trial in self._trials(study):
                self._check()
                self._try(study, trial, images)
            best = study.best_trial
            recipe, accuracy = HeadRecipe(**best.user_attrs["recipe"]), best.value or 0.0
            tuned = self._tuned(best.number, recipe, images)
            result = AdaptedResult(self.backbone, best.number, accuracy, tuned)
            key = result.key
            fitted = self.tracker.state(key) == "complete" and is_whole(self.store.weights(self.study, key))
            if not result.tuned and not fitted:
                self._check()
                self._fit_to_all(result, recipe, images)
            if self.plan.confirm and self.tracker.metric(key, "test/accuracy") is None:
                self._check()
                self._test(result)
            test, tta = (self.tracker.metric(key, f"test/{name}") for name in ("accuracy", "tta_accuracy"))
            result = replace(result, test_accuracy=test, tta_accuracy=tta)
            if self.plan.confirm:
                self._register(result)
            note = study_note("\n\n".join(result.lines()), [f"[The network](run:{key})"], [], self.command)
            self.tracker.describe(STUDY_KEY, note=note)
            self.tracker.end_study("finished", {})
            shutil.rmtree(self._folder, ignore_errors=True)
            return result
        except (Interrupted, StudyError):
            self.tracker.end_study("interrupted", {})
            raise

    def _open(self) -> optuna.Study:
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        settings = adaptation_settings(self.plan.data_set, self.backbone, self.plan.preset.name, self.plan.seed)
        check_adaptation(self.storage, self.study, settings)
        known = self.study in optuna.get_all_study_names(self.storage)
        if not known:
            check_before_training(self.store, self.study, None, self.console.say)
        study = optuna.create_study(
            study_name=self.study, storage=self.storage, direction="maximize", load_if_exists=True
        )
        if known:
            check_before_training(self.store, self.study, study.get_trials(deepcopy=False), self.console.say)
        if not study.get_trials(deepcopy=False):
            study.enqueue_trial(HeadRecipe().to_dict())
        study.set_user_attr(ADAPTATION, settings)
        seed = derive_seed(self.plan.seed, len(study.get_trials(deepcopy=False)))
        study.sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=_STARTUP)
        self._runs.open_study()
        return study

    def _trials(self, study: optuna.Study) -> Iterator[Trial]:
        """Yield the trials that a killed process left, then new ones."""
        yield from unfinished_trials(study, self.storage)
        while started_trials(study) < TRIALS:
            yield study.ask()

    @property
    def _runs(self) -> AdaptationRuns:
        plan = self.plan
        return AdaptationRuns(self.tracker, self.study, self.backbone, plan.data_set, self.tags, plan.places)

    def _check(self) -> None:
        if self.stop():
            raise Interrupted

    @property
    def _folder(self) -> Path:
        """Folder of the activations and the checkpoint of fine-tuning; removed once the study has finished."""
        return self.store.checkpoints(self.study, "tuning")

    @property
    def _checkpoint(self) -> Path:
        return self._folder / "state.safetensors"

    def _tuning_ended(self) -> bool:
        """Return true if nothing is left to fine-tune: it is not wanted, has ended, or a head has been tested."""
        states = {self.tracker.state(tuned_key(number)) for number in range(TRIALS)}
        if not self.fine_tune or "complete" in states:
            return True
        if "failed" in states:
            self.console.say(f"{self.backbone.name} is not fine-tuned: its fine-tuning failed before, or was given up")
            return True
        looks = set(self.store.evaluations(self.plan.data_set.sha256))
        tested = any((self.study, head_key(number)) in looks for number in range(TRIALS))
        if tested:
            self.console.say(
                f"{self.backbone.name} is not fine-tuned: its head has been tested, and a study tests once"
            )
        return tested

    def _images(self) -> _Images:
        splits = self.data.train_val()
        tunes = not self._tuning_ended() and self._has_room(len(splits.train) + len(splits.val))
        given = self.backbone, splits.everything().images, self.plan.hardware

        def progress(kind: str, mirrored: bool) -> Callable[[int, int], None]:
            return self._progress(f"{kind} of the {'mirrored ' if mirrored else ''}images by {self.backbone.name}")

        below = [
            activations(*given, mirrored=view, cache=self._folder, progress=progress("activations", view))
            for view in ((False, True) if tunes else ())
        ]
        seen = [
            features(
                *given,
                mirrored=view,
                lower=below[view] if below else None,
                cache=default_cache(),
                progress=progress("features", view),
            )
            for view in (False, True)
        ]
        return _Images(splits, seen, below)

    def _has_room(self, images: int) -> bool:
        """Return true if what the last blocks are trained on fits into half of the free memory."""
        _, upper = self.backbone.network.halves()
        size, free = 2 * 2 * upper.dimensions * images, free_memory()  # fp16, and two views
        if size > free / 2:
            rule = f"its activations must fit into half of the free memory, {free / 2e9:.1f} GB, but have "
            rule += f"{size / 1e9:.1f} GB"
            if any(self.tracker.state(tuned_key(number)) is not None for number in range(TRIALS)):
                raise StudyError(
                    f"the fine-tuning of {self.backbone.name} cannot resume: {rule}; --no-fine-tune does without it"
                )
            self.console.say(f"{self.backbone.name} is not fine-tuned: {rule}")
            return False
        return True

    def _progress(self, what: str) -> Callable[[int, int], None]:
        """Return a function that shows the progress of a pass over images, and ends the study when it is stopped."""

        def progress(done: int, total: int) -> None:
            self.console.progress(what, done, total, "images")
            self._check()

        return progress

    def _try(self, study: optuna.Study, trial: Trial, images: _Images) -> None:
        """Fit a head to the training images, and record its validation accuracy in MLflow, then in Optuna."""
        recipe = HeadRecipe(
            penalty=trial.suggest_float("penalty", 1e-5, 1.0, log=True),
            scaling=trial.suggest_categorical("scaling", SCALINGS),  # type: ignore[arg-type]
            mirrored=trial.suggest_categorical("mirrored", (False, True)),
        )
        trial.set_user_attr("recipe", recipe.to_dict())
        key, tags = trial_key(trial.number), {"stage": "adapt", "trial": str(trial.number)}
        name = f"#{trial.number} {self.backbone.name} {recipe.scaling}, penalty {recipe.penalty:.2g}"
        self._runs.begin(key, name, tags, recipe)
        train, val = images.splits.train, images.splits.val
        head, costs = self._fit(images, train.labels, recipe)
        of_train, of_val = images.features[0].values.split([len(train), len(val)])
        on_train, predictions = head.predict(of_train, train), head.predict(of_val, val)
        files = artifacts.of_predictions(val, predictions)
        self._runs.end_head(key, name, head, on_train, predictions, costs, files)
        study.tell(trial, predictions.accuracy)
        self.console.say(f"head {trial.number}: {percent(predictions.accuracy)} validation accuracy, {recipe.scaling}")

    def _tuned(self, number: int, recipe: HeadRecipe, images: _Images) -> float | None:
        """Fine-tune the last blocks from the head of a trial; return the validation accuracy, None without any."""
        key = tuned_key(number)
        if self.tracker.state(key) in ("complete", "failed"):
            return self.tracker.metric(key, "val/accuracy")
        if not images.activations:
            if self.tracker.state(key) is not None:
                self.tracker.end(key, "failed", reason="the study was resumed without fine-tuning")
            return None
        self._check()
        budget, seed, hardware = self.plan.preset.final, self.plan.seed, self.plan.hardware
        train, val = images.splits.train, images.splits.val
        tuning = TuningRecipe.within(budget, self.backbone, len(train), derive_seed(seed, number))
        tags = {"stage": "tuned", "trial": key, "source_trial": str(number), "seed": "0"}
        name = f"fine-tuned {self.backbone.name} #{number}"
        self._runs.begin(key, name, tags, recipe, tuning)
        head, costs = self._fit(images, train.labels, recipe)
        state = self._resume_tuning(head, tuning)
        if not self._train_tuned(key, state, images):
            return None
        below, weights = images.activations[0].values[len(train) :], self.store.weights(self.study, key)
        predictions = state.head.cpu().predict(compute(state.upper, below, hardware), val)
        save_adapted(replace(self.backbone, network=state.network), state.head, self.plan.data_set, weights)
        views = [view.part(slice(len(train))) for view in images.features]
        costs |= tuning_costs(recipe, head, state, views, costs["cost/fit_seconds"], self.backbone)
        costs["cost/study_seconds"] = self._search_seconds(images) + costs["cost/fit_seconds"] + state.seconds
        costs["cost/model_bytes"] = float(weights.stat().st_size)
        self._runs.end(key, name, predictions, costs, artifacts.of_predictions(val, predictions))
        return predictions.accuracy

    def _resume_tuning(self, head: Head, recipe: TuningRecipe) -> Tuning:
        """Return the state in the checkpoint, or the initial one if there is none that can be used."""
        create = functools.partial(Tuning.create, self.backbone, head, recipe, self.plan.hardware)
        state = create()
        try:
            state.load(self._checkpoint)
        except CheckpointError as error:
            self.console.say(f"{error}; fine-tuning begins again")
            state = create()  # the other one may have been read in part
        return state

    def _train_tuned(self, key: str, state: Tuning, images: _Images) -> bool:
        """Fine-tune to the end; return false if the loss was no longer finite.

        Raises:
            Interrupted: `stop` returned true.
        """
        tuning, hardware = state.recipe, self.plan.hardware
        train, val = images.splits.train, images.splits.val
        views = [view.values[: len(train)] for view in images.activations]
        below = images.activations[0].values[len(train) :]
        for point in tune(state, views, train, below, val, hardware, self.stop):
            if not math.isfinite(point.train_loss):
                reason = f"training loss was {point.train_loss} at step {point.step}"
                self.tracker.end(key, "failed", reason=reason)
                self.console.say(f"fine-tuning failed: {reason}")
                return False
            self.tracker.point(key, point)
            state.save(self._checkpoint)
            total = round(tuning.epochs * len(train))
            done = min(total, round(point.epoch * len(train)))  # the last batch may reach beyond
            self.console.progress(f"fine-tuning {self.backbone.name}", done, total, "images")
            if point.val_accuracy is not None:
                at = f"epoch {point.epoch:.1f} of {tuning.epochs:.1f}"
                self.console.say(f"fine-tuning, {at}: {percent(point.val_accuracy)} validation accuracy")
        if state.step < tuning.steps(len(train)):
            self.tracker.end(key, "interrupted", reason="the study was stopped")
            raise Interrupted
        return True

    def _fit_to_all(self, result: AdaptedResult, recipe: HeadRecipe, images: _Images) -> None:
        """Fit the best head to the training and validation images, and keep the whole network."""
        everything, key = images.splits.everything(), result.key
        name = f"adapted {self.backbone.name} #{result.trial}"
        self._runs.begin(key, name, result.tags, recipe)
        head, costs = self._fit(images, everything.labels, recipe)
        weights = self.store.weights(self.study, key)
        save_adapted(self.backbone, head, self.plan.data_set, weights)
        costs["cost/model_bytes"] = float(weights.stat().st_size)
        tuning = self.tracker.metric(tuned_key(result.trial), "cost/tuning_seconds") or 0.0
        costs["cost/study_seconds"] = self._search_seconds(images) + costs["cost/fit_seconds"] + tuning
        on_train = head.predict(images.features[0].values, everything)
        self._runs.end_head(key, name, head, on_train, None, costs, {})

    def _search_seconds(self, images: _Images) -> float:
        """Return the seconds of all passes over the images and all fits of the search."""
        fits = [self.tracker.metric(trial_key(number), "cost/fit_seconds") or 0.0 for number in range(TRIALS)]
        return sum(view.seconds for view in images.features) + sum(fits)

    def _test(self, result: AdaptedResult) -> None:
        """Evaluate the network on the sealed test set, once.

        This is recorded before its predictions are compared with the labels.
        """
        key = result.key
        test = self.data.test()
        try:
            network = load_network(self.store.weights(self.study, key)).network
        except CheckpointError as error:  # of a fine-tuned network, as a head was fitted again
            raise StudyError(
                f"{error}; bring that file back from a copy, or delete the run {key} in MLflow and run make "
                f"clean-store{self.store.for_make()}: then the same command fine-tunes again"
            ) from error
        assert isinstance(network, AdaptedNetwork)
        logits = [self._logits(network, test, mirrored) for mirrored in (False, True)]  # until here it can be stopped
        self.store.record_test_set_evaluation(study=self.study, key=key, data_sha256=self.plan.data_set.sha256)
        both = logits[0], torch.stack(logits).mean(0)
        plain, averaged = (Predictions(each.softmax(1), test.labels.cpu(), test.data_set) for each in both)
        hardware = self.plan.hardware
        timings = time_serving(hardware.place(network), test, hardware, NORMALISATION)
        files = artifacts.of_test(test, plain) | artifacts.of_serving(timings)
        outcome = Outcome.of(plain, files, averaged.accuracy)
        how = "Fine-tuned" if result.tuned else "Adapted"
        note = f"{how}: {percent(plain.accuracy, 2)} test accuracy{with_tta(averaged.accuracy)}; "
        note += provenance_of(self.backbone)
        name = f"{how.lower()} {self.backbone.name} #{result.trial} {percent(plain.accuracy)}"
        note = run_note(note, self.tracker.costs(key), outcome.files)
        self.tracker.tested(key, outcome, result.tags, name=name, note=note)

    @torch.no_grad()
    def _logits(self, network: AdaptedNetwork, test: Split, mirrored: bool) -> Tensor:
        backbone, what = replace(self.backbone, network=network.features), f"test images by {self.backbone.name}"
        found = features(backbone, test.images, self.plan.hardware, mirrored=mirrored, progress=self._progress(what))
        logits: Tensor = network.head.cpu()(found.values)
        return logits

    def _register(self, result: AdaptedResult) -> None:
        accuracies = {"val": result.val_accuracy, "test": result.test_accuracy, "tta": result.tta_accuracy}
        tags = version_tags(self.plan.data_set, self.study, result.trial, self.backbone.name, **accuracies)
        self.tracker.register(result.key, self.store.weights(self.study, result.key), tags)

    def _fit(self, images: _Images, labels: Tensor, recipe: HeadRecipe) -> tuple[Head, dict[str, float]]:
        """Fit a head to the first images, those of `labels`; return its costs with those of the features it needs."""
        views = [images.features[mirrored].part(slice(len(labels))) for mirrored in recipe.views]
        classes, device = len(self.plan.data_set.classes), self.plan.hardware.device
        began = time.perf_counter()
        head = fit([view.values.to(device) for view in views], labels, recipe, classes).cpu()
        seconds, of_features = time.perf_counter() - began, sum(view.seconds for view in views)
        return head, head_costs(recipe, head, len(views) * len(labels), seconds, of_features, self.backbone)
