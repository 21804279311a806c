"""The adapted network that a store has beside a study, and its record."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from types import MappingProxyType

from mlflow.entities import Metric, Param, RunTag

from cifar_core.data.data_set import CIFAR10
from cifar_core.evaluation.serving import Timing
from experiments.reading.load_study import read_study
from experiments.reading.study_reader import StudyReader
from tests.experiments.fake_store import START, Fake, sure_answers
from tests.experiments.support import known

TIMING = Timing(1, 0.004, 0.006, 200, 0.004)


def add(
    store: Fake,
    study: str,
    *,
    start: int,
    data: str = CIFAR10.sha256,
    tested: bool = True,
    more: Mapping[str, str] = MappingProxyType({}),
) -> str:
    """Write an adapted network of the study as `sweeps/stages/adaptation.py` does; returns the id of its run."""
    client, folder = store.client, store.folder / "artifacts" / study
    experiment = client.create_experiment(study, artifact_location=folder.as_uri())
    run = client.create_run(experiment, start).info.run_id
    tags = {
        "stage": "adapted", "state": "complete", "study": study, "data_sha256": data, "device": "cpu",
        "backbone": "resnet18", "backbone_source": "weights.pth", "pretrained_on": "",
        "val_accuracy": "0.8500", "head_accuracy": "0.8500",
        "trial": "final-2-0", "source_trial": "2",
        "figures.cost": json.dumps({"seconds": 5.0, "study_seconds": 9.0, "training_flops": 7.0}),
        **more,
    }  # fmt: skip
    metrics = [Metric("test/accuracy", 0.8, start, 0), Metric("test/tta_accuracy", 0.81, start, 0)] if tested else []
    params = [Param("side", "160"), Param("parameters", "11000000")]
    client.log_batch(run, metrics, params, [RunTag(name, value) for name, value in tags.items()])
    timing = json.dumps([asdict(TIMING)]).encode()
    store.put(run, {"test/predictions.csv": sure_answers(0.8), "test/serving.json": timing})
    return str(run)


def test_that_of_the_study_comes_first_then_the_newest_of_the_same_images(fresh_store: Fake) -> None:
    fresh_store.add(champion=())
    assert read_study(StudyReader(fresh_store.place), "demo").adapted is None
    add(fresh_store, "photos-adapted", start=START + 9, data="other images")
    add(fresh_store, "untested-adapted", start=START + 8, tested=False)
    by_hand = fresh_store.client.create_run("0", START + 7, {"stage": "adapted"}).info.run_id
    fresh_store.client.log_metric(by_hand, "test/accuracy", 0.9)
    add(fresh_store, "old-adapted", start=START + 1)
    newest = add(fresh_store, "new-adapted", start=START + 2)
    assert known(read_study(StudyReader(fresh_store.place), "demo").adapted).run_id == newest
    assert known(read_study(StudyReader(fresh_store.place), "demo").adapted).tuned is None
    of_both = {"head_accuracy": "0.8500", "tuned_accuracy": "0.8500", "trial": "final-2-1"}  # it led by 0.00002
    own = add(fresh_store, "demo-adapted", start=START, more=of_both)
    found = known(read_study(StudyReader(fresh_store.place), "demo").adapted)
    assert (found.run_id, found.study, found.backbone, found.validation) == (own, "demo-adapted", "resnet18", 0.85)
    assert (found.head, found.tuned, found.is_tuned) == (0.85, 0.85, True)
    assert (found.test.mean, found.test.images, found.augmented) == (0.8, len(known(found.answers).true), 0.81)
    assert (found.seconds, found.study_seconds, found.flops) == (5.0, 9.0, 7.0)
    assert found.serving == (TIMING,)
    assert StudyReader(fresh_store.place).studies() == ["demo"]


def test_a_study_that_adapts_and_has_not_finished_is_named(fresh_store: Fake) -> None:
    fresh_store.add(champion=())
    found = read_study(StudyReader(fresh_store.place), "demo")
    assert (found.adapted, found.adapting) == (None, "")
    experiment = fresh_store.client.create_experiment("demo-adapted")
    run = fresh_store.client.create_run(experiment, START, {"stage": "adapted-study", "key": "study"})
    found = read_study(StudyReader(fresh_store.place), "demo")
    assert (found.adapted, found.adapting) == (None, "demo-adapted")
    fresh_store.client.set_tag(run.info.run_id, "state", "finished")  # as with --no-confirm
    assert read_study(StudyReader(fresh_store.place), "demo").adapting == ""
    fresh_store.client.set_tag(run.info.run_id, "state", "interrupted")
    add(fresh_store, "old-adapted", start=START + 1)
    assert read_study(StudyReader(fresh_store.place), "demo").adapting == ""
