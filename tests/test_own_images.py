"""The whole command on a folder of pictures of all kinds: study, champion, test, report and prediction."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

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


def command(folder: Path, *options: str) -> list[str]:
    (folder / "space.toml").write_text(SPACE)
    arguments = ["--trials", "3", "--space", str(folder / "space.toml"), "--epochs", "2", "--device", "cpu"]
    arguments += ["--images", str(folder / "Blumen & Co"), "--store", str(folder / "store"), *options]
    return [sys.executable, "sweeps/run_study.py", *arguments]


def run(folder: Path, arguments: list[str], code: int = 0) -> str:
    done = subprocess.run(
        arguments,
        cwd=ROOT,
        env={**os.environ, "XDG_CACHE_HOME": str(folder / "cache")},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=400,
    )
    assert done.returncode == code, done.stdout
    assert "Traceback" not in done.stdout
    assert "Warning" not in done.stdout
    return done.stdout


@pytest.mark.long
@pytest.mark.timeout(900)
def test_a_folder_of_pictures_of_all_kinds(tmp_path: Path) -> None:
    folder = write_pictures(tmp_path / "Blumen & Co", dict(zip(NAMES, (60, 30, 12), strict=True)))
    write_oddities(folder / NAMES[0])
    write_broken(folder / NAMES[1])
    refused = run(tmp_path, command(tmp_path), 2).splitlines()[-1]
    assert refused.startswith("run_study.py: error: 4 of 115 files are no readable pictures: ")
    assert not (tmp_path / "store").exists()

    said = run(tmp_path, command(tmp_path, "--skip-unreadable"))
    assert "found 111 pictures of 3 classes (12 to 69 of each): " in said
    assert "4 of 115 files are left out, as they are no readable pictures" in said
    assert "Trained on all images it has " in said
    study = "Blumen & Co-epochs-2-space"
    looks = [json.loads(line) for line in (tmp_path / "store" / "test_looks.jsonl").read_text().splitlines()]
    assert [look["study"] for look in looks] == [study]
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

    again = run(tmp_path, command(tmp_path, "--skip-unreadable"))
    assert f"Nothing is left to do: study {study} has its 3 trials" in again
    pictures = [str(path) for path in sorted((folder / NAMES[2]).iterdir())[:3]]
    store = ["--store", str(tmp_path / "store")]
    answers = run(tmp_path, [sys.executable, "experiments/predict.py", champion.info.run_id, *pictures, *store])
    assert f"It knows only these classes: {', '.join(sorted(NAMES))}." in answers

    write_pictures(folder, {NAMES[1]: 1}, seed=9)
    refused = run(tmp_path, command(tmp_path, "--skip-unreadable"), 2).splitlines()[-1]
    assert refused.startswith(f"run_study.py: error: study '{study}' was started with the data Blumen & Co (")
