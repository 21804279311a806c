"""Run the command of `--notify` at the end of a sweep."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from sweeps.command_line import FAILED, stop_signals
from sweeps.coordinator import Summary
from sweeps.lock import StudyRunningError


@dataclass(slots=True)
class Notice:
    """Runs a shell command with the result of a study in its environment.

    Args:
        command: the shell command, if any.
        summary: result of the sweep, once it has ended.
    """

    command: str | None
    study: str
    store: Path
    summary: Summary | None = None

    def after(self, run: Callable[[], int]) -> int:
        """Call `run`, a sweep or an adaptation, send the notice of its end, and return its exit code.

        None is sent if it did not start, because another process runs the study.
        """
        try:
            code = run()
        except Exception as error:
            if self.summary is not None or not isinstance(error, StudyRunningError):
                self.send("failed")
            raise
        self.send({0: "finished", FAILED: "failed"}.get(code, "interrupted"))
        return code

    def send(self, state: str) -> None:
        """Run the command and wait for it; if it fails, one line on standard error says so.

        From here on a signal ends this process at once.

        Args:
            state: finished, interrupted or failed.
        """
        if self.command is None:
            return
        summary = self.summary
        champion = summary.champion if summary else None
        figures = {
            "VAL_ACCURACY": champion.accuracy if champion else None,
            "TEST_ACCURACY": summary.test_accuracy if summary else None,
            "TTA_ACCURACY": summary.tta_accuracy if summary else None,
        }
        told = {"STATE": state, "STUDY": self.study, "STORE": str(self.store.resolve())}
        told |= {name: f"{value:.4f}" for name, value in figures.items() if value is not None}
        sys.stdout.flush()
        for stop in stop_signals():  # a `Stopper` of the sweep would take them, and nothing is left to stop
            signal.signal(stop, signal.SIG_DFL)
        done = subprocess.run(
            self.command, shell=True, env=os.environ | {f"SWEEP_{name}": text for name, text in told.items()}
        )
        if done.returncode:
            print(f"the command of --notify ended with exit code {done.returncode}: {self.command}", file=sys.stderr)
