"""A worker process that writes down what was acknowledged: witness_worker.py TRUTH COORDINATOR PIPE"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

from cifar_core.data import Split, Splits
from cifar_core.hardware import Hardware
from cifar_core.training import Progress
from sweeps.executors import job_loop, worker_process
from sweeps.executors.protocol import Event, Job, Progressed
from sweeps.executors.worker import Channel, run_job


def main() -> None:
    witness(Path(sys.argv.pop(1)))
    worker_process.main()


def witness(truth: Path) -> None:
    """Let the jobs of this process write down every point that is acknowledged to them."""

    def witnessed(job: Job, data: Splits, load_test: Callable[[], Split], hardware: Hardware, channel: Channel) -> None:
        last: list[Progress] = []

        def send(event: Event) -> None:
            if isinstance(event, Progressed):
                last[:] = [event.point]
            channel.send(event)

        def go_on() -> bool:
            answer = channel.go_on()
            if answer and not channel.pause():
                _write(truth, job.key, last[0])
            return answer

        run_job(job, data, load_test, hardware, Channel(send, go_on, channel.pause))

    vars(job_loop)["run_job"] = witnessed


def _write(truth: Path, key: str, point: Progress) -> None:
    line = {
        "pid": os.getpid(),
        "key": key,
        "step": point.step,
        "accuracy": point.val_accuracy,
        "loss": point.train_loss,
    }
    file = os.open(truth, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    os.write(file, json.dumps(line).encode() + b"\n")
    os.fsync(file)
    os.close(file)


if __name__ == "__main__":
    main()
