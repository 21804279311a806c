"""run_study.py with an oracle beside it: python tests/torture/witness.py TRUTH OPTIONS...

Its workers write down in the file TRUTH every point that was acknowledged to them, safe on disk, before they go on.
TORTURE_CLOCK, in seconds, moves the coordinator's clock.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path


def main() -> int:
    offset = float(os.environ.get("TORTURE_CLOCK", "0"))
    if offset:
        seconds, nanoseconds = time.time, time.time_ns
        time.time = lambda: seconds() + offset
        time.time_ns = lambda: nanoseconds() + int(offset * 1e9)
    sys.path.insert(0, str(Path(__file__).parents[2]))
    from sweeps import run_study
    from sweeps.executors import local

    truth, options = sys.argv[1], sys.argv[2:]
    if "ray" in options:
        from sweeps.executors import ray_executor
        from tests.torture.witness_ray import witnessed

        vars(ray_executor)["RayWorker"] = witnessed(Path(truth))
    local._COMMAND = (sys.executable, str(Path(__file__).with_name("witness_worker.py")), truth)
    return run_study.main(options)


if __name__ == "__main__":
    sys.exit(main())
