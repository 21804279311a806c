from __future__ import annotations

from dataclasses import replace

import pytest

from cifar_core.recipe import Recipe
from sweeps.words import about, clock_time, counted, narrowed, rounded, shortened


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        *((-1, "0s"), (0, "0s"), (59.9, "59s"), (60, "1m00s"), (192, "3m12s"), (3599, "59m59s")),
        *((7500, "2h05m"), (9e5, "10d10h")),
    ],
)
def test_clock_time(seconds: float, text: str) -> None:
    assert clock_time(seconds) == text


def test_a_narrow_recipe_names_what_it_has_less_of() -> None:
    recipe = Recipe(width=1.0, batch_size=128)
    assert narrowed(replace(recipe, width=0.25), recipe) == "width 0.25"
    assert narrowed(replace(recipe, batch_size=64), recipe) == "batch size 64"
    assert narrowed(replace(recipe, width=0.25, batch_size=64), recipe) == "width 0.25 and batch size 64"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        *((0, "less than 1 min"), (29, "less than 1 min"), (50, "about 1 min")),
        *((540, "about 9 min"), (5940, "about 99 min"), (6060, "about 1 h 41 min")),
        *((172_000, "about 47 h 47 min"), (259_000, "about 3 days"), (3.222e9, "about 102 years")),
    ],
)
def test_estimates(seconds: float, text: str) -> None:
    assert about(seconds) == text


@pytest.mark.parametrize(
    ("number", "figures", "text"),
    [
        *((1234.5, 3, "1,230"), (999.9, 3, "1,000"), (12.345, 3, "12.3"), (5.97, 3, "5.97"), (12.0, 3, "12")),
        *((99.6, 2, "100"), (0.412, 2, "0.41"), (0.0, 3, "0"), (4.2e7, 2, "42,000,000")),
    ],
)
def test_a_number_in_so_many_figures(number: float, figures: int, text: str) -> None:
    assert rounded(number, figures) == text


def test_counts_with_their_nouns() -> None:
    assert [counted(1, "run"), counted(1_200, "run"), counted(0, "day")] == ["1 run", "1,200 runs", "0 days"]
    assert [counted(1, "entry"), counted(3, "entry")] == ["1 entry", "3 entries"]


def test_of_many_names_ten_are_given() -> None:
    assert shortened(["a", "b"]) == "a, b"
    assert shortened([str(number) for number in range(12)], "; ") == "0; 1; 2; 3; 4; 5; 6; 7; 8; 9; and 2 more"
