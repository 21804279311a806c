from __future__ import annotations

import datetime
import re
from pathlib import Path

import pytest

from experiments.reading.published import DEFAULT_PATH, Dated, load_published
from sweeps.validation import InvalidFileError

TODAY = datetime.date(2026, 11, 21)


def test_the_shipped_file_marks_other_data_and_chooses_a_machine_for_each_device() -> None:
    published = load_published()
    assert {a.key for a in published.accuracies if a.group == "benchmark" and a.same_data} == {"maxout", "wrn"}
    assert all(a.same_data for a in published.accuracies if a.group == "system")
    for device in ("cpu", "cuda"):
        assert sum(p.chosen and p.device == device for p in published.role("compute")) == 1
    assert published.compute("mps") is None


@pytest.mark.parametrize(
    ("date", "age"),
    [
        ("", "undated"),
        ("2025-11-20", "older than a year"),
        ("2025-11-21", ""),
        ("2024", "older than a year"),
        ("2025", ""),  # may be as late as its last day
    ],
)
def test_a_figure_is_marked_when_it_is_older_than_a_year(date: str, age: str) -> None:
    assert Dated(name="it", source="somebody", date=date).age(TODAY) == age


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("accuracy_high = 0.989", "accuracy_high = 0.9", "accuracy <= accuracy_high must hold, but got 0.9"),
        ('date = "2010"', 'date = "lately"', 'date must be "YYYY-MM-DD", "YYYY" or "", but got \'lately\''),
        ("target = 0.70", "target = 0.40", "bar.rework <= start <= target must hold, but got (0.45, 0.5, 0.4)"),
        ('key = "maxout"', 'key = "dbn"', "keys must be unique, but these occur twice: dbn"),
        ("usd = 3.465", "usd = 1\nusd_output = 1", "usd_output goes with a token price, but this is one of training"),
        ("usd = 3.465", "usd = 1\nfree = 1", "free and steps go with a prediction price, but this is one of training"),
        (
            "[[5_000_000, 1.0]]",
            "[[900, 1.0]]",
            "steps must begin at ever more images, and beyond the free ones, but",
        ),
    ],
)
def test_a_broken_file_is_refused_with_the_entry_and_the_rule(tmp_path: Path, old: str, new: str, message: str) -> None:
    path = tmp_path / "published.toml"
    path.write_text(DEFAULT_PATH.read_text().replace(old, new, 1))
    with pytest.raises(InvalidFileError, match=re.escape(message)):
        load_published(path)


def test_figures_are_printed_as_published() -> None:
    published = load_published()
    figures = {a.key: a.figure for a in published.accuracies} | {p.key: p.figure for p in published.prices}
    assert [figures[key] for key in ("five_conv", "block_cnn", "vit")] == ["84.52 %", "92 %", "96.8 to 98.9 %"]
    assert [figures[key] for key in ("aws-m7g", "aws-h100", "azure-training", "azure-prediction")] == [
        "$0.0816 an hour", "$6.88 an hour", "$10.00 an hour", "$2.00 per 1,000 images",
    ]  # fmt: skip
    assert (published.bar.figure, published.fresh_test_set.figure) == ("70 %", "4 to 10 points lower")
