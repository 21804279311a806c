from __future__ import annotations

import datetime
from pathlib import Path

import pytest

from experiments.reading.published import DEFAULT_PATH, Dated, PublishedError, load_published

TODAY = datetime.date(2026, 11, 21)


def test_the_shipped_file_holds_the_published_benchmarks_and_the_bar() -> None:
    published = load_published()
    benchmarks = {a.key: a.accuracy for a in published.group("benchmark")}
    assert benchmarks == {"dbn": 0.789, "maxout": 0.906, "wrn": 0.96, "gpipe": 0.99, "rnn": 0.985}
    assert {a.key for a in published.group("benchmark") if a.same_data} == {"maxout", "wrn"}
    systems = {a.key: a.accuracy for a in published.group("system")}
    assert systems == {
        "five_conv": 0.8452, "three_conv": 0.6476, "block_cnn": 0.92, "dynamic_conv": 0.8839, "custom_resnet": 0.9006,
    }  # fmt: skip
    assert all(a.same_data for a in published.group("system"))
    assert (published.bar.target, published.bar.start, published.bar.rework) == (0.70, 0.50, 0.45)


def test_every_device_has_one_chosen_machine() -> None:
    published = load_published()
    for device in ("cpu", "cuda"):
        assert sum(p.chosen and p.device == device for p in published.role("compute")) == 1
    assert published.compute("mps") is None


def test_the_least_purchase_of_training_counts_its_least_hours() -> None:
    least = {p.key: p.least_purchase for p in load_published().role("training")}
    assert least["vertex-training"] == pytest.approx(27.72)
    assert least["rekognition-training"] == 1.0


@pytest.mark.parametrize(
    ("date", "age"),
    [
        ("", "undated"),
        ("2025-11-20", "older than a year"),
        ("2025-11-21", ""),
        ("2026-11-09", ""),
        ("2024", "older than a year"),
        ("2025", ""),  # may be as late as its last day
    ],
)
def test_a_figure_is_marked_when_it_is_older_than_a_year(date: str, age: str) -> None:
    assert Dated(source="somebody", date=date).age(TODAY) == age


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("usd = 3.465", "usd = -1", r"price 'vertex-training': usd > 0 must hold, but got -1"),
        ("usd = 3.465", "usd = 'much'", r"price 'vertex-training': a field has the wrong type"),
        (
            "accuracy = 0.789",
            "accuracy = 78.9",
            r"accuracy 'dbn': 0 <= accuracy <= 1 must hold, but got 78.9",
        ),
        ('source = "Krizhevsky, 2010"', "", r"accuracy 'dbn': field 'source' is missing"),
        ('date = "2010"', 'date = "lately"', r'date must be "YYYY-MM-DD", "YYYY" or "", but got \'lately\''),
        ("target = 0.70", "target = 0.40", r"\[bar\]: 0 <= rework <= start <= target <= 1 must hold"),
        ("[bar]", "[baz]", r"a table \[bar\] must be there, but is missing"),
        ('key = "maxout"', 'key = "dbn"', r"keys must be unique, but these occur twice: dbn"),
        ("[bar]", "[bar", r"published.toml must be a readable TOML file"),
        ("custom = true", "customs = true", r"unknown field 'customs'"),
        ("decimals = 2", "decimals = 4", r"accuracy 'five_conv': decimals: 0, 1 or 2 must hold, but got 4"),
    ],
)
def test_a_broken_file_is_refused_with_the_entry_and_the_rule(tmp_path: Path, old: str, new: str, message: str) -> None:
    path = tmp_path / "published.toml"
    path.write_text(DEFAULT_PATH.read_text().replace(old, new, 1))
    with pytest.raises(PublishedError, match=message):
        load_published(path)
