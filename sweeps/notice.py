"""Run the command of `--notify` at the end of a sweep."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from sweeps.coordinator import Summary


@dataclass(slots=True)
class Notice:
    """Runs a shell command with the result of a study in its environment.

    Args:
        command: None: there is none to run.
        summary: of the sweep, once it has ended.
    """

    command: str | None
    study: str
    store: Path
    summary: Summary | None = None

    def send(self, state: str) -> None:
        """Run the command and wait for it; if it fails, one line on standard error says so.

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
        done = subprocess.run(
            self.command, shell=True, env=os.environ | {f"SWEEP_{name}": text for name, text in told.items()}
        )
        if done.returncode:
            print(f"the command of --notify ended with exit code {done.returncode}: {self.command}", file=sys.stderr)

    @contextlib.contextmanager
    def of_failure(self) -> Iterator[None]:
        """Context that sends `failed` if it is left by an error."""
        try:
            yield
        except Exception:
            self.send("failed")
            raise
