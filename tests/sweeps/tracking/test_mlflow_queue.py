"""A queue gives back what was written to it, in its order, whatever happened to its last line."""

from __future__ import annotations

import math
import os
import tempfile
import zlib
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sweeps.store import StoreError
from sweeps.tracking import mlflow_queue
from sweeps.tracking.mlflow_queue import Entry, MlflowQueue, QueueInUseError, queued
from tests.sweeps.support import file_size_limit, write_queue

texts = st.text(max_size=8)
entries = st.builds(
    Entry,
    key=texts,
    at=st.integers(0, 2**53),
    name=st.none() | texts,
    params=st.dictionaries(texts, texts, max_size=2),
    tags=st.dictionaries(texts, texts, max_size=2),
    metrics=st.dictionaries(texts, st.floats(allow_nan=False), max_size=3),
    step=st.integers(0, 2**31),
    files=st.dictionaries(texts, st.binary(max_size=40), max_size=2),
    weights=st.none() | texts,
    state=st.none() | texts,
)
FIRST = Entry(key="trial-0", at=1, step=5, metrics={"lr": 0.1})
SECOND = Entry(key="trial-1", at=2, files={"a": b"\0\n"})


def content(path: Path) -> list[Entry]:
    """The entries that a new process finds, taken out two by two."""
    queue = MlflowQueue(path)
    found = []
    while some := queue.first(2):
        found += some
        queue.remove(len(some))
    queue.close()
    return found


@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(told=st.lists(entries, max_size=4), cut=st.integers(0, 40))
def test_what_was_written_is_there_but_for_a_line_that_was_cut_off(tmp_path: Path, told: list[Entry], cut: int) -> None:
    path = write_queue(tmp_path / "j.jsonl", *told)
    if told:
        last = len(path.read_bytes().splitlines(keepends=True)[-1])
        os.truncate(path, path.stat().st_size - min(cut, last))
    assert content(path) == (told if not cut else told[:-1])
    assert not path.exists(), "a queue that holds nothing is no file"


def test_an_entry_of_another_version_is_refused_and_stays(tmp_path: Path) -> None:
    path = tmp_path / "j.jsonl"
    text = b'{"key": "k", "at": 0, "files": {}, "recipe": {}}'
    path.write_bytes(b"%08x %s\n" % (zlib.crc32(text), text))
    before = path.read_bytes()
    with pytest.raises(
        StoreError, match=r"j\.jsonl: line 1 must be of this version, but: .*'recipe'; send it with the "
    ):
        MlflowQueue(path)
    assert path.read_bytes() == before


def test_a_queue_that_is_removed_while_it_is_counted_holds_nothing(tmp_path: Path) -> None:
    write_queue(tmp_path / "j.jsonl", FIRST)
    (tmp_path / "gone.jsonl").symlink_to(tmp_path / "no file")
    assert queued(tmp_path) == 1


def test_what_is_no_number_comes_back(tmp_path: Path) -> None:
    [entry] = content(write_queue(tmp_path / "j.jsonl", Entry(key="k", at=0, metrics={"a": math.nan, "b": math.inf})))
    assert math.isnan(entry.metrics["a"])
    assert entry.metrics["b"] == math.inf


def test_names_that_are_not_utf8_can_be_sent(tmp_path: Path) -> None:
    entry = Entry(key="k", at=0, tags={"note": f"--images {os.fsdecode(bytes([66, 0xE4]))}ume für Bäume"})
    [found] = content(write_queue(tmp_path / "j.jsonl", entry))
    assert found.tags == {"note": "--images B?ume für Bäume"}


def test_entries_are_taken_while_others_come(tmp_path: Path) -> None:
    path = tmp_path / "j.jsonl"
    queue = MlflowQueue(path)
    queue.append(FIRST, sync=False)
    queue.append(SECOND, sync=False)
    assert (len(queue), queue.first(), queued(tmp_path)) == (2, [FIRST], 2)
    queue.remove(1)
    queue.append(FIRST, sync=True)
    assert (len(queue), queue.first(5), queued(tmp_path)) == (2, [SECOND, FIRST], 2)
    queue.remove(2)
    assert (len(queue), queue.first(), path.stat().st_size) == (0, [], 0)
    queue.append(SECOND, sync=True)
    queue.close()
    assert content(path) == [SECOND]


