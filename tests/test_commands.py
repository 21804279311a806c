"""Every command starts in unkind surroundings: nobody reads what it prints, it has no home, or a poor locale."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
COMMANDS = {
    "run_study": ["sweeps/run_study.py"],
    **{name: [f"experiments/{name}.py"] for name in ("compare", "reproduce", "lr_find", "predict")},
    "benchmarks": ["-m", "experiments.benchmarks"],
}

# Becomes a program in place of this process; its standard output is a pipe that nobody reads.
UNREAD = """
import os, sys
ours, theirs = os.pipe()
os.dup2(theirs, 1)
os.close(ours)
os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
"""


@pytest.mark.slow
@pytest.mark.timeout(120)
@pytest.mark.parametrize("name", COMMANDS)
def test_help_succeeds_without_a_word_on_standard_error(name: str) -> None:
    environment = {name: value for name, value in os.environ.items() if name not in ("HOME", "LANG")}
    environment |= {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    command = [sys.executable, "-c", UNREAD, *COMMANDS[name], "--help"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
