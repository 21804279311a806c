"""One coordinator per study, however it ends."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from sweeps.lock import LockError, acquire, holder

HOLDER = """
import sys, time
from pathlib import Path
from sweeps.lock import acquire
with acquire(Path(sys.argv[1]), "s"):
    print("held", flush=True)
    time.sleep(50)
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "locks" / "s.lock"


@pytest.fixture
def other(path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds the study."""
    with subprocess.Popen([sys.executable, "-c", HOLDER, str(path)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


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
