"""Run benchmarks: ratios are measured side by side in one run.

python -m experiments.benchmarks                          # all of them
python -m experiments.benchmarks trainer --device cuda
python -m experiments.benchmarks report --runs 2000 --keep DIR
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import MappingProxyType

import torch

from cifar_core.data.download import default_data_dir, ensure_cifar10
from cifar_core.hardware import DEVICES, Hardware, set_up_cpu
from experiments.benchmarks.report import bench_report
from experiments.benchmarks.sweep import bench_overhead, bench_resume
from experiments.benchmarks.trainer import bench_memory, bench_trainer, bench_winograd
from experiments.benchmarks.trial import bench_trial
from sweeps.command_line import OneLineParser, positive_int, run_command
from sweeps.console import SweepConsole

BENCHMARKS: Mapping[str, Callable[[Hardware], Iterator[str]]] = MappingProxyType(
    {
        "trainer": bench_trainer,
        "memory": bench_memory,
        "winograd": bench_winograd,
        "trial": bench_trial,
        "overhead": bench_overhead,
        "resume": bench_resume,
    }
)
NAMES = (*BENCHMARKS, "report")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code: 0, 2 for a user's error, 130 on Ctrl-C."""
    parser = OneLineParser(prog="benchmarks", description="Run benchmarks of the trainer, the sweep and the report.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"{', '.join(NAMES)} (default: all)")
    parser.add_argument("--device", choices=DEVICES, default="auto", help="default: %(default)s")
    parser.add_argument(
        "--threads", type=positive_int, default=1, help="of a CPU (default: %(default)s, as in a sweep)"
    )
    parser.add_argument(
        "--runs",
        type=positive_int,
        default=10_000,
        metavar="N",
        help="report: trials (default: %(default)s)",
    )
    parser.add_argument("--keep", type=Path, metavar="DIR", help="report: keep the store there, or use the one there")
    options = parser.parse_args(arguments)
    if unknown := [name for name in options.names if name not in NAMES]:
        parser.error(f"NAME must be one of {', '.join(NAMES)}, but got {unknown[0]!r}")
    return run_command(parser, lambda: _run(options), stopped="stopped")


def _run(options: argparse.Namespace) -> int:
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    set_up_cpu(options.threads)
    hardware = Hardware.detect(options.device)
    with SweepConsole() as console, tempfile.TemporaryDirectory() as scratch:
        console.say(f"{hardware.describe()}, {hardware.precision}, {options.threads} thread, torch {torch.__version__}")
        names = options.names or NAMES
        if set(names) != {"report"}:
            ensure_cifar10(default_data_dir(), console.progress)
        for name in names:
            report = partial(bench_report, options.keep or Path(scratch, "mlruns"), options.runs)
            for line in report() if name == "report" else BENCHMARKS[name](hardware):
                console.say(line)
    return 0


if __name__ == "__main__":
    sys.exit(main())
