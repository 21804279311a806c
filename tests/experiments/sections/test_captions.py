from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from experiments.decision.measures import Measures
from experiments.reading.studies import Looks
from experiments.sections import captions

if TYPE_CHECKING:
    from tests.experiments.conftest import Fake


@pytest.fixture(scope="module")
def demo(store: Fake) -> Measures:
    return store.measures("demo")


@pytest.mark.parametrize(
    ("looks", "words"),
    [
        (Looks(True, 2, 5, 0), "was looked at 2 times for this study, 5 in all studies"),
        (Looks(True, 1, 1, 0), "1 time for this study"),
        (Looks(True, 1, 1, 0), "2 runs carry a test accuracy, so the record is incomplete"),
        (Looks(True, 2, 2, 1), "1 line of the record could not be read"),
        (Looks(False), "no record of test looks"),
    ],
)
def test_looks_at_the_test_set_are_printed(demo: Measures, looks: Looks, words: str) -> None:
    assert words in captions.looks_sentence(replace(demo, looks=looks)).text
