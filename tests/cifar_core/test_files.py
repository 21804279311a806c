"""Text of any editor. Atomic writes: the old content or the new content, and no temporary files."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from pathlib import Path

import pytest

from cifar_core.errors import UserError
from cifar_core.files import decode_text, read_small_text, write_atomically

TEXT = "width = 1\n# größe\n"


@pytest.mark.parametrize("line_end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize(
    ("mark", "encoding"), [("", "utf-8"), ("", "utf-8-sig"), ("\ufeff", "utf-16-le"), ("\ufeff", "utf-16-be")]
)
def test_text_of_any_editor(mark: str, encoding: str, line_end: str) -> None:
    assert decode_text((mark + TEXT.replace("\n", line_end)).encode(encoding)) == TEXT


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be", "utf-32"])
def test_text_without_a_mark_that_tells_its_encoding(tmp_path: Path, encoding: str) -> None:
    (tmp_path / "a.toml").write_bytes(TEXT.replace("ö", "").encode(encoding))
    with pytest.raises(UserError) as error:
        read_small_text(tmp_path / "a.toml", "recipe")
    said = f"a recipe file must be readable text, but {tmp_path}/a.toml gave: "
    assert str(error.value).startswith(said)
    assert "\n" not in str(error.value)


def test_bytes_that_are_no_text() -> None:
    with pytest.raises(
        ValueError, match=r"^'utf-8' codec can't decode byte 0xfc in position 2: invalid start byte; save it as UTF-8$"
    ):
        decode_text("größe".encode("latin-1")[:2] + b"\xfc")
    with pytest.raises(ValueError, match=r"^it has null characters; save it as UTF-8$"):
        decode_text(b"a\0")


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
    with pytest.raises(OSError, match=rf"^\[Errno 28\] No space left on device: '{path}'$"):
        write_atomically(path, b"new")
    assert [(entry.name, entry.read_bytes()) for entry in tmp_path.iterdir()] == [("file", b"old")]


def test_the_content_is_on_the_disk_and_then_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[bool] = []
    monkeypatch.setattr("os.fsync", lambda descriptor: synced.append(stat.S_ISDIR(os.fstat(descriptor).st_mode)))
    write_atomically(tmp_path / "file", b"new")
    assert synced == [False, True]  # the file, then its folder


@pytest.mark.parametrize(("cause", "whole"), [(errno.EINVAL, True), (errno.ENOTSUP, True), (errno.EIO, False)])
def test_a_file_system_that_cannot_sync_folders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cause: int, whole: bool
) -> None:
    def sync(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(cause, os.strerror(cause))

    monkeypatch.setattr("os.fsync", sync)
    with contextlib.nullcontext() if whole else pytest.raises(OSError, match=os.strerror(cause)):
        write_atomically(tmp_path / "file", b"new")
    assert (tmp_path / "file").read_bytes() == b"new"


def test_folder_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(IsADirectoryError):
        write_atomically(tmp_path / "folder", b"new")
    assert [entry.name for entry in tmp_path.iterdir()] == ["folder"]
