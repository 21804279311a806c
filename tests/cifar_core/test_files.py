"""Atomic writes: the old content or the new content, and no temporary files."""

from __future__ import annotations

from pathlib import Path

import pytest

from cifar_core.files import write_atomically


def test_text_and_bytes_in_a_folder_that_is_new(tmp_path: Path) -> None:
    path = tmp_path / "a" / "new" / "file"
    write_atomically(path, "caf\N{LATIN SMALL LETTER E WITH ACUTE}")
    assert path.read_bytes() == b"caf\xc3\xa9"
    write_atomically(path, b"\xff")
    assert path.read_bytes() == b"\xff"
    assert list(path.parent.iterdir()) == [path]


def test_old_content_stays_and_no_temporary_file_when_writing_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    write_atomically(path, b"old")

    def fail(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(OSError, match="No space left"):
        write_atomically(path, b"new")
    assert [(entry.name, entry.read_bytes()) for entry in tmp_path.iterdir()] == [("file", b"old")]


def test_folder_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(IsADirectoryError):
        write_atomically(tmp_path / "folder", b"new")
    assert [entry.name for entry in tmp_path.iterdir()] == ["folder"]
