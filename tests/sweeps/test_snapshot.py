"""Reading stores that cannot be written to, also while a process writes."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from unittest.mock import Mock

import pytest

from sweeps import snapshot
from sweeps.snapshot import readable
from sweeps.store import Store, StoreError
from tests.sweeps.support import contents

ROOT = Path(__file__).parents[2]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """A store whose databases hold a number each."""
    store = Store.locate(tmp_path / "store")
    store.create()
    for path in store.databases():
        with closing(sqlite3.connect(path)) as database, database:
            database.execute("CREATE TABLE t (number)")
            database.execute("INSERT INTO t VALUES (1)")
    return store


@pytest.fixture
def read_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Root may write to any folder, so what the system says is changed."""
    monkeypatch.setattr(snapshot, "_writable", lambda path: False)


def numbers(path: Path) -> list[int]:
    with closing(sqlite3.connect(path)) as database:
        return [number for (number,) in database.execute("SELECT number FROM t ORDER BY number")]


def test_a_store_that_can_be_written_to_is_read_in_place(store: Store) -> None:
    with readable(store) as source:
        assert source == store


def test_a_server_is_asked_itself(tmp_path: Path, read_only: None) -> None:
    store = Store.locate(tmp_path, tracking_uri="http://127.0.0.1:1", storage_url="postgresql://h/o")
    with readable(store) as source:
        assert source == store


def test_copies_are_read_elsewhere_and_are_gone_afterwards(store: Store, read_only: None) -> None:
    before = contents(store.root)
    with readable(store) as source:
        assert (source.root, source.original) == (store.root, store)
        copies = source.databases()
        assert [numbers(path) for path in copies] == [[1], [1]]
        assert all(path.parent != store.root for path in copies)
        assert source.holds_mlflow
    assert not any(path.exists() for path in copies)
    assert contents(store.root) == before


def test_a_store_on_a_full_disk_is_read_from_copies(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """SQLite cannot create its files there, and would call that an error of the disk."""
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Mock(free=999_999))
    with readable(store) as source:
        assert source.original == store
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Mock(free=1_000_000))
    with readable(store) as source:
        assert source == store


def test_what_is_in_the_log_only_is_read(store: Store, read_only: None) -> None:
    path = store.databases()[0]
    with closing(sqlite3.connect(path)) as writer:
        writer.execute("PRAGMA wal_autocheckpoint = 0")
        with writer:
            writer.execute("INSERT INTO t VALUES (2)")
        with readable(store) as source:
            assert numbers(source.databases()[0]) == [1, 2]


def test_a_copy_is_whole_while_a_process_writes(store: Store, read_only: None) -> None:
    path, stop = store.databases()[0], threading.Event()
    with closing(sqlite3.connect(path)) as database, database:
        database.execute("CREATE TABLE twin (number, filler)")

    def write() -> None:
        with closing(sqlite3.connect(path)) as writer:
            writer.execute("PRAGMA wal_autocheckpoint = 20")
            number = 2
            while not stop.is_set():
                with writer:  # both or none
                    writer.execute("INSERT INTO t VALUES (?)", (number,))
                    writer.execute("INSERT INTO twin VALUES (?, ?)", (number, "x" * 3000))
                number += 1
                time.sleep(0.005)  # so that a copy fits between two checkpoints, also on a busy machine

    thread = threading.Thread(target=write)
    thread.start()
    try:
        for _ in range(15):
            with readable(store) as source, closing(sqlite3.connect(source.databases()[0])) as copy:
                assert copy.execute("PRAGMA integrity_check").fetchone() == ("ok",)
                one, two = (copy.execute(f"SELECT count(*) FROM {table}").fetchone()[0] for table in ("t", "twin"))
                assert one == two + 1
    finally:
        stop.set()
        thread.join()


def test_a_log_that_is_gone_when_it_is_copied_again_is_not_kept(
    store: Store, read_only: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process that writes ends, and so deletes its log, while the first copy is made."""
    writer, copyfile = sqlite3.connect(store.databases()[0]), shutil.copyfile
    with writer:
        writer.execute("INSERT INTO t VALUES (2)")

    def copy(source: Path, to: Path) -> None:
        copyfile(source, to)
        if source == store.databases()[0].with_name("mlflow.db-wal"):
            with writer:
                writer.execute("INSERT INTO t VALUES (3)")
            writer.close()

    monkeypatch.setattr(shutil, "copyfile", copy)
    with readable(store) as source:
        assert numbers(source.databases()[0]) == [1, 2, 3]


def test_a_database_that_never_rests(store: Store, read_only: None, monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = iter(range(1000))
    monkeypatch.setattr(snapshot, "_generation", lambda path: (next(ticks),))
    monkeypatch.setattr(snapshot, "_PAUSE_SECONDS", 0)
    with pytest.raises(StoreError, match="changes too fast to be copied"), readable(store):
        pass


def test_a_database_that_cannot_be_read(store: Store, read_only: None, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(shutil, "copyfile", refuse)
    with pytest.raises(StoreError, match=r"mlflow\.db must be readable, but: .*Permission denied"), readable(store):
        pass


@pytest.fixture
def of_another_user(store: Store) -> Iterator[tuple[Store, list[str]]]:
    """A store that may not be written to, and the beginning of a command that may not either."""
    for path in (store.root, *store.root.rglob("*")):
        path.chmod(path.stat().st_mode & ~0o222)
    command: list[str] = []
    if os.geteuid() == 0:  # root writes anywhere, but for these capabilities
        if shutil.which("setpriv") is None:
            pytest.skip("setpriv is needed to give up root's rights")
        command = ["setpriv", "--bounding-set", "-dac_override", "--inh-caps", "-all"]
    yield store, command
    for path in (store.root, *store.root.rglob("*")):
        path.chmod(path.stat().st_mode | 0o200)


@pytest.mark.slow
def test_a_folder_of_another_user(of_another_user: tuple[Store, list[str]]) -> None:
    store, command = of_another_user
    before = contents(store.root)
    code = (
        "import sqlite3, sys; from pathlib import Path; from sweeps.snapshot import readable; "
        "from sweeps.store import Store\n"
        "with readable(Store.locate(Path(sys.argv[1]))) as source:\n"
        "    assert source.original is not None\n"
        "    print(sqlite3.connect(source.databases()[0]).execute('SELECT number FROM t').fetchall())"
    )
    done = subprocess.run(
        [*command, sys.executable, "-c", code, str(store.root)], cwd=ROOT, capture_output=True, text=True
    )
    assert done.stdout == "[(1,)]\n", done.stderr
    assert contents(store.root) == before


def test_a_folder_that_may_not_be_entered(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(path: Path) -> bool:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "exists", denied)  # as root may enter every folder
    with pytest.raises(StoreError) as error, readable(store):
        pass
    assert str(error.value).startswith(f"the store {store.root} must be readable, but: [Errno 13] Permission denied: ")
