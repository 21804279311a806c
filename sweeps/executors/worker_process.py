"""A worker process: python -m sweeps.executors.worker_process COORDINATOR PIPE

COORDINATOR is the parent's process id, PIPE an open file descriptor. The slow imports come after the start of the
thread that watches the coordinator, so that no worker outlives it.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from multiprocessing.connection import Connection
from pathlib import Path

_CHECK_SECONDS = 0.5
_TIED = (
    "import runpy, sys; from sweeps.executors.worker_process import exit_with; exit_with(int(sys.argv.pop(1)));"
    "runpy.run_path(sys.argv.pop(1), run_name='__main__')"
)


def main() -> None:
    """Serve the coordinator that the command line names."""
    coordinator, pipe = map(int, sys.argv[1:])
    exit_with(coordinator)
    from sweeps.executors.job_loop import serve

    serve(Connection(pipe))


def exit_with(parent: int) -> None:
    """From now on exit at once when the parent of this process is gone, whatever its threads do."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(_CHECK_SECONDS)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def tied(script: Path, *arguments: str) -> list[str]:
    """Return the command line of a script that ends with this process, however that ends."""
    return [sys.executable, "-P", "-c", _TIED, str(os.getpid()), str(script), *arguments]


if __name__ == "__main__":
    main()
