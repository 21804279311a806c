"""Options: what each takes, and one line for those that cannot be."""

from __future__ import annotations

import re
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from cifar_core.budget import Budget
from cifar_core.machine import usable_cores
from cifar_core.transfer.backbone import ARCHITECTURES
from sweeps import options
from sweeps.command_line import server_url
from sweeps.options import build_parser
from sweeps.planning.presets import PRESETS
from sweeps.planning.space_file import SPACES
from sweeps.run_study import main
from tests.conftest import Refused

CORES = usable_cores()


pytestmark = pytest.mark.usefixtures("settings_of_this_process", "untouched")


@pytest.mark.parametrize(
    ("option", "url"),
    [
        ("--storage", "postgresql://me:hunter2@db.example/optuna"),
        ("--storage", "postgresql://db.example/optuna?user=me&password=hunter2"),
        ("--storage", "mysql+mysqldb://db.example/optuna?user=me&passwd=hunter2"),
        ("--storage", "postgresql://db.example/optuna?PASSWORD=hunter2"),
        ("--storage", "mssql+pyodbc://db.example/?odbc_connect=DRIVER%3DX%3BPWD%3Dhunter2"),
        ("--storage", "postgresql://db.example/optuna?dsn=password%3Dhunter2"),
        ("--storage", "postgresql://db.example:hunter2/with/slashes@db.example/optuna"),
        ("--tracking-uri", "http://me:hunter2@db.example:5000"),
        ("--tracking-uri", "http://db.example:5000?token=hunter2"),
        ("--tracking-uri", "https://hunter2@db.example:5000"),
        ("--tracking-uri", "http://db.example:hunter2/2@db.example"),
        ("--tracking-uri", "http://db.example:?hunter2@db.example"),
        ("--tracking-uri", "http://db.example:1#hunter2@db.example"),
    ],
)
def test_a_url_with_a_password_is_refused_and_not_printed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], option: str, url: str
) -> None:
    with pytest.raises(SystemExit, match=r"^2$"):
        main([option, url, "--store", str(tmp_path / "store")])
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "must hold no secret, which others see in the list of processes, but the URL of db.example has " in said
    assert "hunter2" not in said
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize(
    ("url", "rule"),
    [
        ("postgresql://me:hunter]2@db.example/optuna", "must be a URL, but its host is not valid"),
        ("postgresql://me@db.example:x/optuna", "must be a URL whose port is a number from 0 to 65535"),
        ("", "must be a URL, but got ''"),
    ],
)
def test_a_url_that_is_none_is_not_printed_either(capsys: pytest.CaptureFixture[str], url: str, rule: str) -> None:
    for option in ("--storage", "--tracking-uri"):
        with pytest.raises(SystemExit, match=r"^2$"):
            main([option, url, "--status"])
        assert capsys.readouterr().err == f"run_study.py: error: argument {option}: {rule} (--help lists the options)\n"


@pytest.mark.parametrize(
    "url",
    [
        "http://10.0.0.2:5000/team@x",
        "http://localhost:11434?x=a@b",
        "https://[::1]:8080/v1@x",
        "https://[::1]/v1@x",
        "databricks://scope:prefix",
        "postgresql://me@h:5/d",
    ],
)
def test_a_url_without_a_password_is_taken_as_it_is(url: str) -> None:
    assert server_url(url) == url


