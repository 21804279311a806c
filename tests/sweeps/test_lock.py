"""Locks of studies and of databases, however their holders end."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from sweeps.lock import LockError, acquire, creation_lock, exclude_runs, holder

HOLDER = """
import sys, time
from pathlib import Path
from sweeps.lock import acquire, exclude_runs
with {"run": acquire, "check": exclude_runs}[sys.argv[2]](Path(sys.argv[1]), "s"):
    print("held", flush=True)
    time.sleep(50)
"""
UNUSABLE = "a store must have lock files that can be opened and locked, but {} gave: {}"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "locks" / "s.lock"


@contextlib.contextmanager
def holding(path: Path, what: str) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", HOLDER, str(path), what]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


@pytest.fixture
def other(path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that runs the study."""
    with holding(path, "run") as process:
        yield process


@pytest.mark.parametrize("number", [signal.SIGCONT, signal.SIGSTOP])
def test_a_second_one_is_told_who_holds_it(path: Path, other: subprocess.Popen[str], number: signal.Signals) -> None:
    other.send_signal(number)  # one that is stopped still holds it
    with pytest.raises(LockError) as error, acquire(path, "s"):
        pass
    who = rf"process {other.pid} on {re.escape(socket.gethostname())} since \d{{4}}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00"
    assert re.fullmatch(rf"study 's' is being run by {who}; wait for it, or stop it", str(error.value))
    assert re.fullmatch(who, holder(path) or "")


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_one_that_died_is_taken_over_at_once(path: Path, other: subprocess.Popen[str], number: signal.Signals) -> None:
    other.send_signal(number)
    other.wait()
    assert holder(path) is None
    with acquire(path, "s"):
        assert (holder(path) or "").startswith(f"process {os.getpid()} on ")


def test_it_can_be_acquired_again_and_again(path: Path) -> None:
    for _ in range(3):
        with acquire(path, "s"), pytest.raises(LockError), acquire(path, "s"):
            pass
    assert holder(path) is None


def test_nobody_holds_what_was_never_held(path: Path) -> None:
    assert holder(path) is None
    assert not path.exists()


def test_a_check_and_a_run_exclude_each_other(path: Path, other: subprocess.Popen[str]) -> None:
    run_by = rf"^study 's' is being run by process {other.pid} on .*; try again once that has ended$"
    with pytest.raises(LockError, match=run_by), exclude_runs(path, "s"):
        pass
    other.kill()
    other.wait()
    with holding(path, "check"), exclude_runs(path, "s"):
        assert holder(path) is None
        checked = "^study 's' is being checked by another process; wait for it, or stop it$"
        with pytest.raises(LockError, match=checked), acquire(path, "s"):
            pass


def test_a_look_at_the_lock_refuses_nobody(path: Path, tmp_path: Path) -> None:
    with acquire(path, "s"):
        pass
    look = "import sys, time; from sweeps.lock import exclude_runs; from pathlib import Path\n"
    look += "with exclude_runs(Path(sys.argv[1]), 's'): print('held', flush=True); time.sleep(0.3)"
    with subprocess.Popen([sys.executable, "-c", look, str(path)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        with acquire(path, "s"):
            pass


def test_a_check_of_a_study_that_never_ran_writes_nothing(path: Path) -> None:
    with exclude_runs(path, "s"):
        pass
    assert not path.parent.exists()


def test_a_file_system_without_locks(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with acquire(path, "s"):
        pass

    def refuse(file: object, operation: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", refuse)
    uses = (
        (acquire(path, "s"), path),
        (exclude_runs(path, "s"), path),
        (creation_lock(path.with_name("new.db")), path.with_name(".new.db.lock")),
    )
    for use, file in uses:
        with pytest.raises(LockError) as error, use:
            pass
        assert str(error.value) == UNUSABLE.format(file, "No locks available")


@pytest.mark.skipif(os.geteuid() != 0, reason="needs to become another user")
def test_a_lock_file_of_another_user(path: Path) -> None:
    with acquire(path, "s"):
        pass
    path.chmod(0o600)
    for folder in (path.parent, *path.parents[1:3]):
        folder.chmod(0o755)
    script = "import os, sys; from pathlib import Path; from sweeps.lock import LockError, acquire\nos.setuid(65534)\n"
    script += "try:\n  with acquire(Path(sys.argv[1]), 's'): pass\nexcept LockError as error: print(error)"
    said = subprocess.run([sys.executable, "-c", script, str(path)], capture_output=True, text=True, check=True).stdout
    assert said == UNUSABLE.format(path, "Permission denied") + "\n"


def test_a_database_is_opened_by_one_process_at_a_time(tmp_path: Path) -> None:
    """Each process finds nobody between its two lines in the log."""
    script = (
        "import sys, time; from pathlib import Path; from sweeps.lock import creation_lock\n"
        "log = open(sys.argv[2], 'a')\n"
        "with creation_lock(Path(sys.argv[1])):\n"
        "  print('in', file=log, flush=True); time.sleep(0.1); print('out', file=log, flush=True)"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "a.db"), str(tmp_path / "log")]
    for process in [subprocess.Popen(command) for _ in range(4)]:
        assert process.wait() == 0
    assert (tmp_path / "log").read_text().split() == ["in", "out"] * 4


def test_a_database_that_is_there_is_opened_without_a_new_file(tmp_path: Path) -> None:
    database = tmp_path / "a.db"
    database.touch()
    with creation_lock(database):
        pass
    assert [*tmp_path.iterdir()] == [database]
