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
    threading.Thread(target=_exit_with, args=(coordinator,), daemon=True).start()
    from sweeps.executors.job_loop import serve

    serve(Connection(pipe))


def _exit_with(coordinator: int) -> None:
    """Exit at once when the coordinator is gone, whatever the other threads do."""
    while os.getppid() == coordinator:
        time.sleep(_CHECK_SECONDS)
    os._exit(1)


if __name__ == "__main__":
    main()
