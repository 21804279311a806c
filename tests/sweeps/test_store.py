"""The store: what lies where, for any name, and what is said when it cannot be used."""

from __future__ import annotations

import contextlib
import json
import shutil
import sqlite3
import subprocess
import sys
from datetime import datetime
from pathlib import Path
from typing import Any
from unittest.mock import Mock
from urllib.parse import unquote, urlparse

import optuna
import pytest

from experiments.reading.study_reader import StudyReader
from sweeps.store import DEFAULT_STORE, Store, StoreError
from sweeps.tracking.tracker import MlflowTracker, RunLabel

STUDY = "100 % größe #1?"

# The first command in a store, up to a run in MLflow; it waits for a line before it touches the store.
FIRST = """
import sys
from pathlib import Path
from sweeps.store import Store
from sweeps.studies.storage import open_storage
from sweeps.tracking.tracker import MlflowTracker, RunLabel

store, name = Store.locate(Path(sys.argv[1])), sys.argv[2]
print("ready", flush=True)
sys.stdin.readline()
store.create()
open_storage(store.storage_url)
tracker = MlflowTracker(store, name)
tracker.open_study(RunLabel(key="study", name=name, tags={"stage": "study"}, params={}))
tracker.run_id("study")
sys.exit(tracker.close())
"""


def journal_mode(path: Path) -> str:
    with contextlib.closing(sqlite3.connect(path)) as connection:
        return str(connection.execute("PRAGMA journal_mode").fetchone()[0])


def test_a_store_whose_path_is_not_utf_8_is_refused() -> None:
    """As any path with an umlaut in an ASCII locale: MLflow would write to another one."""
    said = r"^the path of a store must be UTF-8, in a UTF-8 locale such as LC_ALL=C.UTF-8, but got /gr\udcc3\udcb6sse$"
    with pytest.raises(StoreError, match=said):
        Store.locate(Path("/gr\udcc3\udcb6sse"))


def test_a_path_that_sqlite_could_not_open_is_refused() -> None:
    folder = Path("/", *["ö" * 49] * 4)  # 396 bytes
    assert Store.locate(folder / ("s" * 93)).root.name == "s" * 93
    with pytest.raises(StoreError, match=r"^the path of a store must have at most 490 bytes, but has 491: /ööö"):
        Store.locate(folder / ("s" * 94))


def test_locating_a_store_makes_it_absolute_and_touches_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    store = Store.locate(Path("new"))
    assert store == Store.locate(tmp_path / "new")
    assert store.root == tmp_path / "new"
    assert store.tracking_uri == f"sqlite:///{tmp_path}/new/mlflow.db"
    assert store.storage_url == f"sqlite:///{tmp_path}/new/optuna.db"
    assert store.checkpoints("s", "trial-1") == tmp_path / "new" / "checkpoints" / "s" / "trial-1"
    elsewhere, another = (Store.locate(Path(name), checkpoints=Path("shared")) for name in ("new", "other"))
    folder = elsewhere.checkpoints("s", "trial-1")
    assert folder.is_relative_to(tmp_path / "shared")
    assert folder != another.checkpoints("s", "trial-1"), "two stores may share the folder"
    assert list(tmp_path.iterdir()) == []
    assert DEFAULT_STORE.name == "mlruns"


def test_both_databases_are_in_write_ahead_mode_for_good(tmp_path: Path) -> None:
    store = Store.locate(tmp_path / "a" / "b")
    for _ in range(2):  # again does no harm
        store.create()
        assert [journal_mode(path) for path in store.databases()] == ["wal", "wal"]


def test_servers_take_the_place_of_databases(tmp_path: Path) -> None:
    tracking, storage = "http://127.0.0.1:5000", "postgresql://localhost/optuna"
    store = Store.locate(tmp_path / "s", tracking_uri=tracking, storage_url=storage)
    store.create()
    assert (store.tracking_uri, store.storage_url) == (tracking, storage)
    assert list(store.root.iterdir()) == []
    assert store.artifacts("a") is None, "the server knows where its artifacts go"
    where = ["--store", str(store.root), "--tracking-uri", tracking]
    assert store.as_option() == where
    assert store.as_option(storage=True) == [*where, "--storage", storage]
    assert Store.locate(tmp_path).as_option(storage=True) == ["--store", str(tmp_path)]


def test_a_database_has_the_same_file_with_options_and_without(tmp_path: Path) -> None:
    assert Store.local(f"sqlite:///{tmp_path}/a%20b.db?timeout=30") == tmp_path / "a b.db"


def test_make_gets_the_path_of_a_store_as_it_is(tmp_path: Path) -> None:
    makefile = tmp_path / "Makefile"
    makefile.write_text('export STORE\nshow:\n\t@echo "$$STORE"\n')
    root = tmp_path / "a$b $(c) it's"
    command = f"make --no-print-directory -f {makefile} show{Store.locate(root).for_make()}"
    assert subprocess.run(command, shell=True, capture_output=True, text=True).stdout == f"{root}\n"
    assert Store.locate(DEFAULT_STORE).for_make() == ""


def test_each_study_has_folders_of_its_own_below_the_store(tmp_path: Path) -> None:
    store = Store.locate(tmp_path)
    names = (STUDY, "100 %25 größe #1?", "a", "A", ".", "..", "=2E")
    for kind, places in {
        "weights": {store.weights(name, "confirm-1-0").parent for name in names},
        "reports": {store.report(name) for name in names},
    }.items():
        assert len(places) == len(names)
        assert {place.parent for place in places} == {tmp_path / kind}
    assert store.weights("a", "confirm-1-0") == tmp_path / "weights" / "a" / "confirm-1-0.safetensors"
    location = store.artifacts(STUDY)
    assert location is not None
    assert location.startswith("file:///")
    assert Path(unquote(urlparse(location).path)).parent == tmp_path / "artifacts"


