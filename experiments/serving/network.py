"""The champion's network, loaded by our own code: the copy of it in the store is Python of whoever can write there."""

from __future__ import annotations

import io
import json
import re
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import mlflow
import torch
from mlflow.models import Model
from mlflow.pyfunc import PyFuncModel
from mlflow.pyfunc.model import PythonModelContext
from torch.export.pt2_archive._package import PT2ArchiveReader

from sweeps.store import StoreError
from sweeps.tracking.registry import champion_uri
from sweeps.tracking.served_model import ImageClassifier

_CONFIGS = ("data/weights/model_weights_config.json", "data/constants/model_constants_config.json")
_EXAMPLE = "data/sample_inputs/model.pt"
# All that `torch.export.save` writes for a network; compiled code and pickled objects have other names.
_ENTRY = re.compile(
    r"models/model\.json|archive_(format|version)|byteorder|\.data/(version|serialization_id)"
    rf"|data/weights/weight_\d+|data/constants/tensor_\d+|{'|'.join(map(re.escape, (*_CONFIGS, _EXAMPLE)))}"
)


def load(name: str, folder: Path) -> PyFuncModel:
    """Load the champion of a registered model as `mlflow.pyfunc.load_model` does, but run no Python file of the store.

    Args:
        folder: for its files.

    Raises:
        StoreError: it is no network of a study, or holds more than one.
        MlflowException, OSError: the store does not answer.
    """
    model = Path(mlflow.artifacts.download_artifacts(champion_uri(name), dst_path=str(folder)))
    network, onnx = (model / "artifacts" / file for file in ("network.pt2", "network.onnx"))
    if not network.is_file():
        raise StoreError(f"the champion must be a network of a study, but that of {name} has no artifacts/network.pt2")
    if not _is_sound(network):
        raise StoreError(
            "the champion's network.pt2 must hold a program and tensors, without pickles or compiled code, but that of "
            f"{name} holds more or is damaged"
        )
    described = Model.load(model)
    files = {"network": str(network)} | ({"onnx": str(onnx)} if onnx.is_file() else {})
    context = PythonModelContext(files, described.flavors["python_function"]["config"])
    classifier = ImageClassifier()
    classifier.load_context(context)
    return PyFuncModel(described, SimpleNamespace(predict=partial(classifier.predict, context)))


def _is_sound(network: Path) -> bool:
    """Return whether an exported program is whole, and torch unpickles nothing but tensors as it loads it."""
    try:
        archive = PT2ArchiveReader(str(network))  # torch loads with it, and another reader might see another archive
        configs = [json.loads(archive.read_bytes(name))["config"] for name in _CONFIGS]
        torch.load(io.BytesIO(archive.read_bytes(_EXAMPLE)), weights_only=True)  # torch goes on to try without
    except Exception:  # of torch and of a stranger's file
        return False
    return all(map(_ENTRY.fullmatch, archive.get_file_names())) and not any(
        tensor["use_pickle"] for config in configs for tensor in config.values()
    )
