"""Command lines that answer a wrong argument with one line."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import NoReturn

FAILED = 1  # exit code for a command that was right, but could not be carried out
USAGE = 2  # exit code for arguments that cannot be


class OneLineParser(argparse.ArgumentParser):
    """An `ArgumentParser` that leaves out the usage, in which its error would drown."""

    def error(self, message: str) -> NoReturn:
        self.exit(USAGE, f"{self.prog}: error: {message} (--help lists the options)\n")


def number(rule: str, holds: Callable[[float], bool], kind: type[int] | type[float]) -> Callable[[str], float]:
    """An argument type for numbers that must keep `rule`."""

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
