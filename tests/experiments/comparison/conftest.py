"""Comparisons of the studies in `rivals`, each read once."""

from __future__ import annotations

import functools
from collections.abc import Callable

import pytest

from experiments.comparison.differences import Comparison
from experiments.comparison.selection import choose
from experiments.reading.results import load_results
from tests.experiments.fake_store import Fake

Chosen = Callable[..., Comparison]  # (*names, baseline=None)


@pytest.fixture(scope="session")
def chosen(rivals: Fake) -> Chosen:
    results = load_results()

    @functools.cache
    def find(*names: str, baseline: str | None = None) -> Comparison:
        return choose(names, baseline, rivals.place, results)

    return find


@pytest.fixture(scope="session")
def pair(chosen: Chosen) -> Comparison:
    """Two groups of one run each, the second of which is much worse."""
    return chosen("good", "bad")
