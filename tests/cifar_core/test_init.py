"""The package can be imported by a user whom the system does not know."""

from __future__ import annotations

import subprocess
import sys

SCRIPT = """
import os
os.environ.pop("HOME", None)
os.getuid = lambda: 987_654
import cifar_core
from pathlib import Path
print(Path.home())
"""


def test_a_user_without_a_home_gets_one() -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True)
    assert done.stdout == "/\n"
