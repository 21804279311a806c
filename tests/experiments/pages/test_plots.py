from __future__ import annotations

from experiments.pages.plots import name_axis


def test_long_names_are_cut_and_still_differ() -> None:
    start = "Turdus merula (common blackbird) number"
    names = [
        "cat & dog",
        "10",
        "x" * 24,
        "y" * 25,
        f"{start} 1 of the north",
        f"{start} 2 of the north",
        f"{start} 10",
        start,
    ]
    axis = name_axis(names)
    assert axis["type"] == "category", "plotly spaces numbers by their values"
    assert axis["tickvals"] == ["cat &amp; dog", *names[1:]]
    assert axis["ticktext"] == [
        "cat &amp; dog",
        "10",
        "x" * 24,
        f"{'y' * 23}…",
        "Turdus me…r 1 of the no…",
        "Turdus me…er 2 of the n…",
        "Turdus me…r 10",
        "Turdus me…ber",
    ]
    assert name_axis([])["ticktext"] == []
