"""A worker process that writes down what was acknowledged: witness_worker.py TRUTH COORDINATOR PIPE"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from cifar_core.data import Splits
from cifar_core.hardware import Hardware
from sweeps.executors import job_loop, worker_process
from sweeps.executors.protocol import Event, Job, Point, Progressed
from sweeps.executors.worker import Contact, carry_out


def main() -> None:
    truth = Path(sys.argv.pop(1))

    def witnessed(job: Job, data: Splits, data_dir: Path, hardware: Hardware, contact: Contact) -> None:
        last: list[Point] = []

        def noted(event: Event) -> None:
            if isinstance(event, Progressed):
                last[:] = [event.point]
            contact.send(event)

        def answered() -> bool:
            answer = contact.go_on()
            if answer and not contact.pause():
                _write(truth, job.key, last[0])
            return answer

        carry_out(job, data, data_dir, hardware, Contact(noted, answered, contact.pause))

    vars(job_loop)["carry_out"] = witnessed
    worker_process.main()


def _write(truth: Path, key: str, point: Point) -> None:
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
