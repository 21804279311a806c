from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cifar_core.data.data_set import CIFAR10
from experiments.vendors.answers import COLUMNS, MOST_LETTERS, Answer, meant_class, parse_answers, prompt_for, write_row
from sweeps.validation import InvalidFileError


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("cat", "cat"),
        (" Cat.\n", "cat"),
        ("It is a <b>truck</b>", "truck"),
        ("a caterpillar", None),
        ("cat, dog", None),
        ("car", None),
        ("", None),
        (" " * 5000 + "cat", None),  # beyond what is read
    ],
)
def test_an_answer_means_the_one_class_that_it_names(text: str, meant: str | None) -> None:
    assert meant_class(text, CIFAR10.classes) == meant


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("A Rose bush!", "rose bush"),
        ("a rose, no rose bush", None),
        ("Rose", "rose"),
        ("It is (c++).", "C++"),
        ("c", None),
    ],
)
def test_a_class_in_the_name_of_another_is_not_meant_by_it(text: str, meant: str | None) -> None:
    assert meant_class(text, ("rose", "rose bush", "C++", "x.y")) == meant


@pytest.mark.parametrize("text", ["_cat_", "__Cat__.", "It is a _cat_", "***cat***", "cat-like"])
def test_an_emphasised_answer_names_its_class(text: str) -> None:
    assert meant_class(text, CIFAR10.classes) == "cat"


@pytest.mark.parametrize(
    ("text", "classes", "meant"),
    [
        ("non_defective", ("defective", "good"), None),
        ("non-defective", ("defective", "good"), None),
        ("5", ("-5", "10"), None),
        ("-10", ("0", "10", "-5"), None),
        ("-5", ("-5", "10"), "-5"),
        ("T\u2011shirt", ("T-shirt", "Trouser"), "T-shirt"),
        ("_background_", ("_background_", "cat"), "_background_"),
        ("a_b", ("a b", "a-b"), None),
    ],
)
def test_a_word_that_is_part_of_another_one_names_no_class(
    text: str, classes: tuple[str, ...], meant: str | None
) -> None:
    assert meant_class(text, classes) == meant


@pytest.mark.parametrize("name", ["golden_retriever", "golden-retriever", "Golden  Retriever"])
def test_words_of_a_class_are_apart_as_anybody_writes_them(name: str) -> None:
    said = ("golden retriever", "A **Golden Retriever**.", "golden_retriever", "a golden-retriever", "retriever")
    assert [meant_class(text, (name, "retriever")) for text in said] == [name] * 4 + ["retriever"]


def test_classes_that_differ_in_a_dash_alone_are_told_apart() -> None:
    classes = ("ice cream", "ice_cream", "ice-cream")
    assert [meant_class(text, classes) for text in ("Ice Cream", "ice_cream", "an ice-cream", "ice")] == [
        *classes, None,
    ]  # fmt: skip
    assert [meant_class(text, ("-", "+")) for text in ("-", "+", "a cat")] == ["-", "+", None]


def test_accents_of_a_name_may_be_letters_of_their_own() -> None:
    classes = ("the\u0301", "caf\u00e9")  # decomposed, as macOS names files, and composed
    assert [meant_class(text, classes) for text in ("th\u00e9", "Cafe\u0301.")] == list(classes)


def test_names_with_a_comma_are_told_apart_in_the_prompt() -> None:
    assert "show: cat, dog? Answer" in prompt_for(("cat", "dog"))
    assert "show: cup, full; cup, empty? Answer" in prompt_for(("cup, full", "cup, empty"))


def test_classes_that_differ_in_large_letters_alone_are_told_apart() -> None:
    assert [meant_class(text, ("A", "a")) for text in ("a", "It is A.", "A or a")] == ["a", "A", None]


@given(st.text(max_size=3000), st.none() | st.floats(0, 1e6), st.none() | st.floats(0, 1e3))
def test_whatever_a_service_says_is_one_row(text: str, seconds: float | None, usd: float | None) -> None:
    row = write_row(Answer("00000.png", text, seconds, usd))
    assert row.count("\n") == 1
    [read] = parse_answers((",".join(COLUMNS) + "\n" + row).encode(), "a.csv")
    assert len(read.text) <= MOST_LETTERS
    assert (read.image, read.state) == ("00000.png", "answered")
    for kept, wrote in ((read.seconds, seconds), (read.usd, usd)):
        assert kept == (None if wrote is None else pytest.approx(wrote, rel=1e-6))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            b"Image;Answer\n",
            "a.csv must have the columns image and answer, separated by a comma, but lacks image and answer; its first "
            "line is 'Image;Answer'",
        ),
        (b"image\n0\n", "but lacks answer"),
        (b"\xff\xfe\x00", "a.csv must be a text file, but: "),
        (b"image,answer,seconds\n0,cat,-1\n", "a.csv, line 2: seconds must be a number >= 0 or empty, but got '-1'"),
        (b'image,answer\n0,"cat\n1,dog\n2,frog\n', "a.csv must be a CSV file, but: unexpected end of data"),
        (b"image,answer,usd\n0,cat,much\n", "usd must be a number >= 0 or empty, but got 'much'"),
        (b"image,answer,usd\n0,cat,nan\n", "usd must be a number >= 0 or empty, but got 'nan'"),
        (b"image,answer,usd\n0,cat,1_000\n", "usd must be a number >= 0 or empty, but got '1_000'"),
        ("image,answer,usd\n0,cat,\uff11\n".encode(), "usd must be a number >= 0 or empty, but got '\uff11'"),
        (
            b"image,answer,seconds,usd,state\n0,cat,1,1,fine\n",
            "state must be answered, failed or empty, but got",
        ),
    ],
)
def test_a_file_that_is_none_is_refused_in_one_line(content: bytes, message: str) -> None:
    with pytest.raises(InvalidFileError) as raised:
        parse_answers(content, "a.csv")
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)
