from __future__ import annotations

import pytest

from experiments.decision.facts import Facts
from experiments.pages.blocks import Missing
from experiments.sections.examples import section
from tests.experiments.support import with_artifacts


def test_the_pictures_that_the_runs_logged_are_shown(demo: Facts, unconfirmed: Facts) -> None:
    made = section(demo)
    assert [picture.name for picture in made.pictures] == ["samples", "prediction", "mistakes"]
    assert made.pictures[1].caption.text == ("Test image 4242: taken for a dog with probability 0.71, but it is a cat.")
    assert "wrong predictions on test images" in made.pictures[2].caption.text
    assert "wrong predictions on validation images" in section(unconfirmed).pictures[1].caption.text


@pytest.mark.parametrize(
    ("prediction", "words"),
    [
        ({"index": 1, "true": "cat", "predicted": "cat"}, "Test image 1: taken for a cat, which is right."),
        ({"index": 1, "true": "airplane", "predicted": "cat"}, "Test image 1: taken for a cat, but it is an airplane."),
    ],
)
def test_a_prediction_is_said_with_its_truth(demo: Facts, prediction: dict[str, object], words: str) -> None:
    assert section(with_artifacts(demo, prediction=prediction)).pictures[1].caption.text == words


def test_what_was_not_kept_is_said(demo: Facts) -> None:
    assert section(with_artifacts(demo, samples=None, prediction=None, mistakes=None)).blocks == (
        Missing("The study kept no picture of its training images."),
        Missing("No prediction on a test image can be shown yet."),
        Missing("There is no picture of mistakes."),
    )
