"""Time and memory of the report of a study of many runs."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from experiments.benchmarks import Line, peak_gigabytes
from experiments.benchmarks.synthetic import fill_store
from sweeps.store import Store, StoreError


def bench_report(folder: Path, runs: int) -> Iterator[Line]:
    """Fill a store in `folder` unless there is one, and write its report in a separate process.

    Raises:
        StoreError: an earlier process was stopped while it filled the store.
    """
    store = Store.locate(folder)
    if (folder / "mlflow.db").exists():
        runs, database = 0, sqlite3.connect(folder / "mlflow.db")
        with contextlib.closing(database), contextlib.suppress(sqlite3.OperationalError):  # it may have no tables yet
            [[runs]] = database.execute("SELECT COUNT(*) FROM tags WHERE key = 'stage' AND value = 'search'")
        if not runs:
            raise StoreError(
                f"--keep must be a new folder or one that was filled, but {folder} has no trials; delete it"
            )
    else:
        fill_store(store, runs)
    script = Path(__file__).parents[1] / "compare.py"
    command = [sys.executable, str(script), "--store", str(folder)]
    began, process = time.perf_counter(), subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)  # the peak of this child, and not of the largest so far
    taken, peak = time.perf_counter() - began, peak_gigabytes(usage)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    text = f"report of a study with {runs:,} trials: {taken:.1f} s, at most {peak:.2f} GB (rule: <= 10 s, <= 1 GB)"
    yield Line(text, f"{runs} trials", {"seconds": taken, "gigabytes": peak})
