"""List what can be removed from a store, and remove it after a question.

python experiments/clean_store.py [--store DIR] [--yes]
"""

from __future__ import annotations

import argparse
import sys

from cifar_core.errors import printable
from sweeps.checks.cleaning import find_waste, remove
from sweeps.command_line import OneLineParser, add_store, main_of, start, store_of


def build_parser() -> argparse.ArgumentParser:
    parser = OneLineParser(
        prog="clean_store.py",
        description="List what can be removed from a store, and remove it: runs and studies that were deleted in "
        "MLflow, checkpoints of runs that have ended, networks whose logging was cut short. Networks in the "
        "model registry stay.",
    )
    parser.add_argument("--yes", action="store_true", help="remove it without a question")
    add_store(parser, server=False)
    return parser


def _run(options: argparse.Namespace) -> int:
    store = store_of(options)
    found = find_waste(store)
    if not found:
        print(f"{store.root} has nothing to remove")
        return 0
    for waste in found:
        print(f"{_size(waste.size):>9}  {printable(waste.study)}: {printable(waste.what)}")
    total = _size(sum(waste.size for waste in found))
    print(f"{total:>9}  in all")
    if not options.yes:
        if not sys.stdin.isatty():
            print("Nothing was removed; --yes does it.")
            return 0
        try:
            answer = input("Remove it for good? [y/N] ")
        except EOFError:  # Ctrl-D
            answer = ""
            print()
        if answer.strip().lower() not in ("y", "yes"):
            print("Nothing was removed.")
            return 0
    remove(store, found)
    print(f"Removed; {total} freed.")
    return 0


def _size(count: int) -> str:
    return f"{count / 1e6:,.1f} MB"


main = main_of(build_parser, _run, stopped="stopped")

if __name__ == "__main__":
    start(main)
