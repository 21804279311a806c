"""Commands outlive what they write to: a pipe without a reader, closed streams, a full disk, a narrow encoding."""

from __future__ import annotations

import contextlib
import os
import pty
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

# Prints, and writes to the file that it is given, before and after whatever happens to its streams.
COMMAND = r"""
import subprocess, sys
from sweeps.standard_streams import protect_streams
protect_streams()
log = open(sys.argv[1], "w")
print("gr\xf6\xdfe", flush=True)
subprocess.run(["echo", "of a child"])
sys.stdin is None or sys.stdin.readline()
for _ in range(3):
    print("x" * 10_000, flush=True)
print("gr\xf6\xdfe", file=sys.stderr, flush=True)
log.write("done")
"""


@contextlib.contextmanager
def running(log: Path, redirection: str = "", **settings: str) -> Iterator[subprocess.Popen[bytes]]:
    command = ["sh", "-c", f'exec "$0" "$@" {redirection}', sys.executable, "-c", COMMAND, str(log)]
    environment = {**os.environ, **settings}
    with subprocess.Popen(
        command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        yield process
        process.kill()


def test_a_reader_that_goes_away(tmp_path: Path) -> None:
    with running(tmp_path / "log", "2>&1") as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "größe\n".encode()
        process.stdout.close()
        assert process.stdin is not None
        process.stdin.close()
        assert process.wait() == 0
    assert (tmp_path / "log").read_text() == "done"


def test_a_terminal_that_is_lost(tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    command = [sys.executable, "-c", COMMAND, str(tmp_path / "log")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=theirs, stderr=theirs) as process:
        os.close(theirs)
        assert os.read(ours, 100).startswith("größe".encode())
        os.close(ours)
        assert process.stdin is not None
        process.stdin.close()
        assert process.wait() == 0
    assert (tmp_path / "log").read_text() == "done"


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-", "<&- >&- 2>&-"])
def test_closed_streams_leave_files_alone(tmp_path: Path, closed: str) -> None:
    with running(tmp_path / "log", closed) as process:
        process.communicate(b"\n")
        assert process.returncode == 0
    assert (tmp_path / "log").read_text() == "done", "nothing that was printed is in it"


def test_a_full_disk_is_told_on_standard_error(tmp_path: Path) -> None:
    with running(tmp_path / "log", ">/dev/full") as process:
        _, errors = process.communicate(b"\n")
        assert process.returncode == 0
    assert errors.decode().endswith("standard output is lost from here on: No space left on device\ngröße\n")
    assert (tmp_path / "log").read_text() == "done"


@pytest.mark.parametrize(("redirection", "code"), [(">/dev/full", 1), ("| true", 0), (">&-", 0), ("", 0)])
def test_an_answer_that_is_lost_is_a_failure(redirection: str, code: int) -> None:
    says = (
        "from sweeps.command_line import *; start(main_of(OneLineParser, lambda _: print('answer') or 0, stopped=''))"
    )
    command = ["bash", "-c", f'"$0" "$@" {redirection}; exit ${{PIPESTATUS[0]}}', sys.executable, "-c", says]
    assert subprocess.run(command, capture_output=True, timeout=60).returncode == code


@pytest.mark.parametrize("settings", [{"PYTHONIOENCODING": "ascii"}, {"PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}])
def test_letters_that_the_encoding_lacks_are_replaced(tmp_path: Path, settings: dict[str, str]) -> None:
    with running(tmp_path / "log", **{"LC_ALL": "C", "PYTHONIOENCODING": ""} | settings) as process:
        output, errors = process.communicate(b"\n")
        assert process.returncode == 0
    assert output.startswith(b"gr??e\nof a child\n")
    assert errors == b"gr\\xf6\\xdfe\n"
