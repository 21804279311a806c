"""A worker process from its first moment on: python -m sweeps.executors.worker_process COORDINATOR PIPE

COORDINATOR is the process that it belongs to, PIPE an open file descriptor. What takes seconds to import comes later
than the watch over the coordinator, so that no worker outlives it.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from multiprocessing.connection import Connection

_LOOK_SECONDS = 0.5


def main() -> None:
    coordinator, pipe = map(int, sys.argv[1:])
    threading.Thread(target=_end_with, args=(coordinator,), daemon=True).start()
    from sweeps.executors.job_loop import work

    work(Connection(pipe))


def _end_with(coordinator: int) -> None:
    """At once, whatever else is going on here: nobody is left to hear of it."""
    while os.getppid() == coordinator:
        time.sleep(_LOOK_SECONDS)
    os._exit(1)


if __name__ == "__main__":
    main()
