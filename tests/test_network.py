"""A sweep on two nodes whose link is cut: an oracle finds every trial whole, to the same bits."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("ray", reason="Ray is not installed: make test-cluster")

from tests.torture.driver import ROOT, Torture
from tests.torture.network import LinkedNodes, can_be_made
from tests.torture.oracle import Judgement

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.slow,
    pytest.mark.skipif(not can_be_made(), reason="network namespaces need root, and the program ip"),
]
_SHORT, _LONG = 30.0, 100.0  # seconds; Ray gives up a node that was silent for the longer time, but not the shorter


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[LinkedNodes]:
    linked = LinkedNodes(tmp_path / "token")
    try:
        linked.start()
        yield linked
    finally:
        linked.remove()


@pytest.mark.real_data
@pytest.mark.timeout(1800)
def test_a_link_that_is_cut_twice_leaves_no_trace(tmp_path: Path, nodes: LinkedNodes) -> None:
    engine = ("--engine", "ray", "--address", nodes.address)
    torture = Torture(tmp_path, 0, epochs=3.0, engine=engine, within=nodes.within(0), environment=nodes.environment)

    without = {name: value for name, value in (os.environ | nodes.environment).items() if name != "RAY_AUTH_TOKEN_PATH"}
    refused = subprocess.run(
        torture.command(), cwd=ROOT, env={**without, "HOME": str(tmp_path)}, capture_output=True, text=True
    )
    assert refused.returncode == 2, refused.stderr
    assert "--address must be that of a running Ray cluster (and with its token, if it asks for one)" in refused.stderr
    assert not torture.store.exists()

    with torture.sweep() as driver:
        while len({line["pid"] for line in torture.acknowledged()}) < 2:  # until both nodes train
            assert torture.wait_for_points(driver, 1), torture.log
        nodes.cut()
        time.sleep(_SHORT)
        nodes.restore()
        assert torture.wait_for_points(driver, 4), torture.log
        assert "worker died" not in "".join(torture.log)
        nodes.cut()
        time.sleep(_LONG)
        nodes.restore()
        nodes.join_again()
        driver.wait()
    torture.finish()
    said = "".join(torture.log)
    assert "worker died: node node-1 is gone; it resumes from its last checkpoint" in said
    found = torture.judge()
    assert found == Judgement(found.trials, found.acknowledged, lost=0, doubled=0, stuck=0, unequal=0)
    assert found.trials == 4