@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(steps=st.lists(entries | st.integers(1, 3), max_size=15))
def test_a_crash_at_any_moment_loses_nothing_and_what_was_sent_is_known(
    tmp_path: Path, steps: list[Entry | int]
) -> None:
    folder = Path(tempfile.mkdtemp(dir=tmp_path))
    path, crashed = folder / "queues" / "j.jsonl", folder / "crashed" / "j.jsonl"
    crashed.parent.mkdir()
    moments: list[bytes] = []
    pwrite, ftruncate = os.pwrite, os.ftruncate

    def write_half(file: int, data: bytes, offset: int) -> int:
        written = pwrite(file, data[: max(1, len(data) // 2)], offset)
        moments.append(path.read_bytes())
        return written

    def truncate(file: int, length: int) -> None:
        ftruncate(file, length)
        moments.append(path.read_bytes())

    queue, told = MlflowQueue(path), list[Entry]()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mlflow_queue, "_MOST_SENT", 0)
        patch.setattr(mlflow_queue, "_MOST_BYTES", 200)
        for step in steps:
            before = told
            with patch.context() as inner:
                inner.setattr(os, "pwrite", write_half)
                inner.setattr(os, "ftruncate", truncate)
                if isinstance(step, Entry):
                    told = [*told, step]
                    queue.append(step, sync=False)
                elif told:
                    told = told[step:]
                    queue.remove(min(step, len(before)))
            for moment in moments:
                crashed.write_bytes(moment)
                left = queued(crashed.parent)
                found = content(crashed)
                assert found in (before, told)
                assert len(found) == left
            moments.clear()
            assert queued(path.parent) == len(told)
    queue.close()


def test_room_of_what_was_sent_is_used_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mlflow_queue, "_MOST_SENT", 10_000)
    path = tmp_path / "j.jsonl"
    queue, longest = MlflowQueue(path), 0
    for number in range(1000):
        queue.append(Entry(key="trial-0", at=number), sync=False)
        if number >= 10:
            queue.remove(1)
        longest = max(longest, path.stat().st_size)
    assert longest < 12_000
    queue.close()
    assert [entry.at for entry in content(path)] == list(range(990, 1000))


def test_a_line_that_was_changed(tmp_path: Path) -> None:
    path = write_queue(tmp_path / "j.jsonl", FIRST, SECOND)
    path.write_bytes(path.read_bytes().replace(b"0.1", b"0.7", 1))
    before = path.read_bytes()
    with pytest.raises(StoreError, match=r"j\.jsonl: line 1 is damaged \(its checksum differs\); move the file away"):
        MlflowQueue(path)
    assert path.read_bytes() == before


def test_a_last_line_of_which_the_disk_lacks_a_part_is_dropped(tmp_path: Path) -> None:
    path = write_queue(tmp_path / "j.jsonl", FIRST, SECOND)
    path.write_bytes(path.read_bytes().replace(b"trial-1", bytes(7)))
    assert content(path) == [FIRST]


def test_a_last_line_that_was_changed_is_not_dropped(tmp_path: Path) -> None:
    path = write_queue(tmp_path / "j.refused", FIRST)
    path.write_bytes(path.read_bytes().replace(b"0.1", b"0.7", 1))
    for _ in range(2):  # the file is closed, too
        with pytest.raises(StoreError, match=r"j\.refused: line 1 is damaged \(its checksum differs\)"):
            MlflowQueue(path)


def test_a_line_that_was_changed_behind_those_that_were_sent(tmp_path: Path) -> None:
    path = tmp_path / "j.jsonl"
    queue = MlflowQueue(path)
    for entry in (FIRST, FIRST, SECOND):
        queue.append(entry, sync=True)
    queue.remove(1)
    queue.close()
    path.write_bytes(path.read_bytes().replace(b"0.1", b"0.7"))
    with pytest.raises(StoreError, match=r"j\.jsonl: line 2 is damaged \(its checksum differs\); move the file away"):
        MlflowQueue(path)


def test_one_process_at_a_time(tmp_path: Path) -> None:
    path = tmp_path / "j.jsonl"
    queue = MlflowQueue(path)
    queue.append(FIRST, sync=True)
    with pytest.raises(QueueInUseError):
        MlflowQueue(path)
    queue.close()
    assert content(path) == [FIRST]


def test_no_folder_for_it(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(StoreError, match=r"^the MLflow queue .*/j\.jsonl must be a writable file, but: File exists$"):
        MlflowQueue(tmp_path / "file" / "j.jsonl")


def test_no_room_for_an_entry(tmp_path: Path) -> None:
    queue = MlflowQueue(tmp_path / "j.jsonl")
    queue.append(FIRST, sync=True)
    with file_size_limit(1000), pytest.raises(StoreError) as error:
        queue.append(Entry(key="long", at=2, files={"f": b"x" * 5000}), sync=True)
    assert str(error.value) == f"{queue.path} must have room for another entry, but: File too large"
    queue.append(SECOND, sync=True)
    queue.close()
    assert content(queue.path) == [FIRST, SECOND]