class TestArgumentsThatCannotBe:
    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ("--preset smoke --epochs 2", "argument --epochs: not allowed with argument --preset"),
            ("--nonsense", "unrecognized arguments: --nonsense"),
            (
                "--study Default",
                "--study must not be one of systems, range-tests, Default, vendors, which other commands or MLflow "
                "use, but got 'Default'",
            ),
            ("--verify --repair", "argument --repair: not allowed with argument --verify"),
            ("--images x --data y", "argument --data: not allowed with argument --images"),
            ("--images nothing", "--images must be a folder with pictures, but nothing is not one"),
            ("--labels a.csv", "--labels must come with --images, but there is none"),
            ("--size 48", "--size must come with --images, but there is none"),
            ("--skip-unreadable", "--skip-unreadable must come with --images, but there is none"),
            ("--adapt --adapt-only", "argument --adapt-only: not allowed with argument --adapt"),
            *(
                (
                    f"--checkpoints {path}",
                    f"argument --checkpoints: must be a folder that exists and can be written to, but got {path!r}",
                )
                for path in ("nowhere", sys.executable, "n" * 300)
            ),
            ("--backbone x", "--backbone must come with --adapt or --adapt-only, but there is neither"),
            ("--no-fine-tune", "--no-fine-tune must come with --adapt or --adapt-only, but there is neither"),
            (
                "--adapt --backbone nothing",
                f"a backbone must be one of {', '.join(ARCHITECTURES)} or a readable file, but nothing gave: "
                "No such file or directory",
            ),
        ],
    )
    def test_what_the_parser_refuses(self, refused: Refused, arguments: str, message: str) -> None:
        assert refused(*arguments.split()) == message

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ("--address a:1", "--address must come with --engine ray, but the engine is local"),
            ("--gpus-per-trial 0.5", "--gpus-per-trial must come with --engine ray, but the engine is local"),
            ("--gpus-per-trial 0", "--gpus-per-trial must come with --engine ray, but the engine is local"),
            ("--engine ray --max-latency 3", "--max-latency must come with --engine local, but the engine is ray"),
            ("--engine ray --adapt", "--adapt must come with --engine local, but the engine is ray"),
            (
                "--engine ray --device cpu --gpus-per-trial 0.5",
                "--device must be auto or cuda for trials that take a GPU, but got cpu",
            ),
            ("--engine ray --device mps", "--device must be auto or cpu for trials that take no GPU, but got mps"),
            ("--engine ray", "--engine ray needs Ray, which is not installed: pip install -e '.[cluster]'"),
        ],
    )
    def test_a_cluster(self, refused: Refused, monkeypatch: pytest.MonkeyPatch, arguments: str, message: str) -> None:
        monkeypatch.setitem(sys.modules, "ray", None)
        for name in ("ray_cluster", "ray_executor"):
            monkeypatch.delitem(sys.modules, f"sweeps.executors.{name}", raising=False)
            monkeypatch.delattr(f"sweeps.executors.{name}", raising=False)
        assert refused(*arguments.split()) == message

    @pytest.mark.parametrize(
        ("option", "values", "rule"),
        [
            ("cpus-per-trial", "0 -1 x 0.00001 inf", "a number of at least 0.0001"),
            ("gpus-per-trial", "-1 1.5 inf nan 0.00001", "a whole number or a fraction of 1 of at least 0.0001"),
            ("trials", "0 -3 x 2.5 1_000 \uff15", "a whole number of at least 1"),
            ("workers", "0", "a whole number of at least 1"),
            ("timeout", "inf 1_0", "a number above 0"),
            ("max-parameters", "0 1e6", "a whole number of at least 1"),
            ("max-latency", "0 nan", "a number above 0"),
            ("patience", "0", "a whole number of at least 1"),
            ("seed", "-1 4294967296", "a whole number in [0, 2**32)"),
            ("size", "33 6_4 x", "one of 32, 48, 64"),
            ("epochs", "0 -1 nan 20000 x", "a number above 0 and at most 10000"),
        ],
    )
    def test_the_rule_and_the_value(self, refused: Refused, option: str, values: str, rule: str) -> None:
        for value in values.split():
            assert refused(f"--{option}", value) == f"argument --{option}: must be {rule}, but got {value!r}"

    @pytest.mark.parametrize(
        ("option", "names"),
        [
            ("preset", "smoke, quick, standard, thorough"),
            ("sampler", "cmaes, gp, random, tpe"),
            ("pruner", "halving, hyperband, median, none"),
            ("device", "auto, cpu, cuda, mps"),
            ("engine", "local, ray"),
        ],
    )
    def test_an_unknown_name_and_those_that_there_are(self, refused: Refused, option: str, names: str) -> None:
        said = refused(f"--{option}", "nope").replace("'", "")  # newer versions of Python leave out the quotes
        assert said == f"argument --{option}: invalid choice: nope (choose from {names})"

    def test_a_space_that_does_not_exist(self, refused: Refused) -> None:
        assert refused("--space", "ful") == "unknown space 'ful': did you mean 'full'?"

    def test_a_space_whose_name_makes_no_study(self, refused: Refused, tmp_path: Path) -> None:
        space = tmp_path / f"{'ü' * 100}.toml"
        space.write_text(SPACES["fast"].text)
        assert refused("--space", str(space), "--preset", "smoke") == (
            f"--study must be a name of at most 200 letters once quoted for a folder, but got 'smoke-{space.stem}'"
        )

    @pytest.mark.parametrize("name", ["", " ", "a/b", "..", "-x", "ü" * 100])
    def test_a_name_that_no_study_can_have(self, refused: Refused, name: str, tmp_path: Path) -> None:
        rule = "without slashes that begins with no dot or hyphen"
        if len(name) == 100:
            rule = "of at most 200 letters once quoted for a folder"
        for images in ((), ("--images", str(tmp_path))):  # said before pictures are looked for
            assert refused(f"--study={name}", *images) == f"--study must be a name {rule}, but got {name!r}"

    @pytest.mark.parametrize("name", ["a\nb", "\x1b[31mred", "bell\a", "\u202eback"])
    def test_a_name_that_would_change_the_terminal(self, refused: Refused, name: str) -> None:
        rule = "must be a name without line breaks and control characters"
        assert refused("--study", name) == f"--study {rule}, but got {name!r}"

    @pytest.mark.parametrize("inside", ["", "artifacts"])
    def test_checkpoints_among_the_other_files_of_a_store(self, refused: Refused, tmp_path: Path, inside: str) -> None:
        folder = tmp_path / "store" / inside
        folder.mkdir(parents=True)
        message = f"--checkpoints must be a folder outside the store, but got {folder}"
        assert refused("--checkpoints", str(folder)) == message

    def test_more_workers_than_the_machine_can_run(self, refused: Refused) -> None:
        said = refused("--workers", "100000")
        assert re.fullmatch(r"--workers must be at most \d+ on a machine with .*, but got 100000", said)

    @pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
    def test_a_device_that_is_not_there(self, refused: Refused) -> None:
        said = refused("--device", "cuda")
        assert re.match(r"device 'cuda' is not on this machine; it has (mps, )?cpu", said)


