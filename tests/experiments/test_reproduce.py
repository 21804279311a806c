"""The command line of reproduce.py; tests/experiments/systems/test_training.py runs it."""

from __future__ import annotations

from pathlib import Path

import pytest

from cifar_core.recipe import Recipe
from experiments import reproduce


class TestWrongArguments:
    def refused(self, tmp_path: Path, capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
        folders = ("--store", str(tmp_path / "store"), "--results", str(tmp_path / "results"))
        try:
            code: object = reproduce.main([*arguments, *folders])
        except SystemExit as ended:
            code = ended.code
        said = capsys.readouterr()
        assert (code, said.out) == (2, "")
        assert not (tmp_path / "store").exists(), "nothing is written"
        [line] = said.err.splitlines()
        return line.removeprefix("reproduce.py: error: ").removesuffix(" (--help lists the options)")

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ("three_convs", "unknown recipe 'three_convs': did you mean 'three_conv'?"),
            ("three_conv five_kon", "unknown recipe 'five_kon': did you mean 'five_conv'?"),
            ("three_conv --epochs 0", "argument --epochs: must be a number above 0 and at most 10000, but got '0'"),
            ("three_conv --epochs nan", "argument --epochs: must be a number above 0 and at most 10000, but got 'nan'"),
            ("three_conv --seeds 0", "argument --seeds: must be a whole number of at least 1, but got '0'"),
            ("", "the following arguments are required: NAME"),
        ],
    )
    def test_the_rule_and_the_value(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: str, message: str
    ) -> None:
        assert self.refused(tmp_path, capsys, *arguments.split()) == message

    def test_two_recipes_of_one_name(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        path = tmp_path / "three_conv.toml"
        path.write_text(Recipe().to_toml())
        said = self.refused(tmp_path, capsys, "all", str(path))
        assert said == "recipes must have different names, but 'three_conv' was given twice"


def test_results_must_be_a_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results = tmp_path / "results"
    results.write_text("mine")
    folders = ("--store", str(tmp_path / "store"), "--results", str(results))
    assert reproduce.main(["three_conv", *folders, "--device", "cpu"]) == 2
    said = capsys.readouterr()
    rule = "reproduce.py: error: --results must be a folder to write to, but: "
    assert (said.out, said.err) == ("", f"{rule}[Errno 17] File exists: '{results}'\n")
    assert results.read_text() == "mine"


def test_help_names_the_systems_and_every_option(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        reproduce.main(["--help"])
    assert ended.value.code == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "five_conv, three_conv, block_cnn, dynamic_conv, custom_resnet, all, or a TOML file" in said
    assert all(action.help for action in reproduce.build_parser()._actions)
