"""The whole command on a folder of pictures of all kinds: study, champion, test, report and prediction."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from unittest.mock import Mock

import pytest

from experiments import predict
from sweeps import run_study
from sweeps.executors import engine
from sweeps.tracking.figures import metrics_of
from sweeps.tracking.mlflow_client import connect, runs_of
from tests.pictures import write_broken, write_oddities, write_pictures

ROOT = Path(__file__).parents[1]
NAMES = ("a|b <i>", "rose", "Weiß & \"c'% 100")
SPACE = """
description = "one small network"

[[hold]]
model = "fast_resnet"
width = 0.125
label_smoothing = 0.2

[parameters.learning_rate_multiple]
low = 0.5
high = 2.0
log = true
start = 1.0

[parameters.batch_size]
choices = [16, 32]
start = 16
"""


def options(folder: Path, *more: str) -> list[str]:
    (folder / "space.toml").write_text(SPACE)
    arguments = ["--trials", "3", "--space", str(folder / "space.toml"), "--epochs", "2", "--device", "cpu"]
    return [*arguments, "--images", str(folder / "Blumen & Co"), "--store", str(folder / "store"), *more]


def run(arguments: list[str]) -> str:
    command = [sys.executable, "sweeps/run_study.py", *arguments]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=400)
    assert done.returncode == 0, done.stdout
    assert "Traceback" not in done.stdout
    assert "Warning" not in done.stdout
    return done.stdout


def refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    assert run_study.main(arguments) == 2
    return capsys.readouterr().err.splitlines()[-1]


@pytest.mark.long
@pytest.mark.usefixtures("settings_of_this_process")
@pytest.mark.timeout(900)
def test_a_folder_of_pictures_of_all_kinds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = write_pictures(tmp_path / "Blumen & Co", dict(zip(NAMES, (60, 30, 12), strict=True)))
    write_oddities(folder / NAMES[0])
    write_broken(folder / NAMES[1])
    assert refused(options(tmp_path), capsys).startswith(
        "run_study.py: error: 4 of 115 files are no readable pictures: "
    )
    assert not (tmp_path / "store").exists()

    said = run(options(tmp_path, "--skip-unreadable"))
    assert "found 111 pictures of 3 classes (12 to 69 of each): " in said
    assert "4 of 115 files are left out, as they are no readable pictures" in said
    assert "Trained on all images it has " in said
    study = "Blumen & Co-epochs-2-space"
    looks = tmp_path / "store" / "test_looks.jsonl"
    [look] = looks.read_text().splitlines()
    assert json.loads(look)["study"] == study
    client = connect(f"sqlite:///{tmp_path}/store/mlflow.db")
    runs = {each.data.tags["key"]: each for each in runs_of(client, study)}
    champion = next(each for key, each in runs.items() if key.startswith("final-"))
    assert {name for name in metrics_of(champion) if name.startswith("test_class/")} == {
        "test_class/a_b _i_", "test_class/rose", "test_class/Weiß _ _c__ 100"
    }  # fmt: skip
    assert 0 < champion.data.metrics["test/balanced_accuracy"] <= 1
    assert champion.inputs is not None
    assert champion.inputs.dataset_inputs[0].dataset.name == "Blumen & Co"
    [report] = (tmp_path / "store" / "reports").glob("*/report.md")
    text = report.read_text(encoding="utf-8")
    assert "an image classifier for Blumen & Co" in text
    assert r"a\|b &lt;i>" in text
    assert "the balanced accuracy, the mean over the classes, is " in text
    assert "CIFAR" not in text

    with monkeypatch.context() as without:  # a worker that trains, and another report
        without.setattr(engine, "LocalExecutor", Mock)
        without.setattr(run_study, "_report", lambda plan, store, tracker, tested: 0)
        assert run_study.main(options(tmp_path, "--skip-unreadable")) == 0
    assert f"Nothing is left to do: study {study} has its 3 trials" in capsys.readouterr().out
    assert looks.read_text().splitlines() == [look]
    assert len(runs_of(client, study)) == len(runs)
    pictures = [str(path) for path in sorted((folder / NAMES[2]).iterdir())[:3]]
    store = ["--store", str(tmp_path / "store")]
    assert predict.main([champion.info.run_id, *pictures, *store]) == 0
    assert f"It knows only these classes: {', '.join(sorted(NAMES))}." in capsys.readouterr().out

    write_pictures(folder, {NAMES[1]: 1}, seed=9)
    assert refused(options(tmp_path, "--skip-unreadable"), capsys).startswith(
        f"run_study.py: error: study '{study}' was started with the data Blumen & Co ("
    )
