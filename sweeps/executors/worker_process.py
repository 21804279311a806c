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

_CHECK_SECONDS = 0.5


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


if __name__ == "__main__":
    main()
