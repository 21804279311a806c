"""Text files from any editor, and atomic writes: after a crash, a file holds all of its old or new content."""

from __future__ import annotations

import codecs
import csv
import errno
import io
import os
import secrets
from collections.abc import Mapping
from pathlib import Path

from cifar_core.errors import UserError, cause

_LARGEST = 100_000  # bytes of a file that a person writes
_UNSUPPORTED = (errno.EINVAL, errno.EBADF, errno.ENOTSUP)  # of a folder's fsync on some shared and network file systems


def csv_reader(text: str) -> csv.DictReader[str]:
    """Return a reader of CSV text, by the names in its first line; spaces after a comma do not count.

    Raises:
        csv.Error: a quote is open at the end, so that all after it would be one field.
    """
    try:
        for _ in csv.reader(io.StringIO(text, newline=""), strict=True, skipinitialspace=True):
            pass
    except csv.Error as error:
        if str(error) == "unexpected end of data":  # what else is strict, such as a space after a quote, does no harm
            raise
    return csv.DictReader(io.StringIO(text, newline=""), skipinitialspace=True)


def decode_text(content: bytes) -> str:
    """Decode a text file: UTF-8, or UTF-16 with a byte order mark, as some editors write. Lines end in a line feed.

    Raises:
        ValueError: it is neither; the message is one line.
    """
    utf16 = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        text = content.decode("utf-16" if utf16 else "utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{error}; save it as UTF-8") from error
    if "\0" in text:
        raise ValueError("it has null characters; save it as UTF-8")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def read_text(path: Path) -> str:
    """Read a text file that a person may have edited; see `decode_text`.

    Raises:
        OSError: it cannot be read.
        ValueError: it is not text.
    """
    return decode_text(path.read_bytes())


def read_small_text(path: Path, kind: str) -> str:
    """Read a text file that a user wrote, as `read_text` does; `kind` names it in messages, such as "recipe".

    Raises:
        UserError: it cannot be read, is not text, or has more than 100,000 bytes.
    """
    try:
        with path.open("rb") as file:  # a limit, as the path may be of any file
            content = file.read(_LARGEST + 1)
        if len(content) > _LARGEST:
            raise UserError(f"a {kind} file must have at most {_LARGEST:,} bytes, but {path} has more")
        return decode_text(content)
    except (OSError, ValueError) as error:  # ValueError: not text, or a null character in the path
        raise UserError(f"a {kind} file must be readable text, but {path} gave: {cause(error)}") from error


def cache_folder() -> Path:
    """Return the user's folder for files that can be made again: `cifar-sweeps` in `$XDG_CACHE_HOME` or `~/.cache`."""
    # The XDG specification says to ignore relative values.
    configured = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (configured if configured.is_absolute() else Path.home() / ".cache") / "cifar-sweeps"


def write_atomically(path: Path, content: bytes | str) -> None:
    """Replace a file's content atomically and durably; missing folders are created. Text is encoded as UTF-8.

    Raises:
        OSError: writing failed; the file has all of its old or all of its new content, and no temporary file is left.
    """
    write_together({path: content.encode() if isinstance(content, str) else content})


def write_together(contents: Mapping[Path, bytes]) -> None:
    """Write several files of one folder: all new content is on the disk before the first file is replaced.

    Files are replaced in the order of `contents`.

    Raises:
        OSError: writing failed, with the path of the file; no temporary file is left.
    """
    # Process ids are not unique where containers share a folder.
    temporaries = {path: path.with_name(f".{path.name}.{secrets.token_hex(4)}") for path in contents}
    parent = next(iter(contents)).parent
    parent.mkdir(parents=True, exist_ok=True)
    try:
        for path, content in contents.items():
            with temporaries[path].open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
        for path, temporary in temporaries.items():
            os.replace(temporary, path)
    except OSError as error:
        error.filename = error.filename or str(path)  # `write` and `fsync` give none
        raise
    finally:
        for temporary in temporaries.values():
            temporary.unlink(missing_ok=True)
    sync_folder(parent)


def sync_folder(folder: Path) -> None:
    """Make renames in `folder` durable (fsync), if its file system can; only POSIX has such a call."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _UNSUPPORTED:
            raise
    finally:
        os.close(descriptor)
