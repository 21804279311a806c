"""The command line: what it makes of its arguments, and one line for those that cannot be."""

from __future__ import annotations

import functools
import os
import re
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import optuna
import pytest
import torch
from mlflow.exceptions import MlflowException

from cifar_core.budget import Budget
from cifar_core.recipe import Recipe
from cifar_core.recipes import SYSTEMS, read_recipe
from sweeps import run_study
from sweeps.coordinator import Interrupted, StoreLostError, Summary
from sweeps.planning.plan import Plan
from sweeps.planning.presets import PRESETS
from sweeps.planning.search_space import SPACES, comparable
from sweeps.run_study import build_parser, main
from sweeps.stage import Sweep
from sweeps.store import Store
from sweeps.tracking.mlflow_client import connect, runs_of
from sweeps.tracking.mlflow_queue import Entry
from sweeps.tracking.tracker import MlflowTracker
from tests.sweeps.small_data import small_splits
from tests.sweeps.support import STUDY

CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@pytest.fixture(autouse=True)
def settings_of_this_process() -> Iterator[None]:
    """Signal handlers and threads, which the command takes over, are given back."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)
    for number, handler in handlers.items():
        signal.signal(number, handler)


@pytest.fixture(autouse=True)
def untouched(monkeypatch: pytest.MonkeyPatch) -> None:
    """Arguments that cannot be must be found before data are fetched or workers started."""

    def too_late(*_: object, **__: object) -> None:
        raise AssertionError("this was to be refused before")

    for name in ("ensure_cifar10", "load_train_val", "LocalExecutor"):
        monkeypatch.setattr(run_study, name, too_late)
    monkeypatch.setattr(run_study, "measure_speed", lambda recipe, hardware: 1e12)


class StubExecutor:
    closed = 0

    def __init__(self, **_: object) -> None:
        pass

    def close(self) -> None:
        StubExecutor.closed += 1


class StubCoordinator:
    """Takes note of what it gets, and does what a test says in place of a sweep."""

    got: Sweep
    does: Callable[[StubCoordinator], Summary]

    def __init__(self, sweep: Sweep, executor: object, samples: bytes, stop: Callable[[], bool]) -> None:
        self.sweep, self.stop = sweep, stop
        StubCoordinator.got = sweep

    def run(self) -> Summary:
        return StubCoordinator.does(self)


def interrupted(coordinator: StubCoordinator, number: signal.Signals = signal.SIGINT) -> Summary:
    assert not coordinator.stop()
    os.kill(os.getpid(), number)
    while not coordinator.stop():
        time.sleep(0.01)
    raise Interrupted


@pytest.fixture
def stubs(monkeypatch: pytest.MonkeyPatch) -> type[StubCoordinator]:
    """The command with everything that takes time left out; a sweep is interrupted at once."""
    data = small_splits(20, 10)
    monkeypatch.setattr(run_study, "ensure_cifar10", lambda directory, progress: None)
    monkeypatch.setattr(run_study, "load_train_val", lambda directory: data)
    monkeypatch.setattr(run_study, "LocalExecutor", StubExecutor)
    monkeypatch.setattr(run_study, "Coordinator", StubCoordinator)
    monkeypatch.setattr(StubExecutor, "closed", 0)
    StubCoordinator.does = interrupted
    return StubCoordinator


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """What is said of arguments that must give exit code 2 and one line on standard error."""
    try:
        code: object = main(arguments)
    except SystemExit as ended:
        code = ended.code
    said = capsys.readouterr()
    assert code == 2, said
    assert said.out == ""
    [line] = said.err.splitlines()
    assert line.startswith("run_study.py: error: ")
    return line.removeprefix("run_study.py: error: ").removesuffix(" (--help lists the options)")


class TestArgumentsThatCannotBe:
    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ("--trials 0", "argument --trials: must be a whole number of at least 1, but got '0'"),
            ("--trials -3", "argument --trials: must be a whole number of at least 1, but got '-3'"),
            ("--trials x", "argument --trials: must be a whole number of at least 1, but got 'x'"),
            ("--trials 2.5", "argument --trials: must be a whole number of at least 1, but got '2.5'"),
            ("--workers 0", "argument --workers: must be a whole number of at least 1, but got '0'"),
            ("--timeout inf", "argument --timeout: must be a number above 0, but got 'inf'"),
            ("--seed -1", "argument --seed: must be a whole number in [0, 2**32), but got '-1'"),
            ("--seed 4294967296", "argument --seed: must be a whole number in [0, 2**32), but got '4294967296'"),
            ("--preset smoke --epochs 2", "argument --epochs: not allowed with argument --preset"),
            ("--nonsense", "unrecognized arguments: --nonsense"),
            ("--study a/b", "--study must be a name without slashes that does not begin with a dot, but got 'a/b'"),
            ("--study ..", "--study must be a name without slashes that does not begin with a dot, but got '..'"),
        ],
    )
    def test_the_rule_and_the_value(
        self, capsys: pytest.CaptureFixture[str], tmp_path: Path, arguments: str, message: str
    ) -> None:
        store = tmp_path / "store"
        assert refused(capsys, "--store", str(store), *arguments.split()) == message
        assert not store.exists(), "nothing is written"

    @pytest.mark.parametrize("option", ["preset", "space", "sampler", "pruner", "device"])
    def test_an_unknown_name_and_those_that_there_are(
        self, capsys: pytest.CaptureFixture[str], tmp_path: Path, option: str
    ) -> None:
        said = refused(capsys, "--store", str(tmp_path / "store"), f"--{option}", "nope")
        names = {
            "preset": "smoke, quick, standard, thorough",
            "space": "fast, full, systems",
            "sampler": "random, tpe",
            "pruner": "halving, hyperband, median, none",
            "device": "auto, cpu, cuda, mps",
        }
        # Newer versions of Python leave out the quotes.
        assert said.replace("'", "") == f"argument --{option}: invalid choice: nope (choose from {names[option]})"
        assert not (tmp_path / "store").exists()

    @pytest.mark.parametrize("name", ["", " "])
    def test_a_study_without_a_name(self, capsys: pytest.CaptureFixture[str], name: str) -> None:
        assert refused(capsys, "--study", name).endswith(f"but got {name!r}")

    def test_a_study_whose_name_no_folder_can_have(self, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
        said = refused(capsys, "--store", str(tmp_path / "store"), "--study", "ü" * 100)
        assert said.startswith("--study must be ")
        assert not (tmp_path / "store").exists()

    @pytest.mark.parametrize("epochs", ["0", "-1", "nan", "20000", "x"])
    def test_more_or_fewer_epochs_than_a_recipe_may_have(
        self, capsys: pytest.CaptureFixture[str], tmp_path: Path, epochs: str
    ) -> None:
        said = refused(capsys, "--store", str(tmp_path / "store"), "--epochs", epochs)
        assert re.fullmatch(
            rf"argument --epochs: must be a number above 0( and at most 10000)?, but got '{epochs}'", said
        )
        assert not (tmp_path / "store").exists()

    @pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
    def test_a_device_that_is_not_there(self, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
        said = refused(capsys, "--store", str(tmp_path / "store"), "--device", "cuda")
        assert re.fullmatch(r"device 'cuda' is not on this machine; it has (mps, )?cpu", said)
        assert not (tmp_path / "store").exists()


class TestRecipesThatCannotBe:
    def refused(self, capsys: pytest.CaptureFixture[str], tmp_path: Path, content: str, *more: str) -> str:
        recipe, store = tmp_path / "r.toml", tmp_path / "store"
        recipe.write_text(content)
        said = refused(capsys, "--store", str(store), "--enqueue", str(recipe), *more)
        assert not store.exists()
        return said.removeprefix(f"{recipe}: ")

    def test_an_unknown_field(self, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
        said = self.refused(capsys, tmp_path, "learning_rat = 0.1")
        assert said == "unknown recipe field 'learning_rat': did you mean 'learning_rate'?"

    def test_more_than_the_budget_covers(self, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
        said = self.refused(capsys, tmp_path, "batch_size = 50000\nwidth = 2.0", "--preset", "smoke")
        assert re.fullmatch(
            r"a budget must cover two training steps, but 3e\+12 FLOPs cover \d\.\d\d of fast_resnet "
            r"at batch size 50000",
            said,
        )

    @pytest.mark.parametrize("names", [("dynamic_conv",), ("systems", "dynamic_conv")])
    def test_a_system_by_its_own_name_does_not_shrink_to_the_budget(
        self, capsys: pytest.CaptureFixture[str], tmp_path: Path, names: tuple[str, ...]
    ) -> None:
        store = tmp_path / "store"
        arguments = ("--device", "cpu", "--space", "systems", "--enqueue", *names)
        assert refused(capsys, "--store", str(store), *arguments) == (
            "a budget must cover two training steps, but 1.1e+13 FLOPs cover 1.57 of dynamic_conv at batch size 128"
        )
        assert not store.exists()

    def test_a_group_with_a_system_that_is_too_dear_even_when_narrow(
        self, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        tiny = replace(PRESETS["smoke"], trial=Budget(flops=1e11, max_epochs=1))
        monkeypatch.setattr(run_study, "PRESETS", {**PRESETS, "smoke": tiny})
        said = refused(capsys, "--store", str(tmp_path / "store"), "--preset", "smoke", "--enqueue", "systems")
        assert said == (
            "a budget must cover two training steps, but 1e+11 FLOPs cover 0.88 of dynamic_conv at batch size 128"
        )


class TestStoresThatCannotBe:
    def test_a_file(self, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
        (tmp_path / "file").write_text("mine")
        said = refused(capsys, "--store", str(tmp_path / "file"))
        assert said.startswith(f"the store {tmp_path}/file must be a folder to write to, but: ")
        assert (tmp_path / "file").read_text() == "mine"

    @pytest.mark.usefixtures("stubs")
    def test_a_study_that_was_started_otherwise(self, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
        arguments = ("--store", str(tmp_path), "--study", "s")
        assert main((*arguments, "--preset", "smoke")) == 130
        capsys.readouterr()
        assert refused(capsys, *arguments, "--preset", "quick") == (
            "study 's' was started with preset smoke, but got preset quick; give it another name with --study"
        )
        assert len(optuna.get_all_study_names(f"sqlite:///{tmp_path}/optuna.db")) == 1

    @pytest.mark.usefixtures("stubs")
    def test_no_storage(self, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
        said = refused(capsys, "--store", str(tmp_path / "store"), "--storage", "nonsense")
        assert said.startswith("the Optuna storage must open, but nonsense gave: ")
        assert not (tmp_path / "store").exists()

    def test_the_database_of_mlflow_as_storage(self, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
        MlflowTracker(Store.locate(tmp_path), "s").open()
        url = f"sqlite:///{tmp_path}/mlflow.db"
        for look in ((), ("--status",)):
            said = refused(capsys, "--store", str(tmp_path), "--study", "s", "--storage", url, *look)
            assert said.startswith(f"the Optuna storage must open, but {url} gave: ")

    @pytest.mark.usefixtures("stubs")
    @pytest.mark.parametrize("uri", ["nonsense", "gopher://x"])
    def test_no_tracking_store(self, capsys: pytest.CaptureFixture[str], tmp_path: Path, uri: str) -> None:
        said = refused(capsys, "--store", str(tmp_path / "store"), "--tracking-uri", uri)
        assert said.startswith(f"the MLflow store must answer, but {uri} gave: ")
        assert not (tmp_path / "store").exists()


class TestHelp:
    def test_help_mentions_every_option_with_its_meaning(self, capsys: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(SystemExit) as ended:
            main(["--help"])
        assert ended.value.code == 0
        said = capsys.readouterr().out
        options = [option for action in build_parser()._actions for option in action.option_strings]
        expected = (
            "--trials --space --preset --epochs --seed --sampler --pruner --enqueue --timeout --no-confirm --device "
            "--workers --data --study --store --keep-weights --tracking-uri --storage --status --verify --replay"
        )
        assert set(expected.split()) <= set(options)
        assert all(re.search(rf"^  (-h, )?{option}\b", said, re.MULTILINE) for option in options if option != "-h")
        assert all(action.help for action in build_parser()._actions)
        assert all(len(line) <= 80 for line in said.splitlines())


class TestPlanOfTheArguments:
    @pytest.fixture(autouse=True)
    def _store(self, empty_store: Callable[[Path], Store], tmp_path: Path) -> None:
        empty_store(tmp_path / "store")

    def plan(self, stubs: type[StubCoordinator], tmp_path: Path, *arguments: str) -> Plan:
        assert main(("--store", str(tmp_path / "store"), "--device", "cpu", *arguments)) == 130
        return stubs.got.plan

    def test_defaults(self, stubs: type[StubCoordinator], tmp_path: Path) -> None:
        plan = self.plan(stubs, tmp_path)
        assert (plan.trials, plan.study, plan.preset_name, plan.space_name) == (50, "quick-full", "quick", "full")
        assert (plan.workers, plan.threads) == (CORES, 1)
        assert (plan.sampler, plan.pruner, plan.seed) == ("tpe", "halving", 0)
        assert plan.confirm
        assert plan.timeout is None
        assert not plan.keep_weights

    def test_all_of_it_otherwise(self, stubs: type[StubCoordinator], tmp_path: Path) -> None:
        search = "--trials 7 --space fast --epochs 2.5 --seed 3 --sampler random --pruner median"
        more = "--timeout 60 --no-confirm --workers 1 --keep-weights"
        plan = self.plan(stubs, tmp_path, *search.split(), *more.split())
        assert (plan.trials, plan.study, plan.space) == (7, "epochs-2.5-fast-seed3", SPACES["fast"])
        assert plan.preset.trial.max_epochs == plan.preset.confirm.max_epochs == 2.5
        assert (plan.sampler, plan.pruner, plan.seed, plan.timeout) == ("random", "median", 3, 60.0)
        assert (plan.workers, plan.threads) == (1, CORES)
        assert not plan.confirm
        assert plan.keep_weights

    def test_recipes_are_enqueued_exactly(self, stubs: type[StubCoordinator], tmp_path: Path) -> None:
        recipes = [Recipe(model="five_conv", learning_rate=0.1 + 0.2), Recipe(cutout=7)]
        paths = []
        for number, recipe in enumerate(recipes):
            paths.append(str(tmp_path / f"{number}.toml"))
            Path(paths[-1]).write_text(recipe.to_toml())
        self.plan(stubs, tmp_path, "--enqueue", *paths, "--seed", "1")
        assert self.enqueued(stubs) == recipes

    def enqueued(self, stubs: type[StubCoordinator]) -> list[Recipe]:
        asked = [trial.user_attrs.get("enqueued_recipe") for trial in stubs.got.study.trials]
        return [Recipe.from_dict(values) for values in asked if values]

    def test_the_space_of_the_systems_begins_with_the_systems(
        self, stubs: type[StubCoordinator], tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        arguments = ("--space", "systems", "--preset", "standard")
        for _ in range(2):  # a study that goes on is not given them again
            plan = self.plan(stubs, tmp_path, *arguments)
            assert plan.study == "standard-systems"
            assert self.enqueued(stubs) == [comparable(read_recipe(name)) for name in SYSTEMS]
            assert "is tried at width" not in capsys.readouterr().out

    def test_recipes_that_are_named_take_the_place_of_the_systems(
        self, stubs: type[StubCoordinator], tmp_path: Path
    ) -> None:
        self.plan(stubs, tmp_path, "--space", "systems", "--enqueue", "five_conv")
        assert self.enqueued(stubs) == [comparable(read_recipe("five_conv"))]

    def test_other_spaces_begin_without_them(self, stubs: type[StubCoordinator], tmp_path: Path) -> None:
        self.plan(stubs, tmp_path)
        assert self.enqueued(stubs) == []

    @pytest.mark.parametrize("arguments", [("--space", "systems"), ("--enqueue", "systems")])
    def test_a_system_shrinks_to_the_budget_of_a_trial(
        self,
        stubs: type[StubCoordinator],
        tmp_path: Path,
        capsys: pytest.CaptureFixture[str],
        arguments: tuple[str, ...],
    ) -> None:
        self.plan(stubs, tmp_path, "--preset", "quick", *arguments)
        tried = {recipe.model: recipe for recipe in self.enqueued(stubs)}
        assert {name: recipe.width for name, recipe in tried.items()} == {
            name: 0.5 if name == "dynamic_conv" else 1.0 for name in SYSTEMS
        }
        assert replace(tried["dynamic_conv"], width=1.0) == comparable(read_recipe("dynamic_conv"))
        lines = [line for line in capsys.readouterr().out.splitlines() if "is tried at" in line]
        assert lines == [
            "dynamic_conv is tried at width 0.5: the budget of a trial covers 1.57 training steps at width 1, but 6.25 "
            "at this one"
        ]

    def test_a_number_of_epochs_covers_any_width(self, stubs: type[StubCoordinator], tmp_path: Path) -> None:
        self.plan(stubs, tmp_path, "--epochs", "1", "--space", "systems")
        assert {recipe.width for recipe in self.enqueued(stubs)} == {1.0}

    def test_runs_are_tagged_with_what_decides_their_bits(self, stubs: type[StubCoordinator], tmp_path: Path) -> None:
        self.plan(stubs, tmp_path)
        tags = stubs.got.tags
        assert tags["threads"] == "1"
        assert tags["device"] == "cpu"
        assert tags["torch"] == torch.__version__
        assert len(tags["data_sha256"]) == 64
        assert re.fullmatch(r"[0-9a-f]{40}(-dirty)?|unknown", tags["git_commit"])
        assert all(tags.values())


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_is_a_request_and_says_how_to_resume(
    stubs: type[StubCoordinator],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    number: signal.Signals,
    code: int,
) -> None:
    stubs.does = lambda coordinator: interrupted(coordinator, number)
    assert main(("--store", str(tmp_path))) == code
    assert capsys.readouterr().out.splitlines()[-1] == "stopped; the same command resumes the sweep"
    assert StubExecutor.closed == 1


@pytest.mark.usefixtures("stubs")
def test_ctrl_c_ends_a_download(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    went_on = []

    def download(directory: Path, progress: object) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.05)
        went_on.append(directory)

    monkeypatch.setattr(run_study, "ensure_cifar10", download)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # shells ignore it for background jobs
    try:
        assert main(("--store", str(tmp_path))) == 130
    finally:
        signal.signal(signal.SIGINT, before)
    assert went_on == []
    assert len(capsys.readouterr().err.splitlines()) <= 1


@pytest.mark.usefixtures("stubs")
def test_workers_end_also_when_something_breaks(tmp_path: Path, stubs: type[StubCoordinator]) -> None:
    def broken(coordinator: StubCoordinator) -> Summary:
        raise RuntimeError("broken")

    stubs.does = broken
    with pytest.raises(RuntimeError, match="broken"):
        main(("--store", str(tmp_path)))
    assert StubExecutor.closed == 1


def deaf(entries: Sequence[Entry]) -> None:
    raise MlflowException("API request failed")


def lacking(stubs: type[StubCoordinator], store: Store, monkeypatch: pytest.MonkeyPatch) -> int:
    """Exit code of a sweep that MLflow stops listening to."""
    monkeypatch.setattr(MlflowTracker, "close", functools.partialmethod(MlflowTracker.close, 0.1, 0.1))

    def finished(coordinator: StubCoordinator) -> Summary:
        tracker = coordinator.sweep.tracker
        tracker.open_study(STUDY)
        tracker.run_id("study")  # which waits until MLflow has got everything
        vars(tracker)["_sender"]._write = deaf
        tracker.end_study("finished", {"study/seconds": 3.0})
        return Summary(complete=1)

    stubs.does = finished
    return main(("--store", str(store.root), "--study", "s", "--device", "cpu"))


def test_mlflow_that_is_gone_at_the_end_gets_the_rest_later(
    stubs: type[StubCoordinator], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    store = Store.locate(tmp_path / "store")
    assert lacking(stubs, store, monkeypatch) == 1
    said = " ".join(capsys.readouterr().out.split())
    assert f"MLflow lacks 1 entry, kept in {store.root}/journals/s; once it answers, this command sends them:" in said
    assert f"python sweeps/run_study.py --study s --store {store.root} --replay" in said

    again = ("--study", "s", "--store", str(store.root), "--replay")
    assert main(again) == 0
    assert capsys.readouterr().out == "MLflow has received 1 of 1 entry\n"
    [run] = runs_of(connect(store.tracking_uri), "s")
    assert (run.data.tags["state"], run.data.metrics["study/seconds"]) == ("finished", 3.0)
    assert main(again) == 0
    assert capsys.readouterr().out == "nothing waits for MLflow in study s\n"
    assert main(("--study", "t", *again[2:])) == 2
    assert "--study must be one that the store holds (s), but got 't'" in capsys.readouterr().err


def test_a_store_that_takes_no_more(
    stubs: type[StubCoordinator], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(coordinator: StubCoordinator) -> Summary:
        raise StoreLostError("the disk is full")

    stubs.does = full
    assert main(("--store", str(tmp_path))) == 1
    assert capsys.readouterr().err == (
        "run_study.py: error: the disk is full; mend that, and the same command resumes the sweep\n"
    )
    assert StubExecutor.closed == 1
