"""Importing the package sets up the process: a home for a user whom the system does not know, threads that sleep."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

HOME = """
import os
os.environ.pop("HOME", None)
os.getuid = lambda: 987_654
import cifar_core
from pathlib import Path
print(Path.home())
"""


def test_a_user_without_a_home_gets_one() -> None:
    done = subprocess.run([sys.executable, "-c", HOME], capture_output=True, text=True, check=True)
    assert done.stdout == "/\n"


@pytest.mark.parametrize(
    ("chosen", "spins"),
    [({}, "1000"), ({"GOMP_SPINCOUNT": "5"}, "5"), ({"OMP_WAIT_POLICY": "active"}, None)],
    ids=["by default", "a count of the user's", "a policy of the user's"],
)
def test_waiting_threads_sleep_unless_the_user_chose(chosen: dict[str, str], spins: str | None) -> None:
    environment = {name: value for name, value in os.environ.items() if "OMP_" not in name} | chosen
    command = [sys.executable, "-c", "import os, cifar_core; print(os.environ.get('GOMP_SPINCOUNT'))"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == f"{spins}\n"
