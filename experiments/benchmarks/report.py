"""Time and memory of the report of a study of many runs."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from experiments.benchmarks import Line, peak_gigabytes
from experiments.benchmarks.synthetic import fill_store
from sweeps.store import Store


def bench_report(runs: int) -> Iterator[Line]:
    """Fill a store, and write its report in a separate process."""
    script = Path(__file__).parents[1] / "compare.py"
    with tempfile.TemporaryDirectory() as folder:
        fill_store(Store.locate(Path(folder)), runs)
        command = [sys.executable, str(script), "--store", folder]
        began, process = time.perf_counter(), subprocess.Popen(command, stdout=subprocess.DEVNULL)
        _, status, usage = os.wait4(process.pid, 0)  # the peak of this child, and not of the largest so far
        taken, peak = time.perf_counter() - began, peak_gigabytes(usage)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    text = f"report of a study with {runs:,} trials: {taken:.1f} s, at most {peak:.2f} GB (rule: <= 10 s, <= 1 GB)"
    yield Line(text, f"{runs} trials", {"seconds": taken, "gigabytes": peak})
