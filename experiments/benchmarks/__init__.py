"""Benchmarks of the trainer, the sweep and the report: `python -m experiments.benchmarks [NAME...]`."""

import resource
import sys


def peak_gigabytes(who: int = resource.RUSAGE_SELF) -> float:
    """Return the peak memory of this process, or of its largest child (`RUSAGE_CHILDREN`), in GB."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(who).ru_maxrss * unit / 1e9
