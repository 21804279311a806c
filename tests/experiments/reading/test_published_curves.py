from __future__ import annotations

from pathlib import Path

import pytest

from cifar_core.recipes import SYSTEMS
from experiments.reading.published import load_published
from experiments.reading.published_curves import DEFAULT_FOLDER, load_curves
from sweeps.validation import InvalidFileError


def test_printed_units_are_converted() -> None:
    three = load_curves("three_conv").series
    assert three["train_loss"].at(1) == pytest.approx(0.938 / 0.8)
    assert three["val_loss"].at(17) == pytest.approx(0.328 / 0.2)
    resnet = load_curves("custom_resnet")
    assert resnet.series["test_loss"].at(1) == pytest.approx(1.65)  # printed as 0.0033
    assert resnet.series["test_accuracy"].at(1) == 0.4142
    assert "train_loss" not in resnet.series
    assert resnet.seconds == pytest.approx(20.71, abs=0.01)
    five = load_curves("five_conv").series["train_loss"]
    assert (len(five.epochs), five.values[0], five.values[-1]) == (20, 1.493, 0.07)
    assert (five.epochs[0], five.epochs[-1]) == pytest.approx((0.64, 19.64))
    assert load_curves("block_cnn").series == {}


def test_curves_end_where_the_stated_figures_are() -> None:
    stated = {a.key: a for a in load_published().accuracies if a.group == "system"}
    assert tuple(stated) == SYSTEMS
    for name in ("dynamic_conv", "custom_resnet"):
        assert load_curves(name).series["test_accuracy"].values[-1] == pytest.approx(stated[name].accuracy)
    assert sum(load_curves("three_conv").classes.values()) / 10 == pytest.approx(stated["three_conv"].accuracy)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_curves_of_another_editor(tmp_path: Path, encoding: str) -> None:
    text = (DEFAULT_FOLDER / "five_conv.csv").read_text()
    (tmp_path / "five_conv.csv").write_text(text, encoding=encoding, newline="\r\n")
    assert load_curves("five_conv", tmp_path) == load_curves("five_conv")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("23.389", "", r"three_conv\.csv: seconds > 0 must hold, but got ''"),
        ("0.938", "low", r"three_conv\.csv: train_loss_as_printed > 0 must hold, but got 'low'"),
        ("val_loss_as_printed", "val_loss", r"three_conv\.csv: column 'val_loss_as_printed' is missing"),
    ],
)
def test_a_broken_curve_is_refused(tmp_path: Path, old: str, new: str, message: str) -> None:
    (tmp_path / "three_conv.csv").write_text((DEFAULT_FOLDER / "three_conv.csv").read_text().replace(old, new, 1))
    with pytest.raises(InvalidFileError, match=message):
        load_curves("three_conv", tmp_path)
    with pytest.raises(InvalidFileError, match=r"five_conv\.csv must be a readable CSV file"):
        load_curves("five_conv", tmp_path)
