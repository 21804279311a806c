"""Command lines that report a wrong argument in one line."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Callable
from typing import NoReturn

from cifar_core.errors import UserError

FAILED = 1  # exit code of a valid command that failed
USAGE = 2  # exit code for invalid arguments


class OneLineParser(argparse.ArgumentParser):
    """An `ArgumentParser` that reports an error without the usage."""

    def error(self, message: str) -> NoReturn:
        self.exit(USAGE, f"{self.prog}: error: {message} (--help lists the options)\n")


def run_command(parser: argparse.ArgumentParser, command: Callable[[], int], *, stopped: str) -> int:
    """Run a command and return its exit code.

    A `UserError` is reported in one line, with exit code 2. Ctrl-C prints the line `stopped`, with exit code 130.
    """
    try:
        return command()
    except UserError as error:
        print(f"{parser.prog}: error: {error}", file=sys.stderr)
        return USAGE
    except KeyboardInterrupt:
        print(stopped, file=sys.stderr)
        return 128 + signal.SIGINT


def number(rule: str, holds: Callable[[float], bool], kind: type[int] | type[float]) -> Callable[[str], float]:
    """Return an argument type for numbers for which `holds` is true; `rule` words that for people."""

    def parse(text: str) -> float:
        try:
            value = kind(text)
        except ValueError:
            value = None
        if value is None or not holds(value):
            raise argparse.ArgumentTypeError(f"{rule}, but got {text!r}")
        return value

    return parse


positive_int = number("must be a whole number of at least 1", lambda value: value >= 1, int)
