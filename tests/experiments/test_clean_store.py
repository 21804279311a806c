"""The command that cleans a store: what it prints, and that nothing goes without a yes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from unittest.mock import Mock

import pytest

from experiments import clean_store
from sweeps.checks.cleaning import Waste
from sweeps.store import Store


@pytest.mark.parametrize(
    ("arguments", "answer", "last"),
    [
        ([], None, "Nothing was removed; --yes does it."),
        ([], "n", "Nothing was removed."),
        ([], EOFError, "Nothing was removed."),
        ([], "y", "Removed; 2.0 MB freed."),
        (["--yes"], None, "Removed; 2.0 MB freed."),
    ],
)
def test_it_shows_and_asks(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: Sequence[str],
    answer: str | type[EOFError] | None,
    last: str,
) -> None:
    (tmp_path / "big").write_bytes(bytes(2_000_000))
    waste = [Waste("mine", "trial-1\x1b[2K, deleted in MLflow", (tmp_path / "big",))]
    removed: list[object] = []
    monkeypatch.setattr(clean_store, "find_waste", lambda store: waste)
    monkeypatch.setattr(clean_store, "remove", lambda store, found: removed.append((store, found)))
    monkeypatch.setattr("sys.stdin.isatty", lambda: answer is not None)
    monkeypatch.setattr("builtins.input", Mock(side_effect=[answer]))
    assert clean_store.main([*arguments, "--store", str(tmp_path)]) == 0
    assert [line for line in capsys.readouterr().out.splitlines() if line] == [
        r"   2.0 MB  mine: trial-1\x1b[2K, deleted in MLflow",
        "   2.0 MB  in all",
        last,
    ]
    assert removed == ([(Store.locate(tmp_path), waste)] if last.startswith("Removed") else [])


def test_errors_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert clean_store.main(["--store", str(tmp_path)]) == 2
    said = f"clean_store.py: error: a store must hold a study, but there is no {tmp_path / 'mlflow.db'}: "
    assert capsys.readouterr().err.startswith(said)
