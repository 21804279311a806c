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

from tests.experiments.conftest import Pages
from tests.experiments.support import WrittenPage

ANSWERS = Path(__file__).with_name("answers.jsonl")


@pytest.mark.slow
def test_compare_gives_the_same_answers_as_before(pages: Pages) -> None:
    runs = pages("runs")
    found = [
        *(line for study in ("demo", "unconfirmed", "interrupted") for line in _report(study, pages(study))),
        *(["systems", *row] for row in _cells(pages("systems").markdown)),
        ["runs", *runs.printed.partition("Report:")[0].split()],
        *(["runs", *row] for row in _cells(runs.markdown)),
    ]
    lines = sorted(json.dumps(line, ensure_ascii=False) for line in found)
    if os.environ.get("ANSWERS") == "write":
        ANSWERS.write_text("\n".join(lines) + "\n")
    assert _by_name(lines) == _by_name(ANSWERS.read_text().splitlines())


def _by_name(lines: list[str]) -> list[list[Any]]:
    return sorted(map(json.loads, lines), key=str)


def _report(study: str, page: WrittenPage) -> list[list[Any]]:
    """The verdict and all numbers; the sources and the number of runs behind each, as ids of runs differ."""
    document = json.loads((page.folder / "report.json").read_text())
    verdict = document["verdict"]
    rules = [[rule["then"], rule["holds"]] for rule in verdict["rules"]]
    numbers = document["numbers"].items()
    return [
        [study, "verdict", verdict["answer"], verdict["decided_by"], rules],
        *([study, name, _plain(number["value"]), number["unit"], *_sources(number)] for name, number in numbers),
    ]


def _plain(value: Any) -> Any:
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _sources(number: dict[str, Any]) -> list[Any]:
    sources = sorted({trace for trace in number["from"] if trace.startswith("source/")})
    return [*sources, len({trace for trace in number["from"] if trace.startswith("run/")})]


def _cells(markdown: str) -> list[list[str]]:
    """The cells of all tables, without ids of runs and marks of sources."""
    rows = [line.strip().strip("|").split(" | ") for line in markdown.splitlines() if line.startswith("|")]
    return [
        [re.sub(r"<sub>.*?</sub>|`[0-9a-f]{8,32}`|\[\d+[^\]]*\]", "", cell).strip() for cell in row]
        for row in rows
        if not set("".join(row)) <= set("-: |")
    ]
