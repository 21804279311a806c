"""A label curve and the images of its study."""

from __future__ import annotations

from unittest.mock import Mock

import pytest

from cifar_core.data import DataError
from experiments.labels.adapting import fit_all
from experiments.labels.training import Context
from tests.cifar_core.support import FP32, refusal
from tests.experiments.fake_store import Fake

OLD, NEW = "1a2b3c4d5e6f" * 5, "6f5e4d3c2b1a" * 5


@pytest.mark.parametrize("of_run", [OLD, NEW])
def test_runs_of_other_images_are_refused(fresh_store: Fake, of_run: str) -> None:
    client = fresh_store.client
    experiment = client.create_experiment("labels/demo", (fresh_store.folder / "artifacts").as_uri())
    client.create_run(experiment, run_name="labels/demo", tags={"key": "study", "data_sha256": OLD})
    head = {"key": "adapt-20-0-00000000", "state": "complete", "data_sha256": of_run}
    client.create_run(experiment, run_name="20 labels", tags=head)
    context = Context(
        experiment="labels/demo",
        data=Mock(),
        hardware=FP32,
        store=fresh_store.place,
        tracker=Mock(),
        console=Mock(),
        tags={"data_sha256": NEW},
    )
    if of_run == NEW:
        fit_all([], context)
        return
    assert refusal(lambda: fit_all([], context), DataError) == (
        "all runs of labels/demo must be of the images 6f5e4d3c2b1a, but '20 labels' is of 1a2b3c4d5e6f; delete that "
        "experiment in MLflow, then run make clean-store"
    )
