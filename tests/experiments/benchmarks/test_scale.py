"""The benchmark of scale, with three workers that report five times a second for a second."""

from __future__ import annotations

import re

import pytest

from experiments.benchmarks import scale


@pytest.mark.slow
def test_a_row_for_each_number_of_workers(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(scale, "_INTERVAL", 0.2)
    monkeypatch.setattr(scale, "_SECONDS", 1.0)
    assert scale.main(["3"]) == 0
    *_, row = capsys.readouterr().out.splitlines()
    second = r"\d+\.\d\d s"
    cells = ["3", r"\d+ s", r"(\d+\.\d)", r"\d+ %", second, second, second, r"\d+\.\d", r"\d+ s"]
    found = re.fullmatch("[|] " + " [|] ".join(cells) + " [|]", row)
    assert found, row
    # Five each, and more where trials end early: the next one reports after half an interval on average.
    assert 1 < float(found[1]) <= 30, "points a second of three workers"
