from __future__ import annotations

import pytest

from cifar_core.evaluation.metrics import Reliability
from experiments.decision.facts import Facts
from experiments.pages.blocks import Missing
from experiments.sections.calibration import Calibration, calibration_of, caption, section, sentence
from tests.experiments.support import known, with_artifacts


def test_calibration_is_of_all_test_predictions_of_the_champion(demo: Facts) -> None:
    assert known(calibration_of(demo.study)).images == 10_000
    empty = with_artifacts(demo, answers={})
    assert calibration_of(empty.study) is None
    assert section(empty).numbers == ()
    (missing,) = section(empty).blocks
    assert isinstance(missing, Missing)
    assert missing.text.endswith("no single predictions on the test set were kept.")


@pytest.mark.parametrize(
    ("sure", "words"),
    [
        (0.95, "Its mean probability is 95.0 %, but 90.0 % of its answers are right; expected "),
        (0.90, "as sure"),
        (0.85, "Its mean probability is 85.0 %, but 90.0 % of its answers are right; expected "),
    ],
)
def test_confidence_is_judged_beyond_chance(sure: float, words: str) -> None:
    found = Calibration(Reliability((10_000,), (sure,), (0.90,)), 10_000, ("r",))
    said = sentence(found, 0.2).text
    assert words in said
    assert ("smoothed labels by 0.2" in said) == (sure < 0.9)
    assert ("Temperature scaling, fitted on other images, would correct this" in said) == (sure != 0.9)
    assert "smoothed" not in sentence(found).text


def test_the_caption_says_how_many_predictions_are_overconfident() -> None:
    found = Calibration(Reliability((6, 0, 4), (0.2, float("nan"), 0.9), (0.1, float("nan"), 0.95)), 10, ("r",))
    assert found.overconfident == pytest.approx(0.6)
    assert caption(found).text.startswith("60 % of the test predictions are in bins under the line, ")
    sure = Calibration(Reliability((6, 0, 4), (0.2, float("nan"), 0.9), (0.1, float("nan"), 0.85)), 10, ("r",))
    words = "under the line, where fewer answers are right than the mean probability says. The expected"
    assert caption(sure).text.startswith(f"All bins are {words}")
    few = Calibration(Reliability((1, 999), (0.2, 0.9), (0.1, 0.95)), 1000, ("r",))
    assert caption(few).text.startswith(f"Under 1 % of the test predictions are in bins {words}")
