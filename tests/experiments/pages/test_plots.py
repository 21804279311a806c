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
        "Turdus me…1 of the north",
        "Turdus me…2 of the north",
        "Turdus me…ird) number 10",
        "Turdus me…ckbird) number",
    ]
    same = [f"{'a' * 30}{middle}{'b' * 30}" for middle in "xyz"]
    assert name_axis(same)["ticktext"] == [f"aaaaaaaaa…bbbbbbbb… {place}" for place in (1, 2, 3)]
    assert name_axis([])["ticktext"] == []
