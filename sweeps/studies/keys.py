"""Keys of the runs of a study: tags in MLflow, and names of files."""

from __future__ import annotations

import re

STUDY_KEY = "study"  # of the study's own run, the parent of the others
_KEY = re.compile(r"(?:trial|confirm|final)-(\d+)(?:-\d+)?")


def trial_key(trial: int) -> str:
    """Return the key of a trial's run."""
    return f"trial-{trial}"


def confirm_key(trial: int, seed: int) -> str:
    """Return the key of a run that trains the recipe of `trial` again, with another seed."""
    return f"confirm-{trial}-{seed}"


def final_key(trial: int, seed: int) -> str:
    """Return the key of a run that trains the recipe of `trial` on all training images."""
    return f"final-{trial}-{seed}"


def head_key(trial: int) -> str:
    """Return the key of the adapted network whose head is that of `trial`, fitted to all training images."""
    return final_key(trial, 0)


def tuned_key(trial: int) -> str:
    """Return the key of the network that is fine-tuned from the head of `trial`."""
    return final_key(trial, 1)


def seed_of(key: str) -> int:
    """Return the number of a confirmation or final among those of its recipe."""
    return int(key.rpartition("-")[2])


def trial_of(key: str) -> int:
    """Return the number of the trial whose recipe the run with this key trained; -1 if the key names none."""
    match = _KEY.fullmatch(key)
    return int(match[1]) if match is not None else -1
