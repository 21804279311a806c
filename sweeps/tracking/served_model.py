"""The model that MLflow serves: uint8 images in, their classes and probabilities out.

MLflow copies this file into the model and runs it wherever the model is loaded, so it imports nothing of ours.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from mlflow.models import set_model
from mlflow.pyfunc.model import PythonModel

try:
    import onnxruntime
except ImportError:  # the model needs it only to be faster
    onnxruntime = None

_BATCH = 256  # images at a time, for a bound on memory


class ImageClassifier(PythonModel):
    """Labels a batch of images with an exported network, which does the preprocessing."""

    def load_context(self, context: Any) -> None:
        """Load the network, in its ONNX form if there is one and onnxruntime, and the names of its classes."""
        files = context.artifacts
        self._answer = _onnx(files["onnx"]) if onnxruntime and "onnx" in files else _torch(files["network"])
        self._classes = context.model_config["classes"]

    def predict(
        self,
        context: Any,
        model_input: np.ndarray,  # MLflow warns of every other type
        params: dict[str, Any] | None = None,
    ) -> list[dict[str, Any]]:
        """Return the class and the probability of every class, for each of the uint8 images (N, side, side, 3)."""
        images = np.ascontiguousarray(model_input)
        batches = [images[start : start + _BATCH] for start in range(0, len(images), _BATCH)]
        rows = (row for batch in batches for row in self._answer(batch).tolist())
        answers = (dict(zip(self._classes, row, strict=True)) for row in rows)
        return [{"class": max(answer, key=answer.__getitem__), "probabilities": answer} for answer in answers]


def _torch(path: str) -> Callable[[np.ndarray], np.ndarray]:
    network = torch.export.load(path).module()

    def answer(images: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            # A copy: arrays that Pillow gave are read-only, and torch would warn of them.
            probabilities: np.ndarray = network(torch.tensor(images)).numpy()
        return probabilities

    return answer


def _onnx(path: str) -> Callable[[np.ndarray], np.ndarray]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    [given] = session.get_inputs()
    return lambda images: session.run(None, {given.name: images})[0]


set_model(ImageClassifier())
