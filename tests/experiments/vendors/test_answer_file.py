"""Files of answers that a crash cut short."""

from __future__ import annotations

from pathlib import Path

from experiments.vendors.answer_file import AnswerFile, Source
from experiments.vendors.answers import NOT_ANSWERED, Answer, write_row

SOURCE = Source("https://host", "m", "", "ab" * 32, "garden")


def test_of_a_last_row_that_was_cut_short_anywhere_nothing_is_taken_for_an_answer(tmp_path: Path) -> None:
    out = tmp_path / "a.csv"
    with AnswerFile.open(out, SOURCE) as file:
        file.add(Answer("00000.png", "rose", 0.5, 0.001))
    first = out.read_bytes()
    for text in ('a "rose", or answered', "answered", ""):
        row = write_row(Answer("00001.png", text, 0.25, 1e-7)).encode()
        for length in range(len(row)):
            out.write_bytes(first + row[:length])
            with AnswerFile.open(out, SOURCE) as file:
                whole = length == len(row) - 1
                assert (len(file.answered), file.torn) == ((2, b"") if whole else (1, row[:length]))
            assert out.read_bytes() == (first + row if whole else first)


def test_the_cost_of_a_last_row_without_an_answer_is_kept(tmp_path: Path) -> None:
    out = tmp_path / "a.csv"
    with AnswerFile.open(out, SOURCE) as file:
        file.add(Answer("00000.png", "rose", 0.5, 0.25))
        file.add(Answer("00001.png", "", 0.5, 0.5, NOT_ANSWERED))
    out.write_bytes(out.read_bytes().removesuffix(b"\n"))
    with AnswerFile.open(out, SOURCE) as file:
        assert (len(file.answered), file.usd) == (1, 0.75)
