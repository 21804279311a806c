"""Recipes by name: the shipped ones, and errors about others."""

from __future__ import annotations

from pathlib import Path

import pytest

from cifar_core.budget import step_flops
from cifar_core.data.data_set import CIFAR10
from cifar_core.models import MODELS
from cifar_core.recipe import Recipe, RecipeError
from cifar_core.recipes import FOLDER, NAMES, SYSTEMS, expand, read_recipe
from cifar_core.training import total_steps
from tests.cifar_core.support import refusal


def refused(name: str | Path) -> str:
    return refusal(lambda: read_recipe(str(name)), RecipeError)


class TestShipped:
    def test_each_has_a_name(self) -> None:
        assert sorted(path.stem for path in FOLDER.glob("*.toml")) == sorted(NAMES)

    @pytest.mark.parametrize("name", SYSTEMS)
    def test_a_system_is_the_network_of_its_name(self, name: str) -> None:
        recipe = read_recipe(name)
        assert (recipe.model, recipe.width) == (name, 1.0)

    @pytest.mark.parametrize(("name", "petaflops"), [("fast94", 0.26), ("fast96", 6.1)])
    def test_a_fast_one_trains_on_all_images_for_at_most(self, name: str, petaflops: float) -> None:
        recipe = read_recipe(name)
        assert recipe.val_fraction == 0
        assert step_flops(recipe, CIFAR10) * total_steps(recipe, 50_000) <= petaflops * 1e15

    @pytest.mark.parametrize("name", NAMES)
    def test_each_says_how_to_run_it(self, name: str) -> None:
        text = (FOLDER / f"{name}.toml").read_text(encoding="utf-8")
        assert text.startswith(f"# {name}: ")
        assert f"# run      python experiments/reproduce.py {name}" in text


@pytest.mark.parametrize(
    ("names", "group", "expected"),
    [
        (
            ["mine.toml", "three_conv", "systems", "mine.toml"],
            "systems",
            ("mine.toml", "three_conv", "five_conv", "block_cnn", "dynamic_conv", "custom_resnet"),
        ),
        (["all"], "systems", ("all",)),
    ],
)
def test_group_is_replaced_by_its_members_each_once(names: list[str], group: str, expected: tuple[str, ...]) -> None:
    assert expand(names, group) == list(expected)


class TestFiles:
    @pytest.fixture
    def path(self, tmp_path: Path) -> Path:
        path = tmp_path / "mine.toml"
        path.write_text('model = "five_conv"\nepochs = 2')
        return path

    def test_by_path(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        expected = Recipe(model="five_conv", epochs=2.0)
        assert read_recipe(str(path)) == expected
        monkeypatch.chdir(path.parent)
        assert read_recipe("mine.toml") == read_recipe("./mine.toml") == expected

    def test_an_ending_of_its_own_needs_a_slash(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        path.rename(path.with_suffix(".txt"))
        monkeypatch.chdir(path.parent)
        assert read_recipe("./mine.txt").epochs == 2
        assert refused("mine.txt").startswith("unknown recipe 'mine.txt': ")

    def test_a_file_in_the_way_does_not_hide_a_name(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "five_conv").write_text("epochs = 1")
        monkeypatch.chdir(tmp_path)
        assert read_recipe("five_conv").epochs == 40


class TestRefusals:
    def test_a_name_that_is_close(self) -> None:
        assert refused("airbench").startswith("unknown recipe 'airbench': it is a network; the recipes are block_cnn, ")
        assert refused("three-conv") == "unknown recipe 'three-conv': did you mean 'three_conv'?"
        assert refused("Dynamic_conv") == "unknown recipe 'Dynamic_conv': did you mean 'dynamic_conv'?"

    @pytest.mark.parametrize("name", ["xyz", "", "all"])
    def test_a_name_that_is_not(self, name: str) -> None:
        assert refused(name) == (
            f"unknown recipe {name!r}: the recipes are block_cnn, custom_resnet, dynamic_conv, fast94, fast96, "
            "five_conv, three_conv; a file's name ends in .toml"
        )

    def test_a_name_that_would_change_the_terminal(self, tmp_path: Path) -> None:
        path = tmp_path / "a\x1b[31m.toml"
        path.write_text("")
        rule = "a recipe file's name must have no line breaks and control characters"
        assert refused(path) == f"{rule}, but got {str(path)!r}"

    @pytest.mark.parametrize(
        ("name", "cause"),
        [
            ("missing.toml", "No such file or directory"),
            (".", "Is a directory"),
            ("binary.toml", "'utf-8' codec can't decode byte 0xff in position 0: invalid start byte; save it as UTF-8"),
        ],
    )
    def test_unreadable(self, tmp_path: Path, name: str, cause: str) -> None:
        (tmp_path / "binary.toml").write_bytes(b"\xff\x00")
        path = tmp_path / name
        assert refused(path) == f"a recipe file must be readable text, but {path} gave: {cause}"

    def test_without_end(self) -> None:
        assert refused("/dev/zero") == "a recipe file must have at most 100,000 bytes, but /dev/zero has more"

    @pytest.mark.parametrize(
        ("content", "reason"),
        [
            ("model = five_conv", "a recipe must be valid TOML, but: "),
            ("model = 'alexnet'", f"unknown model 'alexnet'; expected one of {', '.join(sorted(MODELS))}"),
        ],
    )
    def test_no_recipe(self, tmp_path: Path, content: str, reason: str) -> None:
        path = tmp_path / "mine.toml"
        path.write_text(content)
        assert refused(path).startswith(f"{path}: {reason}")
