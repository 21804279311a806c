"""Fitting the heads of a label curve to the features of a pretrained network, which are computed once."""

from __future__ import annotations

import time
from collections.abc import Sequence

from torch import Tensor

from cifar_core.data import DataError, nested_places
from cifar_core.transfer.backbone import Backbone
from cifar_core.transfer.features import default_cache, features
from cifar_core.transfer.head import fit
from experiments.labels.plan import AdaptRun
from experiments.labels.training import CurveContext, to_do
from sweeps.command_line import Interrupted
from sweeps.executors.protocol import Outcome
from sweeps.stages.adapted_result import backbone_tags
from sweeps.tracking import artifacts
from sweeps.tracking.notes import run_note
from sweeps.tracking.tracker import RunLabel
from sweeps.words import percent


def fit_all(runs: Sequence[AdaptRun], context: CurveContext) -> None:
    """Fit the heads that are not fitted yet.

    Raises:
        Interrupted: the user asked to stop; the next call resumes, and the features so far are in the cache.
        DataError: the cache cannot be written to.
        StoreError: MLflow does not answer.
    """
    todo = to_do(runs, context.tracker)
    if not todo:
        return
    seen = _features(todo[0].backbone, context)
    train, val = seen.split([len(context.data.train), len(context.data.val)])
    for run in todo:
        _check(context)
        _fit(run, train, val, context)


def _features(backbone: Backbone, context: CurveContext) -> Tensor:
    """Return the features (N, D) of all images, in the order in which a study that adapts keeps them in the cache."""
    images, what = context.data.everything().images, f"features of the images by {backbone.name}"

    def progress(done: int, total: int) -> None:
        context.console.progress(what, done, total, "images")
        _check(context)

    try:
        return features(backbone, images, context.hardware, cache=default_cache(), progress=progress).values
    except OSError as error:
        raise DataError(f"features are kept in {default_cache()}, but: {error}") from error


def _check(context: CurveContext) -> None:
    if context.stop():
        raise Interrupted


def _fit(run: AdaptRun, train_features: Tensor, val_features: Tensor, context: CurveContext) -> None:
    tracker, train, val, backbone = context.tracker, context.data.train, context.data.val, run.backbone
    params = {**run.head.to_dict(), "model": backbone.name, "side": backbone.side, "labels": run.labels}
    tracker.begin(
        RunLabel(
            key=run.key,
            name=run.name(backbone.name),
            tags={**context.tags, **run.tags, **backbone_tags(backbone)},
            params=params,
            files={"recipe.toml": run.head.to_toml().encode()},
        )
    )
    places = nested_places(train.labels, run.labels, run.seed)
    began = time.perf_counter()
    views, labels, device = train_features[places], train.labels[places], context.hardware.device
    head = fit([views.to(device)], labels, run.head, len(train.data_set.classes)).cpu()
    seconds = time.perf_counter() - began
    predictions = head.predict(val_features, val)
    outcome = Outcome.of(predictions, artifacts.of_predictions(val, predictions))
    reached = f"{percent(outcome.accuracy, 2)} validation accuracy"
    tracker.end(
        run.key,
        "complete",
        outcome=outcome,
        metrics={"val/accuracy": outcome.accuracy, "val/loss": outcome.loss, "cost/fit_seconds": seconds},
        name=run.name(backbone.name, outcome.accuracy),
        note=run_note(f"{reached} with {run.labels:,} labels, a head on {backbone.name}", {}, outcome.files),
    )
    context.console.say(f"{run.labels:,} labels/{run.seed}, adapted: {reached}")
