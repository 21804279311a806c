"""The command that hears of the end of a sweep."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from unittest.mock import Mock

import pytest

from cifar_core.recipe import Recipe
from sweeps.coordinator import Summary
from sweeps.lock import LockError, StudyRunningError
from sweeps.notice import Notice
from sweeps.stages.confirmation import Confirmed

pytestmark = pytest.mark.usefixtures("settings_of_this_process")


def told(path: Path) -> dict[str, str]:
    return dict(line.split("=", 1) for line in path.read_text().splitlines())


def notice(folder: Path, command: str | None = None) -> Notice:
    return Notice(command or f"env | grep ^SWEEP_ > {folder / 'told'}", "my study", folder)


def test_it_gets_the_result(tmp_path: Path) -> None:
    champion = Confirmed(Recipe(), 7, {"confirm-7-0": 0.9, "confirm-7-1": 0.91}, baseline=None)
    summary = Summary(Counter(), {}, champion=champion, test_accuracy=0.9335, tta_accuracy=0.9412)
    replace(notice(tmp_path), summary=summary).send("finished")
    assert told(tmp_path / "told") == {
        "SWEEP_STATE": "finished",
        "SWEEP_STUDY": "my study",
        "SWEEP_STORE": str(tmp_path),
        "SWEEP_VAL_ACCURACY": "0.9050",
        "SWEEP_TEST_ACCURACY": "0.9335",
        "SWEEP_TTA_ACCURACY": "0.9412",
    }


def test_it_gets_only_what_is_known(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="broken"):
        notice(tmp_path).after(Mock(side_effect=ValueError("broken")))
    assert set(told(tmp_path / "told")) == {"SWEEP_STATE", "SWEEP_STUDY", "SWEEP_STORE"}
    assert told(tmp_path / "told")["SWEEP_STATE"] == "failed"


@pytest.mark.parametrize(("code", "state"), [(0, "finished"), (1, "failed"), (130, "interrupted")])
def test_the_exit_code_decides_the_state(tmp_path: Path, code: int, state: str) -> None:
    assert notice(tmp_path).after(lambda: code) == code
    assert told(tmp_path / "told")["SWEEP_STATE"] == state


def test_it_hears_nothing_of_what_did_not_start(tmp_path: Path) -> None:
    with pytest.raises(StudyRunningError):
        notice(tmp_path).after(Mock(side_effect=StudyRunningError("it is being run")))
    Notice(None, "s", tmp_path).send("finished")
    assert not (tmp_path / "told").exists()


def test_it_hears_of_another_lock_and_of_what_fails_after_the_sweep(tmp_path: Path) -> None:
    after = notice(tmp_path)
    after.summary = Summary(Counter(complete=1), {})
    for sent, error in ((notice(tmp_path), LockError), (after, StudyRunningError)):
        with pytest.raises(error):
            sent.after(Mock(side_effect=error("locked")))
        assert told(tmp_path / "told")["SWEEP_STATE"] == "failed"
        (tmp_path / "told").unlink()


def test_a_command_that_fails_is_one_line(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    notice(tmp_path, "exit 3").send("interrupted")
    assert capfd.readouterr().err == "the command of --notify ended with exit code 3: exit 3\n"


@pytest.mark.parametrize("stop", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_what_waits_for_the_command(tmp_path: Path, stop: signal.Signals) -> None:
    code = (
        "from pathlib import Path; from sweeps.command_line import Stopper; from sweeps.notice import Notice;"
        f"Stopper().listen(); Notice('kill -{stop:d} $PPID; sleep 1', 's', Path()).send('finished')"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=tmp_path, timeout=60).returncode == -stop
