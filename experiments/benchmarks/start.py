"""Time from the command of a sweep to the first point of its first trial."""

from __future__ import annotations

import contextlib
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from cifar_core.errors import UserError
from cifar_core.hardware import Hardware
from experiments.benchmarks import Line

_COMMAND = Path(__file__).parents[2] / "sweeps" / "run_study.py"
_FIRST = "SELECT MIN(timestamp) FROM metrics WHERE key = 'train/loss'"


def bench_start(hardware: Hardware) -> Iterator[Line]:
    """Run a sweep of one short trial in a new store, and see when its first point was recorded."""
    yield Line("start: seconds from the command to the first point of the first trial (rule: <= 10)")
    with tempfile.TemporaryDirectory() as folder:
        options = ["--trials", "1", "--preset", "smoke", "--no-confirm", "--store", folder]
        command = [sys.executable, str(_COMMAND), *options, "--device", hardware.device.type]
        began = time.time()
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise UserError(f"the sweep ended with exit code {done.returncode}: {done.stderr.strip()[-500:]}")
        with contextlib.closing(sqlite3.connect(Path(folder) / "mlflow.db")) as database:
            [[milliseconds]] = database.execute(_FIRST)
    taken = milliseconds / 1000 - began
    yield Line(f"  {taken:.1f} s", "run_study.py", {"seconds": taken})
