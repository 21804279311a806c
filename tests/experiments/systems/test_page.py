from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from cifar_core.data.data_set import CIFAR10
from experiments import compare
from experiments.systems.page import headline, render
from tests.conftest import Refused
from tests.experiments.fake_store import Fake
from tests.experiments.results import RECIPES, content, run_id, system, systems, write
from tests.experiments.support import prose


@pytest.fixture(scope="module")
def both_formats(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    folder = tmp_path_factory.mktemp("results")
    for seed, right in enumerate((6400, 6500, 6600)):
        write(folder, "three_conv", seed, right=right)
    write(folder, "five_conv", right=8400)
    write(folder, "dynamic_conv", 1002, epochs=7)
    write(folder, "custom_resnet", epochs=5, test=None)
    files = render(list(systems(folder).values()))
    return prose(files["systems.html"].decode()), files["systems.md"].decode()


@pytest.mark.parametrize(
    "words",
    [
        "Two of the five published systems do, within a point: five_conv and three_conv. Of the others, ",
        "five_conv reaches 84.00 % on the test images (one run), 0.52 points below the published 84.52 %",
        "three_conv reaches 65.00 % on the test images (mean of 3 runs), 0.24 points above the published 64.76 %",
        "block_cnn: not run yet; 92 % was published.",
        "dynamic_conv was run for 7 of 60 planned epochs",
        "not tested yet",
        "reproduction of three_conv, seed 1, 50 of 50 epochs",
        run_id("three_conv", 1),
        "a processor of 2 cores, 1 thread, bf16",
        "undated",
        "Caveats",
    ],
)
def test_both_formats_state(both_formats: tuple[str, str], words: str) -> None:
    assert all(words in text for text in both_formats)


def test_the_page_is_written_into_the_store_and_its_place_printed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path / "results", "block_cnn", epochs=0.64)
    assert compare.main(["systems", "--results", str(tmp_path / "results"), "--store", str(tmp_path)]) == 0
    out = tmp_path / "reports" / "systems"
    assert capsys.readouterr().out.splitlines() == [f"Report: {out / 'systems.html'}", f"        {out / 'systems.md'}"]
    assert (out / "systems.md").is_file()


@pytest.mark.parametrize(
    ("right", "words"),
    [
        ({}, "None of the five published systems has been run to the end"),
        ({"five_conv": 8500}, "One of .* does, within a point: five_conv. Of the others, .* have not been run to the"),
        ({"five_conv": 8000}, "None of the five .* does, within a point: five_conv is more than a point below; .*"),
        ({"five_conv": 8500, "three_conv": 6500}, "Two of .* do, within a point: five_conv and three_conv. Of the"),
        ({"five_conv": 8500, "three_conv": 6000}, "One .*: five_conv. Of the others, three_conv is more than a point "),
        ({"five_conv": 8000, "three_conv": 6000}, "None .*: five_conv and three_conv are more than a point below; "),
    ],
)
def test_the_headline_names_the_systems_that_come_out_as_published(
    tmp_path: Path, right: dict[str, int], words: str
) -> None:
    write(tmp_path, "dynamic_conv", 1002, epochs=2)
    for name, count in right.items():
        write(tmp_path, name, right=count)
    assert re.search(words, headline(list(systems(tmp_path).values())).text)


SEEN = "Ours is solid, what was published is dashed: "
WEAK_CATS = content("three_conv", right=6500)["test"] | {
    "class_accuracy": dict.fromkeys(CIFAR10.classes, 0.65) | {"cat": 0.55}
}


@pytest.mark.parametrize(
    ("name", "runs", "words"),
    [
        ("five_conv", [{}], f"{SEEN}over the first 250 batches of epoch 20 the mean training loss is"),
        (
            "three_conv",
            [{}],
            f"{SEEN}validation loss is 0.60 nats an image where ours is lowest, 1.09 where the published one is",
        ),
        ("block_cnn", [{}], f"{SEEN}only the accuracy at the end was published, 92 %"),
        ("custom_resnet", [{}], f"{SEEN}at epoch 24 test accuracy is 80.00 % for ours and 90.06 % as published"),
        ("custom_resnet", [{}, {"epochs": 4}], "Seed 1 has not come to the end of its schedule: not counted."),
        (
            "dynamic_conv",
            [{"recipe": {**RECIPES["dynamic_conv"], "width": 0.125}}],
            "Seed 0 was trained by another recipe than the shipped one (width 0.125 instead of 1.0): not counted.",
        ),
        (
            "custom_resnet",
            [{"epochs": 5, "watched": "validation"}],
            "Our curve by epoch is of validation images, the published one of the test images.",
        ),
        (
            "block_cnn",
            [{"epochs": 0.64}],
            "No run of the shipped recipe has completed an epoch, so there are no curves yet.",
        ),
        (
            "three_conv",
            [{"epochs": 3}],
            "17.78 points less often on animals than on vehicles; ours has not been run to the end of its schedule.",
        ),
        (
            "three_conv",
            [{"right": 6500, "test": WEAK_CATS}],
            "The published network is right 17.78 points less often on animals than on vehicles, ours 1.67 points.",
        ),
        (
            "three_conv",
            [{}],
            "| Test accuracy (ours of the weights with the lowest validation loss, of epoch 50) |",
        ),
        (
            "three_conv",
            [{}, {"right": 1000}],
            "- Tested are the weights with the lowest validation loss, of epochs 50 and 50; at the end validation "
            "accuracy is 10 to 80 %.",
        ),
        ("five_conv", [{}], "| Test accuracy at the end |"),
        ("dynamic_conv", [{}], "| Best test accuracy of any epoch | 89.21 % (epoch 55) | 80.00 % (epoch 58) | -9.21"),
    ],
)
def test_the_section_of_a_system_says(tmp_path: Path, name: str, runs: list[dict[str, Any]], words: str) -> None:
    system(tmp_path, name, *runs)
    assert words in render(list(systems(tmp_path).values()))["systems.md"].decode()


def test_a_broken_result_ends_both_commands_with_one_line(store: Fake, tmp_path: Path, refused: Refused) -> None:
    write(tmp_path / "results", "five_conv", kept="first")
    given = ["--store", str(store.folder), "--results", str(tmp_path / "results"), "--out", str(tmp_path / "out")]
    for arguments in (["systems", *given], given):
        assert refused(compare.main, *arguments).startswith("five_conv-seed0.json: kept must be ")
    assert not (tmp_path / "out").exists()
