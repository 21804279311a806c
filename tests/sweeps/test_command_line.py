from __future__ import annotations

import pytest

from cifar_core.errors import UserError
from sweeps.command_line import OneLineParser, run_command


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (UserError("a must be b, but got c"), "a must be b, but got c"),
        (RuntimeError("can't allocate memory: 8 bytes\nmore"), "out of memory: can't allocate memory: 8 bytes"),
        (MemoryError("no room"), "out of memory: no room"),
    ],
)
def test_what_the_user_can_mend_is_one_line(capsys: pytest.CaptureFixture[str], error: Exception, said: str) -> None:
    def command() -> int:
        raise error

    assert run_command(OneLineParser(prog="x.py"), command, stopped="") == 2
    assert capsys.readouterr().err == f"x.py: error: {said}\n"


def test_an_error_of_ours_keeps_its_traceback() -> None:
    def command() -> int:
        raise RuntimeError("shapes do not match")

    with pytest.raises(RuntimeError, match=r"^shapes do not match$"):
        run_command(OneLineParser(prog="x.py"), command, stopped="")
