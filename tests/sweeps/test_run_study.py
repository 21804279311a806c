"""The command line: the plan that it makes of its arguments, stops, failures, and what it says then."""

from __future__ import annotations

import contextlib
import functools
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import optuna
import pytest
import torch
from mlflow.exceptions import MlflowException
from optuna.exceptions import StorageInternalError
from optuna.storages import BaseStorage

from cifar_core.data import source
from cifar_core.data.data_set import CIFAR10
from cifar_core.hardware import Hardware
from cifar_core.machine import usable_cores
from cifar_core.recipe import Recipe
from cifar_core.recipes import SYSTEMS, read_recipe
from sweeps import options, run_study
from sweeps.command_line import Interrupted
from sweeps.console import SweepConsole
from sweeps.coordinator import StoreLostError, Summary
from sweeps.executors import engine
from sweeps.lock import acquire
from sweeps.planning.limits import Limits
from sweeps.planning.plan import Plan
from sweeps.planning.presets import PRESETS
from sweeps.planning.search_space import TTA, comparable
from sweeps.planning.space_file import SPACES
from sweeps.run_study import main
from sweeps.stages.stage import Sweep
from sweeps.store import Store
from sweeps.studies.settings import ADAPTATION, TRAIN_IMAGES
from sweeps.studies.storage import StudyError, open_storage
from sweeps.tracking.figures import metrics_of
from sweeps.tracking.mlflow_client import connect, runs_of
from sweeps.tracking.tracker import MlflowTracker, RunLabel
from tests.conftest import Refused
from tests.pictures import write_pictures
from tests.sweeps.small_data import small_splits
from tests.sweeps.support import STUDY

CORES = usable_cores()
ADAPTED = Mock(lines=Mock(return_value=("a network",)))  # a result


pytestmark = pytest.mark.usefixtures("settings_of_this_process", "untouched")


class StubCoordinator:
    """Takes note of what it gets, and does what a test says in place of a sweep."""

    executor: Mock
    got: Sweep
    does: Callable[[StubCoordinator], Summary]

    def __init__(self, sweep: Sweep, executor: object, samples: object, stop: Callable[[], bool]) -> None:
        self.sweep, self.stop = sweep, stop
        StubCoordinator.got = sweep

    def run(self) -> Summary:
        return StubCoordinator.does(self)


class LateTracker(MlflowTracker):
    """Opens MLflow's database with the study's run alone: creating it takes seconds."""

    def open(self) -> None:
        pass

    def open_study(self, label: RunLabel) -> None:
        super().open()
        self.begin(label)


def interrupted(coordinator: StubCoordinator, number: signal.Signals = signal.SIGINT) -> Summary:
    assert not coordinator.stop()
    os.kill(os.getpid(), number)
    while not coordinator.stop():
        time.sleep(0.01)
    raise Interrupted


@pytest.fixture
def stubs(monkeypatch: pytest.MonkeyPatch, untouched: None) -> type[StubCoordinator]:
    """The command with everything that takes time left out; a sweep is interrupted at once."""
    data = small_splits(20, 10)
    monkeypatch.setattr(source, "ensure_cifar10", lambda directory, progress: None)
    monkeypatch.setattr(source, "load_train_val", lambda directory: data)
    StubCoordinator.executor = Mock()
    monkeypatch.setattr(engine, "LocalExecutor", lambda **_: StubCoordinator.executor)
    monkeypatch.setattr(run_study, "Coordinator", StubCoordinator)
    monkeypatch.setattr(run_study, "MlflowTracker", LateTracker)
    StubCoordinator.does = interrupted
    return StubCoordinator


@pytest.mark.parametrize(
    "notify", [["--notify", "mail -s Bearer"], ["--notify=mail Bearer"], ["--not", "mail Bearer"], ["--notify="]]
)
def test_the_command_on_record_has_the_user_of_a_database_and_no_password(
    stubs: type[StubCoordinator], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, notify: list[str]
) -> None:
    database, url = open_storage(f"sqlite:///{tmp_path}/optuna.db"), "postgresql://sweeps@db.example/optuna"
    monkeypatch.setattr(run_study, "open_storage", lambda url, **_: database)
    main(["--storage", url, *notify, "--store", str(tmp_path), "--seed", "1"])
    public = f"--storage {url} --store {tmp_path} --seed 1"
    assert stubs.got.command == f"python sweeps/run_study.py {public}"
    assert stubs.got.plan.latest()["places"] == "--storage URL"


