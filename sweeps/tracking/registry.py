"""Champions in MLflow's model registry: one version for the champion of each study, and an alias for the best."""

from __future__ import annotations

import contextlib
import re
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import mlflow
import numpy as np
import torch
from mlflow import MlflowClient
from mlflow.entities import LoggedModel, LoggedModelStatus, Run
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.models import ModelSignature
from mlflow.types import ColSpec, DataType, Schema, TensorSpec
from mlflow.types.schema import Map

from cifar_core.data.data_set import CIFAR10, DataSet
from cifar_core.export import export, export_onnx
from cifar_core.transfer.adapted import load_network
from sweeps.tracking import served_model
from sweeps.tracking.mlflow_client import every_page

CHAMPION = "champion"  # alias
_ONNX = "onnx"  # tag of a logged model, as `export_onnx` returns it
CLASSIFIER = "classifier"  # of a logged model


def log_classifier(uri: str, run_id: str, weights: Path) -> LoggedModel:
    """Log the network to its run as a model of MLflow, unless it is there already, and return that.

    Raises:
        CheckpointError: the weights are missing or damaged, or of another version.
        MlflowException, SQLAlchemyError, OSError: the store does not answer.
    """
    client = MlflowClient(uri)
    run = client.get_run(run_id)
    where = f"source_run_id = '{run_id}' AND name = '{CLASSIFIER}'"
    for model in client.search_logged_models([run.info.experiment_id], where):
        if model.status == LoggedModelStatus.READY:
            return model
        client.delete_logged_model(model.model_id)  # a crash cut its logging short
    loaded = load_network(weights)
    data_set = loaded.data_set
    program = export(loaded.network, loaded.normalisation, data_set)
    shape = (data_set.side, data_set.side, 3)
    mlflow.set_tracking_uri(uri)
    with tempfile.TemporaryDirectory() as folder, _active(client, run):
        network, onnx = Path(folder, "network.pt2"), Path(folder, "network.onnx")
        torch.export.save(program, network)
        said = export_onnx(program, data_set, onnx)
        logged = mlflow.pyfunc.log_model(
            name=CLASSIFIER,
            python_model=served_model.__file__,
            artifacts={"network": str(network)} | ({"onnx": str(onnx)} if onnx.exists() else {}),
            tags={_ONNX: said} if said else {},
            model_config={"classes": list(data_set.classes)},
            signature=ModelSignature(
                inputs=Schema([TensorSpec(np.dtype(np.uint8), (-1, *shape))]),
                outputs=Schema([ColSpec(DataType.string, "class"), ColSpec(Map(DataType.double), "probabilities")]),
            ),
            input_example=np.zeros((1, *shape), np.uint8),
            pip_requirements=[f"mlflow=={mlflow.__version__}", f"torch=={torch.__version__.partition('+')[0]}"],
        )
    return client.get_logged_model(logged.model_id)


def version_tags(
    data_set: DataSet, study: str, trial: int | str, architecture: str, **accuracies: float | None
) -> dict[str, str]:
    """Return the tags of a version, for `register`; accuracies (val, test, tta) that are None are left out."""
    known = {f"{name}_accuracy": f"{value:.4f}" for name, value in accuracies.items() if value is not None}
    facts = {"data": data_set.name, "side": str(data_set.side), "study": study, "trial": str(trial)}
    return {**facts, "architecture": architecture, **known}


def register(uri: str, run_id: str, model: LoggedModel, tags: Mapping[str, str]) -> None:
    """Register the champion of a study, and move the alias to the best of its data set; again it changes nothing.

    The alias names the champion with the best validation accuracy: this one, and the newest version of other studies.
    Among equals it stays where it is.

    Args:
        tags: tags of the version.
    """
    mlflow.set_tracking_uri(uri)  # where the registry looks the model up, whatever its client was given
    client = MlflowClient(uri)
    name = model_name(tags["data"], client.get_run(run_id).data.tags["data_sha256"])
    try:
        client.create_registered_model(name, description=_describe_all(name, tags["side"]))
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    if all(version.source != model.model_uri for version in all_versions(client, name)):
        text = _describe(tags, model.tags.get(_ONNX, ""))
        client.create_model_version(
            name, model.model_uri, run_id, dict(tags), description=text, model_id=model.model_id
        )
    for _ in range(2):  # again, as another study may have registered its own meanwhile
        versions = all_versions(client, name)
        newest = newest_of_studies(versions)
        newest[tags["study"]] = next(version for version in versions if version.source == model.model_uri)
        served = client.get_registered_model(name).aliases.get(CHAMPION)
        best = max(newest.values(), key=lambda each: (float(each.tags.get("val_accuracy", 0)), each.version == served))
        client.set_registered_model_alias(name, CHAMPION, best.version)


