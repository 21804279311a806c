"""Every command starts in unkind surroundings: nobody reads what it prints, it has no home, or a poor locale."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SCRIPTS = [ROOT / "sweeps" / "run_study.py", *(ROOT / "experiments").glob("*.py")]
ACCURACY = ("ablation", "lengths", "passes", "ranking", "searches")
MODULES = ("benchmarks.__main__", "benchmarks.scale", *(f"accuracy.{name}" for name in ACCURACY))
COMMANDS = {
    **{path.stem: [str(path)] for path in sorted(SCRIPTS) if "__main__" in path.read_text(encoding="utf-8")},
    **{name: ["-m", f"experiments.{name}"] for name in MODULES},
}

# Runs each command in a process of its own that has the libraries already, as their import takes seconds. Its standard
# output is a pipe that nobody reads, its standard error a file.
UNREAD = """
import json, os, runpy, sys
import sweeps.run_study
for name, (*module, program) in json.loads(sys.argv[1]).items():
    if os.fork():
        print(name, os.waitstatus_to_exitcode(os.wait()[1]), flush=True)
        continue
    ours, theirs = os.pipe()
    os.dup2(theirs, 1)
    os.dup2(os.open(name, os.O_WRONLY | os.O_CREAT), 2)
    os.close(ours)
    os.close(theirs)
    sys.argv = [program, "--help"]
    (runpy.run_module if module else runpy.run_path)(program, run_name="__main__")
    os._exit(99)  # a command must end by itself
"""


def test_every_command_protects_its_standard_streams() -> None:
    sources = [path for folder in ("experiments", "sweeps") for path in (ROOT / folder).rglob("*.py")]
    started = [path.stem for path in sources if path.read_text(encoding="utf-8").endswith("\n    start(main)\n")]
    assert sorted(started) == sorted(name.rpartition(".")[2] for name in COMMANDS)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_help_succeeds_without_a_word_on_standard_error(tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name not in ("HOME", "LANG")}
    environment |= {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    command = [sys.executable, "-c", UNREAD, json.dumps(COMMANDS)]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [f"{name} 0" for name in COMMANDS]
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == dict.fromkeys(COMMANDS, "")
    assert done.stderr == ""