class TestStoresThatCannotBe:
    @pytest.mark.parametrize(
        ("option", "value", "message"),
        [
            ("--storage", "nonsense", "the Optuna storage must open, but nonsense gave: "),
            ("--tracking-uri", "nonsense", "the MLflow store must answer, but nonsense gave: "),
            ("--tracking-uri", "gopher://x", "the MLflow store must answer, but gopher://x gave: "),
        ],
    )
    @pytest.mark.usefixtures("stubs")
    def test_the_rule_and_the_value(
        self, refused: Refused, monkeypatch: pytest.MonkeyPatch, option: str, value: str, message: str
    ) -> None:
        assert refused(option, value).startswith(message)
        monkeypatch.setattr(options, "load_backbone", lambda wanted: Mock())
        assert refused("--adapt-only", option, value).startswith(message)

    @pytest.mark.parametrize("look", [(), ("--status",)])
    def test_the_database_of_mlflow_as_storage(
        self, refused: Refused, empty_store: Callable[[Path], Store], tmp_path: Path, look: tuple[str, ...]
    ) -> None:
        url = empty_store(tmp_path / "store").tracking_uri
        said = refused("--study", "s", "--storage", url, *look)
        assert said.startswith(f"the Optuna storage must open, but {url} gave: ")


class TestPlanOfTheArguments:
    @pytest.fixture
    def plan_of(
        self, stubs: type[StubCoordinator], empty_store: Callable[[Path], Store], tmp_path: Path
    ) -> Callable[..., Plan]:
        store = empty_store(tmp_path / "store")

        def plan(*arguments: str) -> Plan:
            assert main(("--store", str(store.root), "--device", "cpu", *arguments)) == 130
            return stubs.got.plan

        return plan

    def enqueued(self) -> list[Recipe]:
        asked = [trial.user_attrs.get("enqueued_recipe") for trial in StubCoordinator.got.study.trials]
        return [Recipe.from_dict(values) for values in asked if values]

    @pytest.mark.slow
    def test_defaults(self, plan_of: Callable[..., Plan]) -> None:
        plan = plan_of()
        assert (plan.trials, plan.study, plan.preset.name, plan.space.name) == (50, "quick-full", "quick", "full")
        assert (plan.workers, plan.threads) == (CORES, 1)
        assert (plan.sampler, plan.pruner, plan.seed, plan.timeout) == ("tpe", "halving", 0, None)
        assert (plan.confirm, plan.keep_weights) == (True, False)
        assert self.enqueued() == []
        tags = StubCoordinator.got.tags  # what decides the bits of a run
        assert (tags["threads"], tags["device"], tags["torch"]) == ("1", "cpu", torch.__version__)
        assert len(tags["data_sha256"]) == 64
        assert re.fullmatch(r"[0-9a-f]{40}(-dirty)?|unknown", tags["git_commit"])
        assert all(tags.values())

    @pytest.mark.slow
    def test_all_of_it_otherwise(self, plan_of: Callable[..., Plan]) -> None:
        search = "--trials 7 --space fast --epochs 2.5 --seed 3 --sampler random --pruner median"
        more = "--timeout 60 --patience 9 --no-starts --no-confirm --workers 1 --keep-weights"
        limits = "--max-parameters 2000000 --max-latency 2.5"
        plan = plan_of(*search.split(), *more.split(), *limits.split())
        assert (plan.trials, plan.study, plan.space) == (7, "epochs-2.5-fast-seed3-nostarts", SPACES["fast"])
        assert plan.preset.trial.max_epochs == plan.preset.confirm.max_epochs == 2.5
        assert (plan.sampler, plan.pruner, plan.seed, plan.timeout) == ("random", "median", 3, 60.0)
        assert (plan.workers, plan.threads) == (1, CORES)
        assert (plan.confirm, plan.keep_weights) == (False, True)
        assert (plan.patience, plan.starts) == (9, False)
        assert plan.limits == Limits(parameters=2_000_000, latency=2.5)

    @pytest.mark.slow
    def test_the_plan_has_the_workers_that_were_started(self, plan_of: Callable[..., Plan]) -> None:
        plan = plan_of("--trials", "1", "--no-confirm", "--workers", "2")
        assert (plan.workers, plan.threads) == (1, CORES)

    @pytest.mark.parametrize(
        ("on_cluster", "arguments", "gpus"),
        [(False, (), "4"), (True, ("--engine", "ray", "--address", "auto", "--gpus-per-trial", "0.3"), "3")],
    )
    def test_the_gpus_that_it_fills_are_on_record(
        self,
        stubs: type[StubCoordinator],
        monkeypatch: pytest.MonkeyPatch,
        tmp_path: Path,
        on_cluster: bool,
        arguments: tuple[str, ...],
        gpus: str,
    ) -> None:
        engine = Mock(hardware=Hardware(torch.device("cuda"), bf16=True), workers=8, threads=1, on_cluster=on_cluster)
        engine.speed.return_value, engine.nodes_without.return_value, engine.rows.return_value = 1e12, (), {}
        monkeypatch.setattr(run_study, "open_engine", lambda options, device: engine)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "GPU")
        assert main(("--store", str(tmp_path), *arguments)) == 130
        assert (stubs.got.tags["workers"], stubs.got.tags["gpus"]) == ("8", gpus)

    @pytest.mark.slow
    def test_recipes_are_enqueued_exactly(self, plan_of: Callable[..., Plan], tmp_path: Path) -> None:
        recipes = [Recipe(model="five_conv", learning_rate=0.1 + 0.2, tta=TTA), Recipe(cutout=7, tta=TTA)]
        paths = [tmp_path / f"{number}.toml" for number in range(2)]
        for path, recipe in zip(paths, recipes, strict=True):
            path.write_text(recipe.to_toml())
        plan_of("--enqueue", *map(str, paths), "--seed", "1")
        assert self.enqueued() == recipes

    @pytest.mark.slow
    def test_from_an_earlier_study_its_best_recipes_come_first(
        self, plan_of: Callable[..., Plan], tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        plan_of("--study", "first", "--no-starts")
        first, recipes = StubCoordinator.got.study, [Recipe(cutout=number, tta=TTA) for number in range(5)]
        optuna.create_study(study_name="adapted", storage=first._storage).set_user_attr(ADAPTATION, {})
        foreign = optuna.create_study(study_name="foreign", storage=first._storage)
        foreign.add_trial(optuna.trial.create_trial(value=0.5))
        for study, earlier, message in (
            ("first", "first", "--from must name another study, but got 'first', which this command runs"),
            ("second", "nope", "--from must be one that the store holds (adapted, first, foreign), but got 'nope'"),
            ("second", "foreign", "--from must name a sweep, but 'foreign' is a study of another program"),
            ("second", "first", "--from must name a study with a complete trial, but 'first' has none"),
            ("second", "adapted", "--from must name a sweep, but 'adapted' adapts a network"),
        ):
            with pytest.raises(AssertionError):
                plan_of("--study", study, "--from", earlier)
            assert capsys.readouterr().err == f"run_study.py: error: {message}\n"
        for number, recipe in enumerate(recipes):
            trial = first.ask()
            trial.set_user_attr("recipe", replace(recipe, epochs=7.0).to_dict())
            first.tell(trial, [0.2, 0.5, 0.4, 0.1, 0.3][number])
        first.set_user_attr(TRAIN_IMAGES, CIFAR10.train_images // 5)  # which its epochs are of
        plan_of("--study", "second", "--from", "first", "--enqueue", "five_conv")
        tried = [replace(recipe, epochs=Recipe().epochs) for recipe in self.enqueued()]
        assert tried[:3] == [recipes[1], recipes[2], recipes[4]]
        assert [recipe.model for recipe in tried[3:]] == ["five_conv"]
        assert [recipe.epochs for recipe in self.enqueued()[:3]] == pytest.approx([7.0 / 5] * 3), "as many steps"
        better, before = first.ask(), self.enqueued()
        better.set_user_attr("recipe", Recipe(cutout=11).to_dict())
        first.tell(better, 0.9)
        plan_of("--study", "second", "--from", "first", "--enqueue", "five_conv")
        assert self.enqueued() == before, "the same command resumes the same search"
        optuna.delete_study(study_name="first", storage=first._storage)
        plan_of("--study", "second", "--from", "first", "--enqueue", "five_conv")
        assert self.enqueued() == before, "without the earlier study too"

    @pytest.mark.slow
    def test_a_trial_that_was_interrupted_is_still_to_do(
        self, plan_of: Callable[..., Plan], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(run_study, "check_before_training", lambda *_: None)  # MLflow has none of these trials
        plan_of("--trials", "2")
        study = StubCoordinator.got.study
        study.tell(study.ask(), 0.5)
        study.ask()
        plan_of("--trials", "2")
        said = capsys.readouterr().out
        assert "2, 1 of them to do" in said
        assert said.count("at the speed just measured") == 2

    @pytest.mark.slow
    def test_the_space_of_the_systems_begins_with_the_systems(
        self, plan_of: Callable[..., Plan], capsys: pytest.CaptureFixture[str]
    ) -> None:
        for _ in range(2):  # a resumed study is not given them again
            assert plan_of("--space", "systems", "--preset", "standard").study == "standard-systems"
            assert self.enqueued() == [comparable(read_recipe(name)) for name in SYSTEMS]
            assert "is tried at width" not in capsys.readouterr().out

    @pytest.mark.slow
    def test_a_space_from_a_file_names_the_study_and_the_recipes_to_try(
        self, plan_of: Callable[..., Plan], tmp_path: Path
    ) -> None:
        (tmp_path / "r.toml").write_text(Recipe(cutout=7, tta=TTA).to_toml())
        space = tmp_path / "mine.toml"
        space.write_text('enqueue = ["five_conv", "./r.toml"]\n' + SPACES["fast"].text)
        plan = plan_of("--space", str(space))
        assert (plan.study, plan.space.name, plan.space.text) == ("quick-mine", "mine", space.read_text())
        assert plan.params()["space_hash"] == plan.space.hash == SPACES["fast"].hash
        assert self.enqueued() == [comparable(read_recipe("five_conv")), Recipe(cutout=7, tta=TTA)]

    @pytest.mark.slow
    def test_recipes_that_are_named_take_the_place_of_the_systems(self, plan_of: Callable[..., Plan]) -> None:
        plan_of("--space", "systems", "--enqueue", "five_conv")
        assert self.enqueued() == [comparable(read_recipe("five_conv"))]

    @pytest.mark.slow
    @pytest.mark.parametrize("option", ["--space", "--enqueue"])
    def test_a_system_shrinks_to_the_budget_of_a_trial(
        self, plan_of: Callable[..., Plan], capsys: pytest.CaptureFixture[str], option: str
    ) -> None:
        plan_of("--preset", "quick", option, "systems")
        tried = {recipe.model: recipe for recipe in self.enqueued()}
        widths = {name: recipe.width for name, recipe in tried.items()}
        assert widths == {**dict.fromkeys(SYSTEMS, 1.0), "dynamic_conv": 0.5}
        assert replace(tried["dynamic_conv"], width=1.0) == comparable(read_recipe("dynamic_conv"))
        lines = [line for line in capsys.readouterr().out.splitlines() if "is tried at" in line]
        assert lines == [
            "dynamic_conv is tried at width 0.5: there the budget of a trial covers 3.41 training steps, not 0.857"
        ]

    @pytest.mark.slow
    def test_a_number_of_epochs_covers_any_width(self, plan_of: Callable[..., Plan]) -> None:
        plan_of("--epochs", "1", "--space", "systems")
        assert {recipe.width for recipe in self.enqueued()} == {1.0}


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_a_signal_is_a_request_and_says_how_to_resume(
    stubs: type[StubCoordinator],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    number: signal.Signals,
    code: int,
) -> None:
    signal.signal(number, signal.SIG_DFL)  # nohup ignores SIGHUP
    stubs.does = lambda coordinator: interrupted(coordinator, number)
    assert main(("--store", str(tmp_path))) == code
    assert capsys.readouterr().out.splitlines()[-1] == "stopped; the same command resumes the sweep"
    stubs.executor.close.assert_called_once_with()


@pytest.mark.usefixtures("stubs")
@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_download(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], stop: signal.Signals
) -> None:
    went_on = []

    def download(directory: Path, progress: object) -> None:
        os.kill(os.getpid(), stop)
        time.sleep(0.05)
        went_on.append(directory)

    monkeypatch.setattr(source, "ensure_cifar10", download)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # shells ignore it for background jobs
    assert main(("--store", str(tmp_path))) == 128 + stop
    assert went_on == []
    assert len(capsys.readouterr().err.splitlines()) <= 1


@pytest.mark.slow
def test_workers_end_also_when_something_breaks(tmp_path: Path, stubs: type[StubCoordinator]) -> None:
    stubs.does = Mock(side_effect=RuntimeError("broken"))
    with pytest.raises(RuntimeError, match="broken"):
        main(("--store", str(tmp_path)))
    stubs.executor.close.assert_called_once_with()


def test_a_stop_is_heard_while_what_an_earlier_command_left_is_sent(
    tmp_path: Path, stubs: type[StubCoordinator], monkeypatch: pytest.MonkeyPatch
) -> None:
    stubs.does = Mock(side_effect=AssertionError("it was stopped"))
    signal.signal(signal.SIGINT, signal.default_int_handler)  # shells ignore it for background jobs
    monkeypatch.setattr(LateTracker, "open", lambda tracker: signal.raise_signal(signal.SIGINT))
    assert main(("--store", str(tmp_path))) == 130
    stubs.executor.close.assert_called_once_with()


@pytest.mark.parametrize(("broken", "code"), [(KeyboardInterrupt, 130), (StudyError("no such database"), 2)])
def test_workers_end_also_when_the_databases_do_not_open(
    tmp_path: Path, stubs: type[StubCoordinator], monkeypatch: pytest.MonkeyPatch, broken: object, code: int
) -> None:
    monkeypatch.setattr(run_study, "open_storage", Mock(side_effect=broken))
    assert main(("--store", str(tmp_path))) == code
    stubs.executor.close.assert_called_once_with()


@pytest.mark.slow
def test_mlflow_that_is_gone_at_the_end_gets_the_rest_later(
    stubs: type[StubCoordinator], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    store = Store.locate(tmp_path / "store")
    monkeypatch.setattr(MlflowTracker, "close", functools.partialmethod(MlflowTracker.close, 0.1))

    def finished(coordinator: StubCoordinator) -> Summary:
        tracker = coordinator.sweep.tracker
        tracker.open_study(STUDY)
        tracker.run_id("study")  # which waits until MLflow has received everything
        vars(tracker)["_sender"]._write = Mock(side_effect=MlflowException("API request failed"))
        tracker.end_study("finished", {"study/seconds": 3.0})
        return Summary(Counter(complete=1), {"study/saved_fraction": 0.0})

    stubs.does = finished
    assert main(("--store", str(store.root), "--study", "s", "--device", "cpu")) == 1
    said = " ".join(capsys.readouterr().out.split())
    assert f"MLflow lacks 1 entry, kept in {store.root}/journals/s; once it answers, this command sends them:" in said
    assert f"python sweeps/run_study.py --study s --store {store.root} --replay" in said
    report = f"python experiments/compare.py --study s --store {store.root}"
    assert f"no report yet; once MLflow has everything, this command writes it: {report}" in said

    again = ("--study", "s", "--store", str(store.root), "--replay")
    assert main(again) == 0
    sending = "sending 1 entry that an earlier command left\n"
    assert capsys.readouterr().out == f"{sending}MLflow has received 1 of 1 entry\n"
    [run] = runs_of(connect(store.tracking_uri), "s")
    assert (run.data.tags["state"], metrics_of(run)["study/seconds"]) == ("finished", 3.0)
    assert main(again) == 0
    assert capsys.readouterr().out == "nothing waits for MLflow in study s\n"
    assert main(("--study", "t", *again[2:])) == 2
    assert (
        "the study must be one that the store holds (s), but got 't'; --study NAME takes another"
        in capsys.readouterr().err
    )


@pytest.mark.slow
def test_a_study_that_only_mlflow_knows_is_refused_before_anything_is_trained(
    stubs: type[StubCoordinator], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stubs.does = Mock(side_effect=AssertionError("nothing may be trained"))
    store = Store.locate(tmp_path / "store")
    store.create()
    tracker = MlflowTracker(store, "s")
    tracker.open_study(STUDY)
    assert tracker.close() == 0
    arguments = ("--study", "s", "--store", str(store.root), "--device", "cpu")
    assert main(arguments) == 2
    assert capsys.readouterr().err == (
        "run_study.py: error: study 's' cannot be trained: Optuna has no study 's', but MLflow has 1 run of it; bring "
        "optuna.db back from a copy, or begin a study of another name with --study\n"
    )
    assert optuna.get_all_study_names(store.storage_url) == []
    for asked in ("--verify", "--repair"):
        assert main((*arguments, asked)) == 1
        assert "Optuna has no study 's'" in capsys.readouterr().out
    connect(store.tracking_uri).delete_experiment(runs_of(connect(store.tracking_uri), "s")[0].info.experiment_id)
    assert main((*arguments, "--repair")) == 1
    assert "done: restore it with its runs" in capsys.readouterr().out.splitlines()


@pytest.mark.slow
@pytest.mark.parametrize("error", [StoreLostError("the disk is full"), StorageInternalError("the disk is full")])
def test_a_store_that_takes_no_more(
    stubs: type[StubCoordinator], tmp_path: Path, capsys: pytest.CaptureFixture[str], error: Exception
) -> None:
    stubs.does = Mock(side_effect=error)
    assert main(("--store", str(tmp_path))) == 1
    assert capsys.readouterr().err == (
        "run_study.py: error: the disk is full; mend that, and the same command resumes the sweep\n"
    )
    stubs.executor.close.assert_called_once_with()


@pytest.mark.usefixtures("stubs")
def test_an_adaptation_sends_the_notice_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = Mock(side_effect=[ADAPTED, Interrupted, OSError("no room")])
    monkeypatch.setattr(options, "load_backbone", lambda wanted: Mock())
    monkeypatch.setattr(run_study, "Adaptation", lambda **_: Mock(run=runs))
    command = f"echo $SWEEP_STATE >> {tmp_path}/said"
    codes = [main(("--adapt-only", "--store", str(tmp_path / "store"), "--notify", command)) for _ in range(3)]
    assert codes == [0, 128, 1]
    assert (tmp_path / "said").read_text().split() == ["finished", "interrupted", "failed"]


@pytest.mark.parametrize(
    ("option", "tested", "code", "state"),
    [([], 0.9, 0, "finished"), ([], None, 1, "failed"), (["--no-confirm"], None, 0, "finished")],
)
def test_a_sweep_that_could_test_nothing_has_failed(
    stubs: type[StubCoordinator],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    option: list[str],
    tested: float | None,
    code: int,
    state: str,
) -> None:
    stubs.does = lambda _: Summary(Counter(complete=1), {"study/saved_fraction": 0.0}, test_accuracy=tested)
    monkeypatch.setattr(run_study, "_report", lambda *_, **__: 0)
    command = f"echo $SWEEP_STATE > {tmp_path}/said"
    assert main((*option, "--store", str(tmp_path / "store"), "--notify", command)) == code
    assert (tmp_path / "said").read_text().strip() == state


def test_what_an_adaptation_alone_finds_in_a_folder_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(options, "load_backbone", lambda wanted: Mock())
    monkeypatch.setattr(run_study, "Adaptation", lambda **_: Mock(run=lambda: ADAPTED))
    folder = write_pictures(tmp_path / "photos", {"rose": 10, "tulip": 20})
    assert main(("--adapt-only", "--images", str(folder), "--store", str(tmp_path / "store"))) == 0
    assert "found 30 pictures of 2 classes (10 to 20 of each): " in capsys.readouterr().out


@pytest.fixture
def adapts(stubs: type[StubCoordinator], monkeypatch: pytest.MonkeyPatch) -> None:
    """A sweep that ends with a tested champion, after which an adaptation may begin."""
    stubs.does = lambda _: Summary(Counter(complete=1), {"study/saved_fraction": 0.0}, test_accuracy=0.9)
    monkeypatch.setattr(options, "load_backbone", lambda wanted: Mock())
    monkeypatch.setattr(run_study, "check_adaptation", Mock())
    monkeypatch.setattr(run_study, "adaptation_settings", Mock())


@pytest.mark.usefixtures("adapts")
def test_a_sweep_whose_adaptation_stops_says_how_to_report_on_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(run_study, "Adaptation", lambda **_: Mock(run=Mock(side_effect=Interrupted)))
    store = tmp_path / "store"
    assert main(("--adapt", "--study", "s", "--store", str(store))) == 128
    said = capsys.readouterr().out
    assert f"report without the adapted network: python experiments/compare.py --study s --store {store}" in said


@pytest.mark.usefixtures("adapts")
def test_an_adaptation_that_cannot_begin_after_its_sweep_sends_a_notice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store.locate(tmp_path / "store")
    store.create()
    command = f"echo $SWEEP_STATE >> {tmp_path}/said"
    with acquire(store.lock("s-adapted"), "s-adapted"):
        assert main(("--adapt", "--study", "s", "--store", str(store.root), "--notify", command)) == 2
    assert (tmp_path / "said").read_text().split() == ["failed"]


@pytest.mark.usefixtures("adapts")
def test_a_sweep_whose_adaptation_fails_says_it_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(run_study, "Adaptation", lambda **_: Mock(run=Mock(side_effect=OSError("no room"))))
    notify = f"echo $SWEEP_STATE $SWEEP_TEST_ACCURACY >> {tmp_path}/said"
    assert main(("--adapt", "--study", "s", "--store", str(tmp_path / "store"), "--notify", notify)) == 1
    assert (tmp_path / "said").read_text().split() == ["failed", "0.9000"]
    said = capsys.readouterr()
    assert "report without the adapted network: python experiments/compare.py --study s" in said.out
    assert "error: no room" in said.err


@pytest.mark.parametrize(
    ("given", "test", "fine_tune"),
    [([], True, True), (["--no-confirm"], False, True), (["--no-fine-tune"], True, False)],
)
@pytest.mark.usefixtures("stubs")
def test_what_an_adaptation_may_do(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    given: list[str],
    test: bool,
    fine_tune: bool,
) -> None:
    made = Mock(return_value=Mock(run=lambda: ADAPTED))
    monkeypatch.setattr(options, "load_backbone", lambda wanted: Mock())
    monkeypatch.setattr(run_study, "Adaptation", made)
    assert main(("--adapt-only", "--preset", "smoke", "--store", str(tmp_path / "store"), *given)) == 0
    assert (made.call_args.kwargs["plan"].confirm, made.call_args.kwargs["fine_tune"]) == (test, fine_tune)
    assert ("Serve the champion: " in capsys.readouterr().out) == test


@pytest.mark.parametrize(("given", "study"), [([], "smoke-full-adapted"), (["--study", "pets"], "pets-adapted")])
@pytest.mark.parametrize(
    ("asked", "answer"), [("--status", "show_status"), ("--verify", "verify_store"), ("--replay", "replay_queue")]
)
def test_what_is_asked_of_an_adaptation_alone_is_about_its_own_study(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, asked: str, answer: str, given: list[str], study: str
) -> None:
    answers = Mock(return_value=0)
    monkeypatch.setattr(run_study, answer, answers)
    assert main(("--adapt-only", "--preset", "smoke", "--store", str(tmp_path), asked, *given)) == 0
    answers.assert_called_once_with(Store.locate(tmp_path), study)


@pytest.mark.parametrize("when", ["before", "within"])
def test_a_stop_before_the_report_is_whole_is_no_failure(
    stubs: type[StubCoordinator],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    when: str,
) -> None:
    def ended(coordinator: StubCoordinator) -> Summary:
        if when == "before":
            with contextlib.suppress(Interrupted):
                interrupted(coordinator)
        return Summary(Counter(complete=1), {"study/saved_fraction": 0.0}, test_accuracy=0.9)

    def report(*_: object, **__: object) -> int:
        assert when == "within"
        signal.raise_signal(signal.SIGINT)
        return 1

    closed = Mock(wraps=MlflowTracker.close)
    monkeypatch.setattr(MlflowTracker, "close", lambda tracker, **named: closed(tracker, **named))
    stubs.does = ended
    monkeypatch.setattr(run_study, "_report", report)
    said = f"echo $SWEEP_STATE $SWEEP_TEST_ACCURACY >> {tmp_path}/said"
    assert main(("--study", "s", "--store", str(tmp_path / "store"), "--notify", said)) == 130
    assert "this command writes its report: python experiments/compare.py --study s" in capsys.readouterr().out
    assert (tmp_path / "said").read_text().split() == ["interrupted", "0.9000"]
    assert closed.call_args.kwargs == {"at_once": when == "before"}, "what MLflow lacks is not waited for"


def test_a_report_that_was_begun_ends_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C reaches the process that writes it too, and would end it with a traceback."""
    command = tmp_path / "experiments" / "compare.py"
    command.parent.mkdir()
    command.write_text(
        "import os, signal, sys\nfor stop in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP): os.kill(os.getpid(), stop)"
    )
    monkeypatch.setattr(run_study, "ROOT", tmp_path)
    monkeypatch.setattr(run_study, "_print_next", Mock())
    assert run_study._report(Mock(study="s"), Store.locate(tmp_path), Mock(), tested=True) == 0


def test_a_second_ctrl_c_ends_a_report_too(tmp_path: Path) -> None:
    script = tmp_path / "experiments" / "compare.py"
    script.parent.mkdir()
    script.write_text(
        "import os, signal, time\n"
        "for _ in range(2): time.sleep(0.2); os.kill(os.getppid(), signal.SIGINT)\n"
        "time.sleep(60)"
    )
    code = (
        "from pathlib import Path; from unittest.mock import Mock; from sweeps import run_study\n"
        f"run_study.ROOT = Path({str(tmp_path)!r}); run_study.Stopper().listen()\n"
        "run_study._report(Mock(study='s'), run_study.Store.locate(run_study.ROOT), Mock(), tested=True)"
    )
    # The pipe ends once the process that writes the report has ended too.
    assert subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, timeout=30).returncode == 130


@pytest.mark.parametrize("arguments", [(), ("--adapt-only",)])
@pytest.mark.parametrize("is_asked", [True, False])
def test_a_database_that_is_away_is_waited_for_until_the_user_stops(
    stubs: type[StubCoordinator],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: Sequence[str],
    *,
    is_asked: bool,
) -> None:
    database, waiting = open_storage(f"sqlite:///{tmp_path}/optuna.db"), dict[str, Any]()

    def away(*_: object) -> Summary:
        waiting["say"]("it is away")
        assert not waiting["stop"]()
        if is_asked:
            signal.raise_signal(signal.SIGINT)
            assert waiting["stop"]()
            if not arguments:
                raise Interrupted
        raise StorageInternalError("say") from OSError("the server has gone away")

    def opened(url: str, **named: Any) -> BaseStorage:
        waiting.update(named)
        return database

    monkeypatch.setattr(run_study, "open_storage", opened)
    monkeypatch.setattr(options, "load_backbone", lambda wanted: Mock())
    monkeypatch.setattr(run_study, "Adaptation", lambda **_: Mock(run=away))
    stubs.does = away
    signal.signal(signal.SIGINT, signal.default_int_handler)  # shells ignore it for background jobs
    assert main((*arguments, "--store", str(tmp_path / "store"))) == (130 if is_asked else 1)
    captured = capsys.readouterr()
    assert "it is away\n" in captured.out
    if is_asked:
        assert captured.out.endswith("stopped; the same command resumes the sweep\n")
    else:
        assert "the server has gone away; mend that, and the same command resumes the sweep" in captured.err


def test_the_end_of_a_sweep_says_how_to_serve_its_champion(
    stubs: type[StubCoordinator], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stubs.does = lambda _: Summary(Counter(complete=1), {"study/saved_fraction": 0.0}, test_accuracy=0.9)
    monkeypatch.setattr(run_study, "subprocess", Mock(**{"Popen.return_value.wait.return_value": 0}))  # the report
    assert main(("--store", str(tmp_path))) == 0
    assert capsys.readouterr().out.endswith(f'Serve the champion: make serve STORE={tmp_path} ARGS="--model cifar10"\n')


def test_a_stop_at_the_end_of_a_sweep_adapts_nothing(
    stubs: type[StubCoordinator], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ended(coordinator: StubCoordinator) -> Summary:
        with contextlib.suppress(Interrupted):
            interrupted(coordinator)
        return Summary(Counter(complete=1), {"study/saved_fraction": 0.0})

    stubs.does = ended
    monkeypatch.setattr(options, "load_backbone", lambda wanted: Mock())
    monkeypatch.setattr(run_study, "Adaptation", Mock(side_effect=AssertionError("it was stopped")))
    assert main(("--adapt", "--store", str(tmp_path / "store"))) == 130


def test_a_folder_of_pictures(
    stubs: type[StubCoordinator],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    refused: Refused,
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = write_pictures(tmp_path / "Blumen & <Co>", {"a|b": 10, "rose": 20})
    arguments = ["--images", str(folder), "--preset", "quick", "--trials", "2", "--store", str(tmp_path / "store")]
    for size, name in (((), "Blumen & <Co>-quick-full"), (("--size", "48"), "Blumen & <Co>-48px-quick-full")):
        assert main([*arguments, *size]) == 130
        plan = stubs.got.plan
        assert (plan.study, plan.data_set.classes, plan.data_set.side) == (name, ("a|b", "rose"), 48 if size else 32)
        assert plan.preset.trial.max_epochs == 4 * PRESETS["quick"].trial.max_epochs
        assert plan.data_set.train_images + plan.data_set.val_images + plan.data_set.test_images == 30
        tags = stubs.got.tags
        assert (tags["data"], tags["data_sha256"]) == ("Blumen & <Co>", plan.data_set.sha256)
    said = capsys.readouterr().out
    assert "found 30 pictures of 2 classes (10 to 20 of each): " in said
    better = "a pretrained network is usually better with fewer than 10,000 pictures to train on: --adapt adapts one"
    assert said.count(better) == 2
    write_pictures(folder, {"rose": 1}, seed=5)
    monkeypatch.setattr(SweepConsole, "progress", lambda *_: None)
    monkeypatch.setattr(source, "ensure_cifar10", Mock(side_effect=AssertionError("CIFAR-10 is not needed")))
    message = refused(*arguments[:-2])
    assert message.startswith("study 'Blumen & <Co>-quick-full' was started with the data Blumen & <Co> (")
    assert message.endswith("), which has other pictures, labels or splits; give it another name with --study")
