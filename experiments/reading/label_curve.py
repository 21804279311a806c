"""Loads label curves, as `label_curve.py` keeps them in MLflow."""

from __future__ import annotations

from collections.abc import Sequence

from cifar_core.data.data_set import DataSet
from experiments.reading.run_table import state_of
from experiments.reading.study import LabelCurve, LabelledRun
from experiments.reading.study_reader import StudyReader
from sweeps.studies.keys import STUDY_KEY
from sweeps.tracking.figures import metrics_of

CURVE = "curve.json"  # artifact of a curve's own run: {"source": the run whose recipe it is, "runs": [keys]}
_PREFIX = "labels/"  # no study's name has a slash


def experiment_of(study: str) -> str:
    """Return the name of the MLflow experiment with the label curve of a study."""
    return f"{_PREFIX}{study}"


def load_label_curve(reader: StudyReader, study: str, data_set: DataSet) -> LabelCurve | None:
    """Load the label curve of a study on its images; None if it has none, or its plan is missing or damaged.

    Raises:
        StoreError: MLflow does not answer.
    """
    runs = {run.data.tags.get("key"): run for run in reader.runs(experiment=experiment_of(study))}
    if (own := runs.get(STUDY_KEY)) is None:
        return None
    plan = reader.json(own.info.run_id, CURVE)
    planned, source = plan.get("runs"), plan.get("source")
    if not isinstance(planned, Sequence) or not isinstance(source, str):
        return None
    # Runs that an earlier study of that name left are of other images.
    own_images = (run for run in runs.values() if run.data.tags.get("data_sha256", data_set.sha256) == data_set.sha256)
    known = {run.data.tags.get("key"): run for run in own_images}
    found = [(run, state_of(run)) for key in planned if (run := known.get(key)) is not None]
    complete = [
        LabelledRun(
            way=run.data.tags["way"],
            labels=int(run.data.tags["labels"]),
            seed=int(run.data.tags["seed"]),
            accuracy=metrics_of(run)["val/accuracy"],
            run_id=run.info.run_id,
            model=run.data.params["model"],
            pretrained_on=run.data.tags.get("pretrained_on", ""),
        )
        for run, state in found
        if state == "complete"
    ]
    diverged = sum(state == "pruned" for _, state in found)
    return LabelCurve(
        run_id=own.info.run_id, source=source, planned=len(planned), runs=tuple(complete), diverged=diverged
    )
