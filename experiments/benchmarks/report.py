"""Time and memory of the report of a study of many runs."""

from __future__ import annotations

import contextlib
import resource
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from experiments.benchmarks import Line, peak_gigabytes, seconds
from experiments.benchmarks.synthetic import fill_store
from sweeps.store import Store


def bench_report(folder: Path, runs: int) -> Iterator[Line]:
    """Fill a store in `folder` unless there is one, and write its report in a separate process."""
    store = Store.locate(folder)
    if (folder / "mlflow.db").exists():
        with contextlib.closing(sqlite3.connect(folder / "mlflow.db")) as database:
            [[runs]] = database.execute("SELECT COUNT(*) FROM tags WHERE key = 'stage' AND value = 'search'")
    else:
        fill_store(store, runs)
    script = Path(__file__).parents[1] / "compare.py"
    command = [sys.executable, str(script), "--store", str(folder)]
    taken = seconds(lambda: subprocess.run(command, check=True, stdout=subprocess.DEVNULL))
    peak = peak_gigabytes(resource.RUSAGE_CHILDREN)
    text = f"report of a study with {runs:,} trials: {taken:.1f} s, at most {peak:.2f} GB (rule: <= 10 s, <= 1 GB)"
    yield Line(text, f"{runs} trials", {"seconds": taken, "gigabytes": peak})