def test_evaluations_on_the_test_set_are_lines_that_add_up_also_after_one_that_was_cut_off(tmp_path: Path) -> None:
    store, path = Store.locate(tmp_path), tmp_path / "test_looks.jsonl"
    path.write_text('{"time": "2026-11-')
    for study, key, data in ((STUDY, "confirm-0-0", "ab"), ("b", "confirm-1-0", "cd")):
        store.record_test_set_evaluation(study=study, key=key, data_sha256=data)
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()[1:]]
    times = [datetime.fromisoformat(line.pop("time")) for line in lines]
    assert all(time.utcoffset() is not None for time in times)
    assert lines == [
        {"study": STUDY, "key": "confirm-0-0", "data_sha256": "ab"},
        {"study": "b", "key": "confirm-1-0", "data_sha256": "cd"},
    ]
    with path.open("a") as file:
        file.write('{"study": "c", "key": "final-0-0"}\n')
        for damaged in ('{"study": [], "key": "k"}', '{"study": "c", "key": 3}', "[]", "3", "[" * 100_000):
            file.write(f"{damaged}\n")
    assert list(store.evaluations()) == [(STUDY, "confirm-0-0"), ("b", "confirm-1-0")]
    assert list(store.evaluations("cd")) == [("b", "confirm-1-0")]


def test_a_full_disk_leaves_no_part_of_a_line_in_the_record_of_evaluations(tmp_path: Path) -> None:
    store, path = Store.locate(tmp_path), tmp_path / "test_looks.jsonl"
    store.record_test_set_evaluation(study=STUDY, key="final-0-0", data_sha256="ab")
    before = path.read_bytes()
    code = f"""
import resource, signal
from pathlib import Path
from sweeps.store import Store
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, ({len(before) + 10},) * 2)  # a write stops there, as on a full disk
Store.locate(Path({str(tmp_path)!r})).record_test_set_evaluation(study="b", key="final-1-0", data_sha256="cd")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    said = f"a test must be recorded in {path} before it, but: File too large"
    assert done.stderr.splitlines()[-1] == f"sweeps.store.StoreError: {said}"
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("place", "reason"),
    [
        ("{tmp_path}/file", "it is a file$"),
        ("{tmp_path}/" + 300 * "a", ".*File name too long"),
        ("{tmp_path}/file/store", ".*Not a directory"),
        ("/proc/self", ""),  # where nobody may write
        ("{tmp_path}", ".*not a database"),
    ],
)
def test_what_cannot_be_a_store(tmp_path: Path, place: str, reason: str) -> None:
    (tmp_path / "file").write_text("mine")
    (tmp_path / "mlflow.db").write_bytes(b"no database at all, but long enough to look like one " * 100)
    with pytest.raises(StoreError, match=rf"^the store .* must be a folder to write to, but: {reason}"):
        Store.locate(Path(place.format(tmp_path=tmp_path))).create()
    assert (tmp_path / "file").read_text() == "mine"


def test_a_disk_without_room_is_said_before_anything_is_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Mock(free=63_000_000))
    with pytest.raises(StoreError, match=r"^the store .* must have at least 64 MB free, but has 63 MB$"):
        Store.locate(tmp_path).create()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["what?", "50%20", "größe #1&c=2", "%s"])
def test_any_letters_in_the_path_of_a_store_and_in_the_name_of_a_study(tmp_path: Path, name: str) -> None:
    store = Store.locate(tmp_path / name)
    store.create()
    study = optuna.create_study(study_name=STUDY, storage=store.storage_url)
    study.enqueue_trial({"x": 0.5})
    assert study.ask().suggest_float("x", 0, 1) == 0.5
    assert optuna.get_all_study_names(store.storage_url) == [STUDY]
    label = RunLabel(key="study", name=STUDY, tags={"stage": "study"}, params={}, files={"pictures/x.png": b"picture"})
    for _ in range(2):  # the second process finds what the first one made
        tracker = MlflowTracker(store, STUDY)
        tracker.open_study(label)
        run_id = tracker.run_id("study")
        assert tracker.close() == 0
    assert [path.name for path in tmp_path.iterdir()] == [name], "nothing lies anywhere else"
    assert {"mlflow.db", "optuna.db", "artifacts"} <= {path.name for path in store.root.iterdir()}
    [picture] = store.root.rglob("x.png")
    assert picture.read_bytes() == b"picture"
    assert picture.is_relative_to(store.root / "artifacts")
    read = StudyReader(store)
    assert read.studies() == [STUDY]
    assert read.artifact(run_id, "pictures/x.png") == b"picture"


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_two_first_commands_at_once_both_work(tmp_path: Path) -> None:
    commands = [[sys.executable, "-c", FIRST, str(tmp_path / "store"), name] for name in ("a", "b")]
    pipes: dict[str, Any] = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    with contextlib.ExitStack() as stack:
        processes: list[Any] = [subprocess.Popen(command, text=True, **pipes) for command in commands]
        for process in processes:
            stack.enter_context(process)
            assert process.stdout.readline() == "ready\n"
        for process in processes:
            process.stdin.write("\n")
            process.stdin.flush()
        for process in processes:
            _, errors = process.communicate()
            assert (process.returncode, errors) == (0, "")
    assert sorted(StudyReader(Store.locate(tmp_path / "store")).studies()) == ["a", "b"]
