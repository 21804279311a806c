"""Run benchmarks: ratios are measured side by side in one run.

python -m experiments.benchmarks                          # those of training and of a trial, in some minutes
python -m experiments.benchmarks trainer --device cuda
python -m experiments.benchmarks report --runs 2000
"""

from __future__ import annotations

import argparse
import datetime
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch

from cifar_core.data.download import default_data_dir, ensure_cifar10
from cifar_core.files import write_atomically
from cifar_core.hardware import DEVICES, Hardware, set_up_cpu
from experiments.benchmarks import Line
from experiments.benchmarks.kernels import bench_kernels
from experiments.benchmarks.report import bench_report
from experiments.benchmarks.start import bench_start
from experiments.benchmarks.sweep import bench_overhead, bench_resume
from experiments.benchmarks.trainer import bench_algorithms, bench_trainer
from experiments.benchmarks.trial import bench_trial
from experiments.benchmarks.usual import bench_usual
from sweeps.command_line import OneLineParser, output_file, positive_int, run_command, start
from sweeps.console import SweepConsole

BENCHMARKS: Mapping[str, Callable[[Hardware], Iterator[Line]]] = {
    "trainer": bench_trainer,
    "usual": bench_usual,
    "trial": bench_trial,
    "start": bench_start,
    "algorithms": bench_algorithms,
    "kernels": bench_kernels,
    "overhead": bench_overhead,
    "resume": bench_resume,
}
DEFAULT = ("trainer", "usual", "trial", "start")
NAMES = (*BENCHMARKS, "report")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code: 0, 2 for a user's error, 130 on Ctrl-C."""
    parser = OneLineParser(prog="benchmarks", description="Run benchmarks of the trainer, the sweep and the report.")
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help=f"{', '.join(NAMES)}, or all (default: {', '.join(DEFAULT)})"
    )
    parser.add_argument("--device", choices=DEVICES, default="auto", help="default: %(default)s")
    parser.add_argument(
        "--threads", type=positive_int, default=1, help="of a CPU (default: %(default)s, as in a sweep)"
    )
    parser.add_argument("--json", type=output_file, metavar="FILE", help="write the figures there as well")
    parser.add_argument(
        "--runs",
        type=positive_int,
        default=10_000,
        metavar="N",
        help="report: trials (default: %(default)s)",
    )
    options = parser.parse_args(arguments)
    if unknown := [name for name in options.names if name not in (*NAMES, "all")]:
        parser.error(f"NAME must be one of {', '.join(NAMES)}, or all, but got {unknown[0]!r}")
    return run_command(parser, lambda: _run(options), stopped="stopped")


def _run(options: argparse.Namespace) -> int:
    set_up_cpu(options.threads)
    hardware = Hardware.detect(options.device)
    machine = {
        "processor": hardware.describe(),
        "instruction_set": hardware.instruction_set(),
        "precision": hardware.precision,
        "threads": options.threads,
        "torch": torch.__version__,
    }
    figures: dict[str, dict[str, Any]] = {}
    with SweepConsole() as console:
        console.say(", ".join(f"{name.replace('_', ' ')} {value}" for name, value in machine.items() if value))
        names = NAMES if "all" in options.names else options.names or DEFAULT
        if set(names) != {"report"}:
            ensure_cifar10(default_data_dir(), console.progress)
        for name in names:
            for line in bench_report(options.runs) if name == "report" else BENCHMARKS[name](hardware):
                console.say(line.text)
                if line.figures:
                    figures.setdefault(name, {})[line.subject] = dict(line.figures)
            if options.json is not None:  # after each, so that none is lost
                today = datetime.datetime.now(datetime.UTC).date().isoformat()
                found = {"date": today, "machine": machine, "figures": figures}
                write_atomically(options.json, json.dumps(found, indent=1).encode() + b"\n")
    return 0


if __name__ == "__main__":
    start(main)
