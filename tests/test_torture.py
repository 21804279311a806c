"""A kill of a worker and one of the coordinator leave no trace: the short form of `make torture`."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.torture.driver import Torture, main
from tests.torture.oracle import Judgement


@pytest.mark.long
@pytest.mark.real_data
@pytest.mark.timeout(600)
def test_kills_leave_no_trace(tmp_path: Path) -> None:
    torture = Torture(tmp_path, seed=0, trials=2, epochs=0.05)
    with torture.sweep() as process:
        assert torture.wait_for_points(process, 1)
        torture.kill_worker(process)
        assert torture.injected == {"SIGKILL of a worker": 1}
        assert torture.wait_for_points(process, 1)
        process.kill()
    torture.finish()
    found = torture.judge()
    assert found.acknowledged >= 3 * found.trials, "the oracle must have seen what it judges: all but the last of four"
    assert found == Judgement(found.trials, found.acknowledged, lost=0, doubled=0, stuck=0, unequal=0)
    assert not list((torture.store / "checkpoints").rglob("*.safetensors"))


def test_a_phase_that_does_not_exist(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.argv", ["driver.py", "kils"])
    with pytest.raises(SystemExit, match="2"):
        main()
    assert capsys.readouterr().err == (
        "driver.py: error: a phase must be one of kills, stops, outages, full_disk, crowd, confirmed, edited, but got "
        "'kils' (--help lists the options)\n"
    )
