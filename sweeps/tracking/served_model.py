"""The model that MLflow serves: uint8 images in, their classes and probabilities out.

MLflow copies this file into the model and runs it wherever the model is loaded, so it imports nothing of ours.
"""

from typing import Any

import numpy as np
import torch
from mlflow.models import set_model
from mlflow.pyfunc.model import PythonModel

_BATCH = 256  # images at a time, for a bound on memory


class ImageClassifier(PythonModel):
    """Labels a batch of images with an exported network, which does the preprocessing."""

    def load_context(self, context: Any) -> None:
        """Load the network, and the names of its classes."""
        self._network = torch.export.load(context.artifacts["network"]).module()
        self._classes = context.model_config["classes"]

    def predict(
        self,
        context: Any,
        model_input: np.ndarray,  # MLflow warns of every other type
        params: dict[str, Any] | None = None,
    ) -> list[dict[str, Any]]:
        """Return the class and the probability of every class, for each of the uint8 images (N, side, side, 3)."""
        with torch.inference_mode():
            batches = torch.from_numpy(np.ascontiguousarray(model_input)).split(_BATCH)
            probabilities = torch.cat([self._network(batch) for batch in batches]).tolist()
        answers = (dict(zip(self._classes, row, strict=True)) for row in probabilities)
        return [{"class": max(answer, key=answer.__getitem__), "probabilities": answer} for answer in answers]


set_model(ImageClassifier())
