"""The groups that the arguments of --runs name. Names that stand for nothing are tested with the page."""

from __future__ import annotations

import uuid

import pytest

from cifar_core.errors import UserError
from experiments.comparison.selection import choose
from tests.experiments.comparison.conftest import Chosen
from tests.experiments.fake_store import Fake, Trial


def run_of(store: Fake, name: str, key: str) -> str:
    experiment = store.client.get_experiment_by_name(name)
    assert experiment is not None
    (run,) = store.client.search_runs([experiment.experiment_id], f"tags.key = '{key}'")
    return str(run.info.run_id)


def test_a_study_stands_for_its_champion_or_else_its_best_trial(chosen: Chosen) -> None:
    twice, searched = chosen("twice", "searched").groups
    assert (len(twice.runs), twice.description) == (2, "champion of the study")
    assert twice.runs[1].description == "final of trial 2 of twice, seed 1"
    assert searched.runs[0].description == "trial 2 of searched"
    assert searched.description == "best complete trial of the study, number 2"


def test_a_study_that_adapts_stands_for_its_tested_network(fresh_store: Fake) -> None:
    fresh_store.add()
    experiment = fresh_store.client.create_experiment("demo-adapted")
    fresh_store.client.create_run(experiment, tags={"stage": "adapted-study", "key": "study"})
    names = ["demo", "demo-adapted"]
    with pytest.raises(
        UserError, match=r"^a study that adapts must have a tested network .* 'demo-adapted' has none y"
    ):
        choose(names, None, fresh_store.place, ())
    head = fresh_store.client.create_run(experiment, tags={"stage": "adapted", "key": "final-3-0", "state": "complete"})
    for run, accuracy in ((fresh_store.client.create_run(experiment).info.run_id, None), (head.info.run_id, 0.9)):
        fresh_store.client.log_param(run, "model", "efficientnet_lite0")
        if accuracy is not None:
            fresh_store.client.log_metric(run, "test/accuracy", accuracy)
    adapted = choose(names, None, fresh_store.place, ()).groups[1]
    assert (adapted.description, adapted.run_ids) == ("adapted network of the study", (head.info.run_id,))


def test_runs_are_named_by_study_and_key_by_id_and_by_the_beginning_of_it(rivals: Fake, chosen: Chosen) -> None:
    ids = [run_of(rivals, "good", key) for key in ("trial-0", "trial-1", "final-2-0")]
    groups = chosen("good/trial-0", ids[1], ids[2][:12].upper()).groups
    assert [group.run_ids for group in groups] == [(run_id,) for run_id in ids]
    assert [group.name for group in groups] == ["good/trial-0", ids[1][:8], ids[2][:8]]
    assert [group.runs[0].state for group in groups] == ["complete", "pruned", "complete"]


def test_the_id_of_a_study_stands_for_the_study(rivals: Fake, chosen: Chosen) -> None:
    parent = rivals.client.get_run(run_of(rivals, "good", "trial-0")).data.tags["mlflow.parentRunId"]
    assert chosen(parent, "bad").groups[0].name == "good"


@pytest.mark.slow
def test_a_baseline_that_is_not_among_the_runs_comes_first(chosen: Chosen) -> None:
    comparison = chosen("bad", "level", baseline="good")
    assert [group.name for group in comparison.groups] == ["good", "bad", "level"]
    among = chosen("bad", "good", baseline="good")
    assert [group.name for group in among.groups] == ["bad", "good"]
    assert among.reference is among.groups[1]
    assert (among.titles, chosen("bad", "good").titles) == (("bad", "good (baseline)"), ("bad", "good"))


@pytest.mark.slow
def test_an_ambiguous_beginning_names_what_it_may_be(fresh_store: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = iter(range(1000))
    monkeypatch.setattr(uuid, "uuid4", lambda: uuid.UUID(f"abcdef{next(ids):026x}"))
    fresh_store.add()
    several = r"'abcdef' may be abcdef0+ \(demo in demo\), abcdef0+1 \(trial 0 in demo\), abcdef0+2 \(trial 1 in demo\)"
    with pytest.raises(UserError, match=f"must name one run each, but {several}"):
        choose(["demo", "abcdef"], None, fresh_store.place, ())


def test_runs_of_one_name_are_told_apart_by_id_and_study(fresh_store: Fake) -> None:
    for name in ("first", "second"):
        fresh_store.add(name=name, trials=(Trial(),), champion=())
    several = r"'trial 0' may be \w{32} \(trial 0 in (first|second)\), \w{32} \(trial 0 in (?!\1)(first|second)\)$"
    with pytest.raises(UserError, match=f"must name one run each, but {several}"):
        choose(["first", "trial 0"], None, fresh_store.place, ())


@pytest.mark.slow
def test_a_study_without_a_complete_trial_is_refused(fresh_store: Fake) -> None:
    fresh_store.add(name="young", trials=(Trial(state="running"),), champion=(), state="running")
    fresh_store.add(name="old", trials=(Trial(),), champion=())
    with pytest.raises(UserError, match=r"must have a complete trial to be compared, but 'young' has none yet"):
        choose(["old", "young"], None, fresh_store.place, ())
