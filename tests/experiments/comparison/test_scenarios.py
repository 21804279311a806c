from __future__ import annotations

from pathlib import Path

import pytest

from experiments import compare
from experiments.reading.scenario import DEFAULT_SCENARIO
from tests.conftest import Refused
from tests.experiments.fake_store import Fake
from tests.experiments.support import tables_are_even


@pytest.fixture
def house(tmp_path: Path) -> Path:
    """The shipped scenario, but the images may not leave the house, and there is no download."""
    text = DEFAULT_SCENARIO.read_text().replace("data_stays_in_house = false", "data_stays_in_house = true")
    path = tmp_path / "house.toml"
    path.write_text(text[: text.index("[[download]]")])
    return path


def test_scenarios_stand_side_by_side(store: Fake, tmp_path: Path, house: Path) -> None:
    out = tmp_path / "out"
    options = ["--store", str(store.folder), "--study", "demo", "--out", str(out)]
    assert compare.main([*options, "--scenario", str(DEFAULT_SCENARIO), str(house)]) == 0
    assert {path.name for path in out.iterdir()} == {"scenarios.html", "scenarios.md"}
    text = (out / "scenarios.md").read_text()
    assert "They differ: “Not yet: measure GPT-6 Luna” and “Build”." in text
    assert "| **Answer** | **Not yet: measure GPT-6 Luna** | **Build** |" in text
    assert "| Data | may be sent to services | may not leave the house |" in text
    assert "| ViT-B/16 | 60 h to adapt and test it; published at 96.8 to 98.9 % | \N{EN DASH} |" in text
    assert "Images a month" not in text  # the same in both
    named = "$3,346 (accuracy and latency unknown) **in the answer**"
    assert f"| GPT-6 Luna | {named} | $3,346 (misses data) |" in text
    assert "## Cost of every way over 3 years\n" in text
    assert text.count("**in the answer**") == text.count("(clears all bars) **in the answer** |\n") + 1 == 2
    assert "| ViT-B/16 | at least $9,824 (latency and price unknown) | \N{EN DASH} |" in text
    tables_are_even(text)


@pytest.mark.parametrize(
    ("old", "new", "row"),
    [
        ("usd_per_label = 0.036", "usd_per_label = 0.0364", "| Labels | 0 at hand, "),
        ("latency_bar_ms = 1000", "latency_bar_ms = 1049", "| Latency bar | 1 s | 1.049 s |"),
        ("horizon_years = 3", "horizon_years = 3.001", "| Horizon | 3 years | 3.001 years |"),
        ("horizon_years = 3", "horizon_years = 0.5", "| Horizon | 3 years | 6 months |"),
        ("horizon_years = 3", "horizon_years = 0.08333333333333333", "| Horizon | 3 years | 1 month |"),
        ("images_per_month = 250_000", "images_per_month = 1e13", "| Images a month | 250,000 | 10,000,000,000,000 |"),
        ("engineering_hours = 84", "engineering_hours = 84.00001", "84 h to build, 12 h a year to maintain, at "),
        ("labels_at_hand = 0", "labels_at_hand = 0.4", "| 0.4 at hand, "),
        ("# compute = ", "compute = 0.08160001 #", "$0.08160001 an hour"),
        (
            'training = "vertex-training"',
            'training = "vertex-training"\nstored_images = 5000',
            "| Google Vertex AutoML | ",
        ),
    ],
)
def test_whatever_changes_a_cost_is_among_what_differs(
    store: Fake, tmp_path: Path, old: str, new: str, row: str
) -> None:
    text = "labels_at_hand = 0\n" + DEFAULT_SCENARIO.read_text()
    paths = tmp_path / "one.toml", tmp_path / "other.toml"
    for path, content in zip(paths, (text, text.replace(old, new, 1)), strict=True):
        path.write_text(content)
    options = ["--store", str(store.folder), "--study", "demo", "--out", str(tmp_path / "out")]
    assert compare.main([*options, "--scenario", *map(str, paths)]) == 0
    differing = (tmp_path / "out" / "scenarios.md").read_text().partition("Cost of every way")[0]
    assert row in differing


def test_a_fault_in_one_of_them_is_one_line(store: Fake, tmp_path: Path, house: Path, refused: Refused) -> None:
    (tmp_path / "bad.toml").write_text("images_per_month = 0")
    options = ["--store", str(store.folder), "--out", str(tmp_path / "out"), "--scenario", str(house)]
    assert refused(compare.main, *options, str(tmp_path / "bad.toml")).startswith("bad.toml: ")
    assert (
        refused(compare.main, *options, str(house))
        == f"--scenario must name different files, but got {house} more than once"
    )
    assert not (tmp_path / "out").exists()
