"""The answers of `compare.py` for three small studies, the published systems and a set of runs, held by a file.

After a change that is meant to change an answer, write the file again with
`ANSWERS=write pytest tests/experiments/test_same_answers.py` and read its diff.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest

from experiments.compare import main
from tests.experiments.conftest import Fake

ANSWERS = Path(__file__).with_name("answers.jsonl")


def test_compare_gives_the_same_answers_as_before(
    store: Fake, rivals: Fake, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = [
        *(line for study in ("demo", "unconfirmed", "interrupted") for line in _report(store, study, tmp_path / study)),
        *(["systems", *row] for row in _systems(tmp_path / "systems")),
        *(["runs", *row] for row in _runs(rivals, tmp_path / "runs", capsys)),
    ]
    lines = sorted(json.dumps(line, ensure_ascii=False) for line in found)
    if os.environ.get("ANSWERS") == "write":
        ANSWERS.write_text("\n".join(lines) + "\n")
    assert lines == ANSWERS.read_text().splitlines()


def _report(store: Fake, study: str, out: Path) -> list[list[Any]]:
    """The verdict and all numbers; the sources and the number of runs behind each, as ids of runs differ."""
    assert main(["--store", str(store.folder), "--study", study, "--out", str(out)]) == 0
    document = json.loads((out / "report.json").read_text())
    verdict = document["verdict"]
    rules = [[rule["then"], rule["holds"]] for rule in verdict["rules"]]
    numbers = document["numbers"].items()
    return [
        [study, "verdict", verdict["answer"], verdict["decided_by"], rules],
        *([study, name, number["value"], number["unit"], *_sources(number)] for name, number in numbers),
    ]


def _sources(number: dict[str, Any]) -> list[Any]:
    sources = sorted({trace for trace in number["from"] if trace.startswith("source/")})
    return [*sources, len({trace for trace in number["from"] if trace.startswith("run/")})]


def _systems(out: Path) -> list[list[str]]:
    assert main(["systems", "--out", str(out)]) == 0
    return _cells((out / "systems.md").read_text())


def _runs(rivals: Fake, out: Path, capsys: pytest.CaptureFixture[str]) -> list[list[str]]:
    capsys.readouterr()
    names = ["good", "level", "bad", "twice", "--baseline", "good"]
    assert main(["--store", str(rivals.folder), "--out", str(out), "--runs", *names]) == 0
    printed = capsys.readouterr().out
    return [printed.partition("Report:")[0].split(), *_cells((out / "runs.md").read_text())]


def _cells(markdown: str) -> list[list[str]]:
    """The cells of all tables, without ids of runs and marks of sources."""
    rows = [line.strip().strip("|").split(" | ") for line in markdown.splitlines() if line.startswith("|")]
    return [
        [re.sub(r"`[0-9a-f]{8,32}`|\[\d+[^\]]*\]", "", cell).strip() for cell in row]
        for row in rows
        if not set("".join(row)) <= set("-: |")
    ]
