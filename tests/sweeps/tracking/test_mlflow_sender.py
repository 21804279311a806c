"""The sender sends in order and once, through outages, refusals and the end of its process."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from mlflow.exceptions import MlflowException
from requests import HTTPError, Response

from sweeps.store import StoreError
from sweeps.tracking import mlflow_sender
from sweeps.tracking.mlflow_queue import Entry, MlflowQueue, queued, unsent
from sweeps.tracking.mlflow_sender import MlflowSender
from tests.sweeps.support import write_queue


class Server:
    """Takes entries, unless it is down or told to refuse."""

    def __init__(self) -> None:
        self.taken: list[int] = []
        self.down = False
        self.seconds = 0.0  # for an entry
        self.fault: Callable[[Entry], Exception | None] = lambda entry: None
        self.said: list[str] = []

    def write(self, entries: Sequence[Entry]) -> Iterator[None]:
        if self.down:
            raise MlflowException("API request failed\nwith a long story")
        for entry in entries:
            if (error := self.fault(entry)) is not None:
                raise error
        for entry in entries:
            time.sleep(self.seconds)
            self.taken.append(entry.at)
            yield

    def open(self, folder: Path) -> MlflowSender:
        return MlflowSender(folder, self.write, self.said.append)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Server:
    monkeypatch.setattr(mlflow_sender, "_PAUSES", (0.01,))
    return Server()


def put(sender: MlflowSender, *numbers: int) -> None:
    for number in numbers:
        sender.put(Entry(key=f"trial-{number}", at=number), sync=True)


def answer(status: int) -> HTTPError:
    """The error of an upload that was answered with that status."""
    response = Response()
    response.status_code = status
    return HTTPError(f"{status} for url: http://proxy", response=response)


def test_everything_is_sent_in_its_order(server: Server, tmp_path: Path) -> None:
    sender = server.open(tmp_path / "queues")
    put(sender, *range(100))
    assert sender.close(10, 10) == 0
    assert server.taken == list(range(100))
    assert list((tmp_path / "queues").iterdir()) == []
    assert server.said == []


def test_nothing_waits_for_a_server_that_is_gone(server: Server, tmp_path: Path) -> None:
    sender = server.open(tmp_path)
    server.down = True
    started = time.monotonic()
    put(sender, 0, 1, 2)
    assert time.monotonic() - started < 1
    assert not sender.flush(0.05, 0.05)
    server.down = False
    put(sender, 3)
    assert sender.flush(10, 10)
    assert server.taken == [0, 1, 2, 3]
    assert sender.close(10, 10) == 0
    lost, again = server.said
    assert lost == "MLflow does not answer (API request failed); the sweep continues, and its results wait on disk"
    assert re.fullmatch("MLflow answers again; sending [34] entries", again)


def test_an_end_does_not_wait_for_a_long_pause(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mlflow_sender, "_PAUSES", (60.0,))
    monkeypatch.setattr(mlflow_sender, "_FLUSH_PAUSE", 0.01)
    monkeypatch.setattr(mlflow_sender, "_GATHER_SECONDS", 0.01)
    sender = server.open(tmp_path)
    server.down = True
    put(sender, 0)
    while not server.said:
        time.sleep(0.01)
    faults: list[Exception] = [answer(503)]
    server.fault = lambda entry: faults.pop() if faults else None  # the server is down for one attempt more
    server.down = False
    assert sender.close(3, 3) == 0
    assert server.taken == [0]


def test_what_was_not_sent_is_kept_for_the_next_process(server: Server, tmp_path: Path) -> None:
    sender = server.open(tmp_path)
    put(sender, 0)
    assert sender.flush(10, 10)
    server.down = True
    put(sender, 1, 2)
    assert sender.close(0.05, 0.05) == 2
    assert queued(tmp_path) == 2
    with pytest.raises(MlflowException):
        server.open(tmp_path)
    assert queued(tmp_path) == 2
    server.down = False
    sender = server.open(tmp_path)
    put(sender, 3)
    assert sender.close(10, 10) == 0
    assert server.taken == [0, 1, 2, 3]


def test_what_earlier_processes_left_is_sent_oldest_first(server: Server, tmp_path: Path) -> None:
    for number, suffix in enumerate((".jsonl", ".refused", ".jsonl")):
        write_queue(tmp_path / f"{number}{suffix}", Entry(key="trial-0", at=number))
    assert server.open(tmp_path).close(10, 10) == 0
    assert server.taken == [0, 1, 2]


def test_a_network_is_sent_alone(server: Server, tmp_path: Path) -> None:
    """A process that is killed while it sends a batch sends the whole batch again; a network takes long to send."""
    batches: list[list[int]] = []

    def write(entries: Sequence[Entry]) -> Iterator[None]:
        batches.append([entry.at for entry in entries])
        yield from server.write(entries)

    entries = [Entry(key="final-0-0", at=at, weights="file" if at == 1 else None) for at in range(4)]
    write_queue(tmp_path / "1.jsonl", *entries)
    assert MlflowSender(tmp_path, write, server.said.append).close(10, 10) == 0
    assert batches == [[0], [1], [2, 3]]


def test_a_write_that_comes_forward_is_waited_for(server: Server, tmp_path: Path) -> None:
    sender = server.open(tmp_path)
    server.seconds = 0.05
    put(sender, *range(20))
    assert sender.close(0.3, 0.3) == 0, "each entry takes less than that, all of them more"
    assert server.taken == list(range(20))


def test_a_backlog_does_not_hold_up_a_stop(server: Server, tmp_path: Path) -> None:
    server.seconds = 0.02
    sender = server.open(tmp_path / "queues")
    put(sender, *range(1000))
    started = time.monotonic()
    assert sender.close(10, 10, most=0.2) > 0
    assert time.monotonic() - started < 5


@pytest.mark.slow
def test_a_server_that_hangs_does_not_hold_up_the_end(server: Server, tmp_path: Path) -> None:
    sender = server.open(tmp_path)
    hanging, answer = threading.Event(), threading.Event()

    def hang(entry: Entry) -> None:
        hanging.set()
        answer.wait(30)

    server.fault = hang
    put(sender, 0)
    assert hanging.wait(10)
    started = time.monotonic()
    assert sender.close(0.1, 0.1) == 1
    assert time.monotonic() - started < 5
    answer.set()


@pytest.mark.slow
@pytest.mark.parametrize(("patience", "left"), [(10, 0), (0.1, 1)])
def test_a_network_gets_longer(server: Server, tmp_path: Path, patience: float, left: int) -> None:
    server.fault = lambda entry: time.sleep(2)
    sender = server.open(tmp_path)
    sender.put(Entry(key="confirm-0-0", at=0, weights="file"), sync=True)
    assert sender.close(0.1, patience) == left


def test_queues_of_running_processes_are_theirs(server: Server, tmp_path: Path) -> None:
    other = MlflowQueue(tmp_path / "1.jsonl")
    other.append(Entry(key="other", at=7), sync=True)
    sender = server.open(tmp_path)
    assert sender.close(10, 10) == 0
    assert server.taken == []
    other.close()
    assert server.open(tmp_path).close(10, 10) == 0
    assert server.taken == [7]


@pytest.mark.parametrize(
    ("refusal", "words"),
    [
        (MlflowException.invalid_parameter_value("no such run"), "no such run"),
        (answer(413), "413 for url: http://proxy"),  # as a proxy answers to an upload
    ],
)
def test_what_is_refused_is_set_aside(server: Server, tmp_path: Path, refusal: Exception, words: str) -> None:
    server.fault = lambda entry: refusal if entry.at == 1 else None
    sender = server.open(tmp_path)
    put(sender, 0, 1, 2)
    assert sender.close(10, 10) == 1
    assert server.taken == [0, 2]
    [path] = tmp_path.iterdir()
    assert path.suffix == ".refused"
    refused = MlflowQueue(path)
    assert refused.first() == [Entry(key="trial-1", at=1)]
    refused.close()
    assert server.said == [
        f"MLflow refuses an entry of trial-1 ({words}); this and further refused entries of trial-1 are kept in "
        f"{tmp_path}"
    ]


def test_what_is_refused_is_set_aside_once_however_often_its_neighbours_fail(server: Server, tmp_path: Path) -> None:
    refusal, outages = MlflowException.invalid_parameter_value("no such run"), [OSError("gone") for _ in range(3)]
    server.fault = lambda entry: refusal if entry.at == 1 else outages.pop() if entry.at == 2 and outages else None
    sender = server.open(tmp_path)
    put(sender, 0, 1, 2)
    assert sender.close(10, 10) == 1
    assert not outages
    assert server.taken[-1] == 2
    assert unsent(tmp_path) == 1


@pytest.mark.parametrize("status", [401, 403, 408, 425, 429, 500, 503])
def test_an_answer_that_may_change_is_an_outage(server: Server, tmp_path: Path, status: int) -> None:
    faults: list[Exception] = [answer(status)]
    server.fault = lambda entry: faults.pop() if faults else None
    sender = server.open(tmp_path)
    put(sender, 0)
    assert sender.close(10, 10) == 0
    assert server.taken == [0]
    assert server.said[0].startswith(f"MLflow does not answer ({status} for url: http://proxy); ")


def test_what_was_refused_is_sent_again_by_the_next_process(server: Server, tmp_path: Path) -> None:
    refusal = MlflowException.invalid_parameter_value("the run was deleted")
    server.fault = lambda entry: refusal if entry.at in (1, 2) else None
    sender = server.open(tmp_path)
    for at in (1, 2):
        sender.put(Entry(key="trial-1", at=at), sync=True)
    assert sender.close(10, 10) == 2
    assert len(server.said) == 1, "one line a run"
    assert (queued(tmp_path), unsent(tmp_path)) == (0, 2)
    assert server.open(tmp_path).close(10, 10) == 2, "still refused"
    assert unsent(tmp_path) == 2
    server.fault = lambda entry: None
    assert server.open(tmp_path).close(10, 10) == 0
    assert server.taken == [1, 2]
    assert list(tmp_path.iterdir()) == []


def test_an_error_of_ours_comes_out(server: Server, tmp_path: Path) -> None:
    server.fault = lambda entry: TypeError("ours")
    sender = server.open(tmp_path)
    put(sender, 0)
    with pytest.raises(TypeError, match="ours"):
        sender.flush(10, 10)
    with pytest.raises(TypeError, match="ours"):
        put(sender, 1)


def test_a_queue_that_is_damaged(server: Server, tmp_path: Path) -> None:
    (tmp_path / "1.jsonl").write_text("nothing\nlike it\n")
    with pytest.raises(StoreError, match=r"1\.jsonl: line 1 is damaged"):
        server.open(tmp_path)
