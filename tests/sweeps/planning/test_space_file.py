"""Spaces by name and by path."""

from __future__ import annotations

from pathlib import Path

import pytest

from cifar_core.errors import UserError
from sweeps.planning.space_file import SPACES, parse_space, read_space


def test_a_built_in_space_by_name() -> None:
    assert list(SPACES) == ["fast", "full", "systems"]
    assert all(read_space(name) is space and space.name == name for name, space in SPACES.items())


def test_a_file_by_path(tmp_path: Path) -> None:
    path = tmp_path / "my space.toml"
    path.write_text('enqueue = ["mine/r.toml", "systems"]\n' + SPACES["fast"].text)
    space = read_space(str(path))
    assert (space.name, space.text) == ("my space", path.read_text())
    assert space.enqueue == (str(tmp_path / "mine/r.toml"), "systems"), "paths begin at the folder of the file"
    assert space.parameters == SPACES["fast"].parameters


def test_numbers_have_the_type_of_the_field(tmp_path: Path) -> None:
    text = "description = 'd'\n[parameters.width]\nlow = 1\nhigh = 2\nstart = 1\n[parameters.cutout]\nlow = 1\nhigh = 2"
    space = parse_space(tmp_path / "s.toml", f"{text}\nstart = 1")
    assert [type(value) for value in space.starts[0].values()] == [float, int]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("ful", None, "unknown space 'ful': did you mean 'full'?"),
        ("mine", None, "unknown space 'mine': the spaces are fast, full, systems; a file's name ends in .toml"),
        ("{}/no.toml", None, "a space file must be readable text, but {}/no.toml gave: No such file or directory"),
        ("a\n.toml", None, "a space file's name must have no line breaks and control characters, but got 'a\\n.toml'"),
        ("{}", None, "a space file must be readable text, but {} gave: Is a directory"),
        ("{}/s.toml", b" " * 100_001, "a space file must have at most 100,000 bytes, but {}/s.toml has more"),
        ("{}/s.toml", b"a = [", "{}/s.toml must be a readable TOML file, but: Invalid value (at end of document)"),
        ("{}/s.toml", b"", "{}/s.toml: field 'parameters' is missing"),
    ],
)
def test_a_space_that_cannot_be_read(tmp_path: Path, name: str, content: bytes | None, message: str) -> None:
    path = name.format(tmp_path)
    if content is not None:
        Path(path).write_bytes(content)
    with pytest.raises(UserError) as error:
        read_space(path)
    assert str(error.value) == message.format(tmp_path)


def test_text_that_is_not_utf_8(tmp_path: Path) -> None:
    path = tmp_path / "s.toml"
    path.write_bytes(b"\xff")
    with pytest.raises(
        UserError, match=rf"^a space file must be readable text, but {path} gave: 'utf-8' codec [^\n]+$"
    ):
        read_space(str(path))
