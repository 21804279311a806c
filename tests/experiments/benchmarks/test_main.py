"""Command line of the benchmarks; people read their figures, so no test judges those."""

from __future__ import annotations

import pytest

from experiments.benchmarks.__main__ import NAMES, main


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nope"], f"NAME must be one of {', '.join(NAMES)}, but got 'nope'"),
        (["--threads", "0"], "argument --threads: must be a whole number of at least 1, but got '0'"),
    ],
)
def test_wrong_arguments_get_one_line(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    [line] = capsys.readouterr().err.splitlines()
    assert message in line


def test_absent_device_gets_one_line(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert main(["--device", "cuda"]) == 2
    assert capsys.readouterr().err == "benchmarks: error: device 'cuda' is not on this machine; it has cpu\n"
