"""Command lines that report a wrong argument in one line."""

from __future__ import annotations

import argparse
import contextlib
import gc
import os
import re
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn
from urllib.parse import parse_qs, urlsplit

from cifar_core.errors import UserError, first_line, printable
from sweeps.standard_streams import output_lost, protect_streams
from sweeps.store import DEFAULT_STORE, Store
from sweeps.words import to_number

FAILED = 1  # exit code of a valid command that failed
USAGE = 2  # exit code for invalid arguments
_PASSWORD = re.compile(r"[^/]*//[^:/]*:[^@]*@")  # may hold a slash for SQLAlchemy, where urlsplit ends the host
_HOST = re.compile(r"https?://(\[[^]/]*\]|[^:/?#]*)(:\d+)?[/?]")  # of a server; what follows may hold an @
# Keys of a query: of drivers (the last two may hold a password), and of services.
_SECRETS = {"password", "passwd", "pwd", "sslpassword", "odbc_connect", "dsn"}
_SECRETS |= {"key", "api-key", "api_key", "apikey", "token", "access_token", "sig"}
_SHOW_CURSOR = b"\x1b[?25h\n"  # a live view hides it


class Interrupted(Exception):
    """The user asked to stop; everything so far is recorded."""


class _Unwound(KeyboardInterrupt):
    """SIGTERM or SIGHUP, as Ctrl-C: what the command holds is closed, and its temporary files are deleted."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.signal = number


class OneLineParser(argparse.ArgumentParser):
    """An `ArgumentParser` that reports an error without the usage; an argument of type `Path` is not empty."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.register("type", Path, _path)

    def error(self, message: str) -> NoReturn:
        self.exit(USAGE, f"{self.prog}: error: {printable(message)} (--help lists the options)\n")


def run_command(parser: argparse.ArgumentParser, command: Callable[[], int], *, stopped: str) -> int:
    """Run a command and return its exit code.

    A `UserError` and a shortage of memory are reported in one line, with exit code 2. Ctrl-C, and what ends a command
    after `unwind_on_signals`, print the line `stopped`, with exit code 128 + signal.
    """
    try:
        return command()
    except UserError as error:
        print_error(parser.prog, error)
        return USAGE
    except (RuntimeError, MemoryError) as error:
        from cifar_core.memory import is_out_of_memory  # takes a second, and some commands need no torch

        if not is_out_of_memory(error):
            raise
        print_error(parser.prog, f"out of memory: {first_line(error)}")
        return USAGE
    except KeyboardInterrupt as interrupt:
        print(stopped, file=sys.stderr)
        return 128 + (interrupt.signal if isinstance(interrupt, _Unwound) else signal.SIGINT)


def main_of(
    build_parser: Callable[[], argparse.ArgumentParser], run: Callable[[argparse.Namespace], int], *, stopped: str
) -> Callable[..., int]:
    """Return the `main` of a command: it runs `run` on its options as `run_command` does, and returns the exit code.

    SIGTERM and SIGHUP end the command as Ctrl-C does. A success whose standard output is lost has the exit code 1.
    """

    def main(arguments: Sequence[str] | None = None) -> int:
        parser = build_parser()
        options = parser.parse_args(arguments)

        def command() -> int:
            unwind_on_signals()
            return run(options) or (FAILED if output_lost() else 0)

        return run_command(parser, command, stopped=stopped)

    return main


def print_error(command: str, error: object) -> None:
    """Print an error of a command in one line; it may quote names that others wrote."""
    print(f"{command}: error: {printable(error)}", file=sys.stderr)


def start(main: Callable[[], int]) -> NoReturn:
    """Run the `main` of a command, which is all that this process does."""
    protect_streams()
    gc.freeze()  # what was imported stays to the end; to search it for garbage takes a second of the exit
    sys.exit(main())


def stop_signals() -> list[signal.Signals]:
    """Return the signals that ask a command to stop; SIGHUP, of a lost terminal, is one unless nohup ignores it."""
    lost = [] if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN else [signal.SIGHUP]
    return [signal.SIGINT, signal.SIGTERM, *lost]


def unwind_on_signals() -> None:
    """From here on SIGTERM and SIGHUP raise an exception in this process as Ctrl-C does, the first of them alone."""
    for stop in set(stop_signals()) - {signal.SIGINT}:
        signal.signal(stop, _unwind)


def _unwind(number: int, frame: FrameType | None) -> None:
    for again in (signal.SIGTERM, signal.SIGHUP):  # `timeout` and a lost terminal send theirs twice
        signal.signal(again, lambda *_: None)
    raise _Unwound(number)


