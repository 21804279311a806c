from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from cifar_core.errors import UserError, first_line
from sweeps.command_line import OneLineParser, add_store, existing_folder, run_command, store_of
from sweeps.store import DEFAULT_STORE, Store


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (UserError("a must be b, but got c"), "a must be b, but got c"),
        (UserError("a must be größe, but got \x1b]0;c\x07\n"), r"a must be größe, but got \x1b]0;c\x07\n"),
        (RuntimeError("can't allocate memory: 8 bytes\nmore"), "out of memory: can't allocate memory: 8 bytes"),
        (MemoryError("no room"), "out of memory: no room"),
    ],
)
def test_what_the_user_can_mend_is_one_line(capsys: pytest.CaptureFixture[str], error: Exception, said: str) -> None:
    def command() -> int:
        raise error

    assert run_command(OneLineParser(prog="x.py"), command, stopped="") == 2
    assert capsys.readouterr().err == f"x.py: error: {said}\n"


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("", "ValueError"),
        ("one\ntwo", "one"),
        ("failures:\nfirst\n  no room left\n", "failures: no room left"),
        ("alone:", "alone:"),
    ],
)
def test_an_error_is_quoted_in_one_line(text: str, line: str) -> None:
    assert first_line(ValueError(text)) == line


def test_a_second_ctrl_c_gives_the_terminal_its_cursor_back() -> None:
    code = (
        "import os, signal; from sweeps.command_line import Stopper; Stopper().listen();"
        "[os.kill(os.getpid(), signal.SIGINT) for _ in range(2)]"
    )
    terminal, end = os.openpty()
    done = subprocess.run([sys.executable, "-c", code], stdout=end, timeout=60)
    os.close(end)
    assert done.returncode == 128 + signal.SIGINT
    assert os.read(terminal, 100).startswith(b"\x1b[?25h")
    os.close(terminal)


@pytest.mark.parametrize("stop", [signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("nohup", [False, True])
def test_sigterm_and_a_lost_terminal_end_a_command_as_ctrl_c_does(
    tmp_path: Path, stop: signal.Signals, nohup: bool
) -> None:
    code = (
        f"import os, signal; signal.signal(signal.SIGHUP, signal.{'SIG_IGN' if nohup else 'SIG_DFL'});"
        "from tempfile import TemporaryDirectory; from sweeps.command_line import OneLineParser, main_of, start\n"
        "def run(_):\n"
        f"    with TemporaryDirectory(dir={str(tmp_path)!r}):\n"
        "        try:\n"
        f"            os.kill(os.getpid(), {stop:d})\n"
        "            return 0\n"
        "        finally:\n"
        f"            os.kill(os.getpid(), {stop:d})  # `timeout` and a lost terminal send theirs twice\n"
        "start(main_of(OneLineParser, run, stopped='stopped'))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    ignored = nohup and stop == signal.SIGHUP
    assert (done.returncode, done.stderr) == ((0, "") if ignored else (128 + stop, "stopped\n"))
    assert list(tmp_path.iterdir()) == []


def test_an_error_of_ours_keeps_its_traceback() -> None:
    def command() -> int:
        raise RuntimeError("shapes do not match")

    with pytest.raises(RuntimeError, match=r"^shapes do not match$"):
        run_command(OneLineParser(prog="x.py"), command, stopped="")


@pytest.mark.parametrize("server", [True, False])
def test_arguments_name_a_store(tmp_path: Path, server: bool) -> None:
    parser = OneLineParser(prog="x.py")
    add_store(parser, server=server)
    assert store_of(parser.parse_args([])) == Store.locate(DEFAULT_STORE)
    elsewhere = ["--store", str(tmp_path), *["--tracking-uri", "http://127.0.0.1:9"] * server]
    uri = "http://127.0.0.1:9" if server else None
    assert store_of(parser.parse_args(elsewhere)) == Store.locate(tmp_path, tracking_uri=uri)


@pytest.mark.parametrize("kind", [Path, existing_folder])
def test_a_path_is_not_empty(capsys: pytest.CaptureFixture[str], kind: Callable[[str], Path]) -> None:
    """It would be the working directory."""
    parser = OneLineParser(prog="x.py")
    parser.add_argument("--out", type=kind)
    parser.add_argument_group("folders").add_argument("folder", type=kind, nargs="?")
    for argument in ("--out=", ""):
        with pytest.raises(SystemExit, match=r"^2$"):
            parser.parse_args([argument])
        assert "must be the path of a file or folder, but got ''" in capsys.readouterr().err


def test_a_command_without_a_server_takes_none(capsys: pytest.CaptureFixture[str]) -> None:
    parser = OneLineParser(prog="x.py")
    add_store(parser, server=False)
    with pytest.raises(SystemExit, match=r"^2$"):
        parser.parse_args(["--tracking-uri", "http://127.0.0.1:9"])
    assert "unrecognized arguments: --tracking-uri" in capsys.readouterr().err