def champions(client: MlflowClient) -> list[ModelVersion]:
    """Return the version with the alias `champion` of each registered model that has one."""
    models = every_page(lambda token: client.search_registered_models(page_token=token))
    return [client.get_model_version_by_alias(model.name, CHAMPION) for model in models if CHAMPION in model.aliases]


def registered_runs(client: MlflowClient) -> frozenset[str]:
    """Return the ids of the runs whose networks are in the registry."""
    versions = every_page(lambda token: client.search_model_versions(page_token=token))
    return frozenset(version.run_id for version in versions if version.run_id is not None)


def newest_of_studies(versions: Iterable[ModelVersion]) -> dict[str | None, ModelVersion]:
    """Return the last of these versions of each study: an older one of the same study does not count."""
    return {version.tags.get("study"): version for version in versions}


def champion_uri(name: str) -> str:
    """Return the address of the champion of a registered model, for `mlflow.pyfunc.load_model`."""
    return f"models:/{name}@{CHAMPION}"


def model_name(data_set: str, sha256: str) -> str:
    """Return `cifar10` for CIFAR-10, and a name as `photos-1a2b3c4d` for other data, whose hash holds the side."""
    plain = re.sub(r"[^\w.]", "", data_set).lower() or "images"
    return plain if sha256 == CIFAR10.sha256 else f"{plain}-{sha256[:8]}"


@contextlib.contextmanager
def _active(client: MlflowClient, run: Run) -> Iterator[None]:
    """Context in which MLflow logs to `run`; a run that has ended keeps its status and the time of its end."""
    try:
        with mlflow.start_run(run_id=run.info.run_id):
            yield
    finally:
        if run.info.end_time is not None:
            client.set_terminated(run.info.run_id, run.info.status, run.info.end_time)


def all_versions(client: MlflowClient, name: str) -> list[ModelVersion]:
    """Return all versions of a registered model, the oldest first."""
    quote = '"' if "'" in name else "'"
    if quote in name:  # MLflow's filters have no way to write both
        return []
    versions = every_page(lambda token: client.search_model_versions(f"name = {quote}{name}{quote}", page_token=token))
    return sorted(versions, key=lambda version: int(version.version))


def _describe(tags: Mapping[str, str], onnx: str) -> str:
    """Return the origin of a version, its accuracies, and what became of its ONNX form."""
    said = [f"trial {tags['trial']} of study {tags['study']}, {tags['architecture']}"]
    for name, what in (
        ("test_accuracy", "of the test images"),
        ("tta_accuracy", "with test-time augmentation, which the model does not do"),
        ("val_accuracy", "of the validation images when it was chosen"),
    ):
        if name in tags:
            said.append(f"{100 * float(tags[name]):.2f} % {what}")
    return "; ".join([*said, onnx] if onnx else said)


def _describe_all(name: str, side: str) -> str:
    """Return the description of a registered model, in Markdown."""
    return f"""\
Image classifiers, one version for the champion of each study. The alias `{CHAMPION}` names the version with the best
validation accuracy. A version takes uint8 images (N, {side}, {side}, 3), red, green and blue from 0 to 255, and returns
the class and the probability of every class for each:

```python
import mlflow, numpy as np
from PIL import Image, ImageOps
model = mlflow.pyfunc.load_model("{champion_uri(name)}")
picture = ImageOps.exif_transpose(Image.open("picture.jpg")).convert("RGB")
picture = ImageOps.fit(picture, ({side}, {side}), Image.Resampling.LANCZOS)
print(model.predict(np.asarray(picture)[None])[0])
```
"""
