from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from cifar_core.errors import UserError
from sweeps.command_line import OneLineParser, run_command


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (UserError("a must be b, but got c"), "a must be b, but got c"),
        (RuntimeError("can't allocate memory: 8 bytes\nmore"), "out of memory: can't allocate memory: 8 bytes"),
        (MemoryError("no room"), "out of memory: no room"),
    ],
)
def test_what_the_user_can_mend_is_one_line(capsys: pytest.CaptureFixture[str], error: Exception, said: str) -> None:
    def command() -> int:
        raise error

    assert run_command(OneLineParser(prog="x.py"), command, stopped="") == 2
    assert capsys.readouterr().err == f"x.py: error: {said}\n"


def test_a_second_ctrl_c_gives_the_terminal_its_cursor_back() -> None:
    code = (
        "import os, signal; from sweeps.command_line import Stopper; Stopper();"
        "[os.kill(os.getpid(), signal.SIGINT) for _ in range(2)]"
    )
    terminal, end = os.openpty()
    done = subprocess.run([sys.executable, "-c", code], stdout=end, timeout=60)
    os.close(end)
    assert done.returncode == 128 + signal.SIGINT
    assert os.read(terminal, 100).startswith(b"\x1b[?25h")
    os.close(terminal)


def test_an_error_of_ours_keeps_its_traceback() -> None:
    def command() -> int:
        raise RuntimeError("shapes do not match")

    with pytest.raises(RuntimeError, match=r"^shapes do not match$"):
        run_command(OneLineParser(prog="x.py"), command, stopped="")