class TestRecipesThatCannotBe:
    @pytest.mark.parametrize(
        ("content", "message"),
        [
            ("learning_rat = 0.1", r"unknown recipe field 'learning_rat': did you mean 'learning_rate'\?"),
            (
                "batch_size = 50000\nwidth = 2.0",
                r"a budget must cover two training steps, but 3e\+12 FLOPs cover \d\.\d\d of fast_resnet "
                r"at batch size 50000",
            ),
        ],
    )
    def test_the_rule_and_the_value(self, refused: Refused, tmp_path: Path, content: str, message: str) -> None:
        recipe = tmp_path / "r.toml"
        recipe.write_text(content)
        said = refused("--enqueue", str(recipe), "--preset", "smoke")
        assert re.fullmatch(message, said.removeprefix(f"{recipe}: "))

    def test_recipes_of_several_options_are_all_tried(self) -> None:
        options = build_parser().parse_args(["--enqueue", "five_conv", "--enqueue", "fast94", "three_conv"])
        assert options.enqueue == ["five_conv", "fast94", "three_conv"]

    @pytest.mark.slow
    def test_epochs_without_two_steps(self, refused: Refused) -> None:
        message = "--epochs must cover two training steps of two images, but 8e-05 of 45,000 images are 3.6"
        assert refused("--device", "cpu", "--epochs", "8e-5") == message

    @pytest.mark.slow
    @pytest.mark.parametrize("names", [("dynamic_conv",), ("systems", "dynamic_conv")])
    def test_a_system_by_its_own_name_does_not_shrink_to_the_budget(
        self, refused: Refused, names: tuple[str, ...]
    ) -> None:
        assert refused("--device", "cpu", "--space", "systems", "--enqueue", *names) == (
            "a budget must cover two training steps, but 6e+12 FLOPs cover 0.86 of dynamic_conv at batch size 128"
        )

    @pytest.mark.slow
    def test_a_group_with_a_system_that_is_too_dear_even_when_narrow(
        self, refused: Refused, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        tiny = replace(PRESETS["smoke"], trial=Budget(flops=1e8, max_epochs=1))
        monkeypatch.setattr(options, "PRESETS", {**PRESETS, "smoke": tiny})
        assert refused("--preset", "smoke", "--enqueue", "systems") == (
            "a budget must cover two training steps, but 1e+08 FLOPs cover 1.94 of five_conv at batch size 2"
        )


class TestHelp:
    def test_help_mentions_every_option_with_its_meaning(
        self, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("COLUMNS", "80")
        with pytest.raises(SystemExit) as ended:
            main(["--help"])
        assert ended.value.code == 0
        said = capsys.readouterr().out
        options = [option for action in build_parser()._actions for option in action.option_strings]
        expected = (
            "--trials --space --preset --epochs --seed --sampler --pruner --enqueue --timeout --patience "
            "--no-starts --no-confirm --from --max-parameters --max-latency --device "
            "--notify "
            "--workers --data --study --store --keep-weights --tracking-uri --storage --status --verify --replay"
        )
        assert set(expected.split()) <= set(options)
        assert all(re.search(rf"^  (-h, )?{option}\b", said, re.MULTILINE) for option in options if option != "-h")
        assert all(action.help for action in build_parser()._actions)
        assert all(len(line) <= 80 for line in said.splitlines())
