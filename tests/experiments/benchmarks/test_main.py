"""Command line of the benchmarks; people read their figures, so no test judges those."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from cifar_core.hardware import Hardware
from experiments.benchmarks import Line
from experiments.benchmarks import __main__ as command
from experiments.benchmarks.__main__ import NAMES, main


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nope"], f"NAME must be one of {', '.join(NAMES)}, or all, but got 'nope'"),
        (
            ["--json", "no/such/bench.json"],
            "must be a file in a folder that can be written to, but got 'no/such/bench.json'",
        ),
        (["--json", "."], "argument --json: must be a file in a folder that can be written to, but got '.'"),
        (["--threads", "0"], "argument --threads: must be a whole number of at least 1, but got '0'"),
    ],
)
def test_wrong_arguments_get_one_line(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    [line] = capsys.readouterr().err.splitlines()
    assert message in line


def test_figures_are_written_as_json(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = [Line("trainer: a rule"), Line("  five_conv 1.01", "five_conv", {"over_bare_loop": 1.01})]
    monkeypatch.setattr(command, "BENCHMARKS", {"trainer": lambda hardware: iter(lines)})
    monkeypatch.setattr(command, "ensure_cifar10", lambda folder, progress: None)
    path = tmp_path / "bench.json"
    assert main(["trainer", "--device", "cpu", "--json", str(path)]) == 0
    written = json.loads(path.read_text())
    assert written["figures"] == {"trainer": {"five_conv": {"over_bare_loop": 1.01}}}
    assert set(written["machine"]) == {"processor", "instruction_set", "precision", "threads", "torch"}

    def stops(hardware: Hardware) -> Iterator[Line]:
        yield lines[0]
        raise KeyboardInterrupt

    monkeypatch.setattr(command, "BENCHMARKS", {"trainer": lambda hardware: iter(lines), "start": stops})
    path.unlink()
    assert main(["trainer", "start", "--device", "cpu", "--json", str(path)]) == 130
    assert json.loads(path.read_text())["figures"] == written["figures"]
