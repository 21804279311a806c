"""The command line of reproduce.py; tests/experiments/systems/test_training.py runs it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from cifar_core.recipe import Recipe
from cifar_core.recipes import NAMES
from experiments import reproduce
from sweeps.lock import acquire
from sweeps.store import Store
from tests.conftest import Refused


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("three_convs", "unknown recipe 'three_convs': did you mean 'three_conv'?"),
        ("three_conv five_kon", "unknown recipe 'five_kon': did you mean 'five_conv'?"),
        ("three_conv --epochs 0", "argument --epochs: must be a number above 0 and at most 10000, but got '0'"),
        ("three_conv --epochs nan", "argument --epochs: must be a number above 0 and at most 10000, but got 'nan'"),
        ("three_conv --seeds 0", "argument --seeds: must be a whole number of at least 1, but got '0'"),
        ("all three_conv.toml", "recipes must have different names, but 'three_conv' was given twice"),
        ("three_conv --results file", "--results must be a folder to write to, but: [Errno 17] File exists: 'file'"),
        ("", "the following arguments are required: NAME"),
    ],
)
def test_wrong_arguments_get_the_rule_and_the_value(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refused: Refused, arguments: str, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("three_conv.toml").write_text(Recipe().to_toml())
    Path("file").write_text("mine")
    folders = ("--store", "store", "--results", "results", "--device", "cpu")
    assert refused(reproduce.main, *folders, *arguments.split()) == message
    assert {path.name for path in tmp_path.iterdir()} - {"store"} == {"file", "three_conv.toml"}
    assert not Path("store").exists() or "--results" in arguments, "nothing is written"
    assert Path("file").read_text() == "mine"


def test_another_reproduction_in_the_store(tmp_path: Path, refused: Refused) -> None:
    store = Store.locate(tmp_path / "store")
    with acquire(store.lock("systems"), "systems"):
        folders = ("--store", str(store.root), "--results", str(tmp_path), "--device", "cpu")
        said = refused(reproduce.main, *folders, "three_conv")
    assert said.startswith(f"study 'systems' is being run by process {os.getpid()} on ")


def test_help_names_the_recipes_and_every_option(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        reproduce.main(["--help"])
    assert ended.value.code == 0
    said = " ".join(capsys.readouterr().out.split())
    assert f"{', '.join(NAMES)}, a TOML file, or all: the published ones" in said
    assert all(action.help for action in reproduce.build_parser()._actions)
