"""The benchmarks' command line; what they measure is for people to read, not for tests to judge."""

from __future__ import annotations

import pytest

from experiments.benchmarks import trainer as bench


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nope"], "NAME must be one of trainer, memory, winograd, trial, overhead, resume, but got 'nope'"),
        (["--threads", "0"], "argument --threads: must be a whole number of at least 1, but got '0'"),
    ],
)
def test_wrong_arguments_get_one_line(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        bench.main(arguments)
    assert ended.value.code == 2
    [line] = capsys.readouterr().err.splitlines()
    assert message in line


def test_absent_device_gets_one_line(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert bench.main(["--device", "cuda"]) == 2
    assert capsys.readouterr().err == (
        "experiments.benchmarks.trainer: error: device 'cuda' is not on this machine; it has cpu\n"
    )