@contextlib.contextmanager
def stop_signals_blocked() -> Iterator[None]:
    """Context in which started processes ignore Ctrl-C, SIGTERM and a lost terminal.

    All may reach the whole process group, but the process that starts them decides. They inherit the blocked signals,
    so these are blocked from their start on.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM, signal.SIGHUP})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class Stopper:
    """Turns SIGINT, SIGTERM or SIGHUP into a request; a SIGINT after it exits at once.

    The others may come twice: a lost terminal sends SIGHUP once itself, and once by the shell, and `timeout` sends
    SIGTERM to the process and to its group.
    """

    def __init__(self) -> None:
        self.signal = 0

    def listen(self) -> None:
        """Take these signals from here on."""
        for stop in stop_signals():
            signal.signal(stop, self._ask)

    def asked(self) -> bool:
        return self.signal != 0

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if self.signal and number == signal.SIGINT:
            if os.isatty(1):
                os.write(1, _SHOW_CURSOR)
            os._exit(128 + number)
        self.signal = self.signal or number


def number(rule: str, holds: Callable[[float], bool], kind: type[int] | type[float]) -> Callable[[str], float]:
    """Return an argument type for numbers for which `holds` is true; `rule` words that for people."""

    def parse(text: str) -> float:
        try:
            value = to_number(text, kind)
        except ValueError:
            value = None
        if value is None or not holds(value):
            raise argparse.ArgumentTypeError(f"{rule}, but got {text!r}")
        return value

    return parse


def _path(text: str) -> Path:
    if not text:  # of a variable that is not set, for example; it would be the working directory
        raise argparse.ArgumentTypeError("must be the path of a file or folder, but got ''")
    return Path(text)


def output_file(text: str) -> Path:
    """Argument type of a file to be written."""
    path = _path(text)
    if os.path.isdir(path) or not os.access(path.parent, os.W_OK):  # `Path.is_dir` raises for an endless name
        raise argparse.ArgumentTypeError(f"must be a file in a folder that can be written to, but got {text!r}")
    return path


def existing_folder(text: str) -> Path:
    """Argument type of a folder to be written to, which is not created."""
    path = _path(text)
    if not os.path.isdir(path) or not os.access(path, os.W_OK):
        raise argparse.ArgumentTypeError(f"must be a folder that exists and can be written to, but got {text!r}")
    return path


def secret_of(url: str) -> str:
    """Return the secret in a URL: "a password", "a user name", or a key of its query such as "sig="; "" if none.

    A user without a password may stay in the URL of a database; in that of a web server it is a token.

    Raises:
        ValueError: it is no URL; the message may hold the secret.
    """
    parts = urlsplit(url)
    server = parts.scheme in ("http", "https")
    hidden = _PASSWORD.match(url) and not (server and _HOST.match(url))
    if hidden or parts.password is not None:
        return "a password"
    if server and parts.username is not None:
        return "a user name"
    keys = (key.lower() for key in parse_qs(parts.query, keep_blank_values=True))
    return next((f"{key}=" for key in keys if key in _SECRETS), "")


def server_url(text: str) -> str:
    """Argument type of the URL of a server or database; none with a secret, which every user of the machine sees."""
    if not text.strip():  # of a variable that is not set, for example
        raise argparse.ArgumentTypeError(f"must be a URL, but got {text!r}")
    try:
        parts, secret = urlsplit(text), secret_of(text)
    except ValueError as error:  # says nothing of the password, as argparse would
        raise argparse.ArgumentTypeError("must be a URL, but its host is not valid") from error
    if secret:
        raise argparse.ArgumentTypeError(
            "must hold no secret, which others see in the list of processes, but the URL of "
            f"{parts.hostname or parts.scheme} has {secret}; PostgreSQL's goes into ~/.pgpass or PGPASSWORD, "
            "MLflow's into MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
        )
    try:
        _ = parts.port if parts.scheme != "databricks" else None  # there it is a name
    except ValueError as error:
        raise argparse.ArgumentTypeError("must be a URL whose port is a number from 0 to 65535") from error
    return text


def add_store(parser: argparse.ArgumentParser | argparse._ArgumentGroup, *, server: bool = True) -> None:
    """Add the argument `--store`, and `--tracking-uri` too for a command that works with an MLflow server."""
    parser.add_argument(
        "--store", type=Path, default=DEFAULT_STORE, metavar="DIR", help="folder of all results (default: mlruns)"
    )
    if server:
        parser.add_argument(
            "--tracking-uri",
            type=server_url,
            metavar="URI",
            help="an MLflow server in place of the database in the store (docs/clusters.md)",
        )
    else:
        parser.set_defaults(tracking_uri=None)


def store_of(options: argparse.Namespace) -> Store:
    """Return the store that the arguments of `add_store` name, without touching it."""
    return Store.locate(options.store, tracking_uri=options.tracking_uri)


positive_int = number("must be a whole number of at least 1", lambda value: value >= 1, int)
