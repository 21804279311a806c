from __future__ import annotations

from dataclasses import replace

import pytest

from cifar_core.data.data_set import CIFAR10
from experiments.decision.facts import Facts
from experiments.decision.verdict import verdict_of
from sweeps.validation import InvalidFileError
from tests.experiments.decision.test_machines import SCENARIO
from tests.experiments.fake_store import Fake
from tests.experiments.support import ADAPTED, gathered, known


def test_without_any_run_nothing_is_measured(empty: Facts) -> None:
    assert (empty.test, empty.validation, empty.model, empty.parameters, empty.cost.seconds) == (None,) * 5
    assert (empty.has_champion, empty.subject_runs, verdict_of(empty).answer) == (False, (), "Not yet")


def test_without_confusion_matrices_the_images_are_counted_by_the_data_set(demo: Facts) -> None:
    own = replace(CIFAR10, sha256="ab" * 32, val_images=40, test_images=80)
    lost = replace(demo.study.artifacts, confusions={})
    facts = gathered(replace(demo.study, data_set=own, artifacts=lost), demo.published, demo.scenario)
    assert [known(e).images for e in (facts.validation, facts.test)] == [40, 80]


def test_the_best_trial_was_validated_on_the_images_of_a_trial(demo: Facts, unconfirmed: Facts) -> None:
    for facts, images in ((demo, 5000), (unconfirmed, 1000)):
        study = replace(facts.study, params={**facts.study.params, "trial_images": "1000"})
        assert known(gathered(study, facts.published, facts.scenario).validation).images == images


def test_no_way_has_the_name_of_the_network_that_was_adapted(demo: Facts) -> None:
    twin = replace(demo.scenario.downloads[0], name="EfficientNet-Lite0, new head")
    study, scenario = replace(demo.study, adapted=ADAPTED), replace(demo.scenario, downloads=(twin,))
    gathered(demo.study, demo.published, scenario)
    with pytest.raises(InvalidFileError) as raised:
        gathered(study, demo.published, scenario)
    assert str(raised.value) == (
        "scenario.toml: names of vendors and downloads must differ from that of the network which study 'demo' "
        "adapted, but got 'EfficientNet-Lite0, new head'"
    )


def test_the_bar_of_own_images_is_as_given(demo: Facts) -> None:
    own = replace(demo.study, data_set=replace(CIFAR10, sha256="ab" * 32))
    bar = gathered(own, demo.published, replace(demo.scenario, accuracy_bar=0.9)).bar
    assert (bar.target, bar.source, bar.when, bar.age(demo.as_of)) == (0.9, demo.scenario.file, "as given", "")


def test_the_scenario_moves_the_bar(store: Fake) -> None:
    moved = store.facts("demo", scenario=replace(SCENARIO, accuracy_bar=0.40)).bar
    assert (moved.target, moved.start, moved.rework) == (0.40, 0.40, 0.40)
    assert moved.source.startswith("scenario.toml; ")
