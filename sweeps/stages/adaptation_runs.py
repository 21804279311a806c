"""MLflow runs of a study that adapts a pretrained network."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import tomli_w
import torch

from cifar_core.data.data_set import DataSet
from cifar_core.evaluation.metrics import Predictions
from cifar_core.training import Progress
from cifar_core.transfer.backbone import Backbone, meta_network
from cifar_core.transfer.head import Head, HeadRecipe
from cifar_core.transfer.tuning import TuningRecipe
from sweeps.executors.protocol import Outcome
from sweeps.stages.adapted_result import backbone_tags, provenance_of
from sweeps.studies.keys import STUDY_KEY
from sweeps.tracking.artifacts import DATA_SET
from sweeps.tracking.notes import run_note
from sweeps.tracking.tracker import MlflowTracker, RunLabel
from sweeps.words import percent


@dataclass(frozen=True, slots=True)
class AdaptationRuns:
    """Begins and ends the runs of a study.

    Args:
        study: name of the study.
        tags: tags of every run: commit, data, machine.
        places: as in the plan.
    """

    tracker: MlflowTracker
    study: str
    backbone: Backbone
    data_set: DataSet
    tags: Mapping[str, str]
    places: str

    def open_study(self) -> None:
        """Start or resume the study's own run."""
        tags = {**self._tags(), "stage": "adapted-study"} | ({"places": self.places} if self.places else {})
        self.tracker.open_study(
            RunLabel(key=STUDY_KEY, name=self.study, tags=tags, params={}, files={DATA_SET: self.data_set.to_json()})
        )

    def begin(
        self, key: str, name: str, tags: Mapping[str, str], recipe: HeadRecipe, tuning: TuningRecipe | None = None
    ) -> None:
        """Start or resume a run with that recipe of its head, and of its fine-tuning if it has one."""
        features = meta_network(self.backbone.name, self.backbone.side)(torch.zeros(1, 3, 32, 32, device="meta"))
        head = Head(features.shape[1], len(self.data_set.classes), recipe.scaling)
        parameters = sum(each.numel() for part in (self.backbone.network, head) for each in part.parameters())
        chosen = {**recipe.to_dict(), **(tuning.to_dict() if tuning is not None else {})}
        params = {**chosen, "model": self.backbone.name, "side": self.backbone.side, "parameters": parameters}
        files = {"recipe.toml": tomli_w.dumps(chosen).encode()}
        self.tracker.begin(RunLabel(key=key, name=name, tags={**self._tags(), **tags}, params=params, files=files))

    def end_head(
        self,
        key: str,
        name: str,
        head: Head,
        on_train: Predictions,
        predictions: Predictions | None,
        costs: Mapping[str, float],
        files: Mapping[str, bytes],
    ) -> None:
        """End the run of a head; its curves have one point.

        Args:
            on_train: its predictions of training images.
            predictions: of the validation images; None if it was fitted to them too.
            files: artifacts by path.
        """
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
        self.end(key, name, predictions, costs, files)

    def end(
        self,
        key: str,
        name: str,
        predictions: Predictions | None,
        costs: Mapping[str, float],
        files: Mapping[str, bytes],
    ) -> None:
        """End a run as complete, with its costs and pictures."""
        outcome = Outcome.of(predictions, dict(files)) if predictions is not None else None
        result = f"{percent(outcome.accuracy)} validation accuracy" if outcome else "fitted to all training images"
        self.tracker.end(
            key,
            "complete",
            outcome=outcome,
            metrics=costs,
            name=f"{name} {percent(outcome.accuracy)}" if outcome else name,
            note=run_note(f"{result}; {provenance_of(self.backbone)}", costs, files),
        )

    def _tags(self) -> dict[str, str]:
        return {**self.tags, "study": self.study, **backbone_tags(self.backbone)}
