"""The guard in front of MLflow's scoring server: what reaches it, and what is refused with which reason."""

from __future__ import annotations

import asyncio
import itertools
import json
import threading
from collections.abc import Iterable, Iterator, Sequence
from typing import Any
from unittest.mock import Mock
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest
import uvicorn

from experiments.serving import guard
from experiments.serving.guard import IMAGES, Guard, Message, Receive, Send, most_bytes
from experiments.serving.local import HOST, listen

SIDE, MOST = 16, 1_179_648  # bytes of a body
IMAGE = [[[0, 7, 255]] * SIDE] * SIDE
JSON = [(b"content-type", b"application/json; charset=utf-8")]


def ask(parts: Sequence[bytes], headers: Sequence[tuple[bytes, bytes]] = JSON, *, method: str = "POST") -> Any:
    """Return the body that reaches the application, or the status and the reason of the refusal."""
    arrived: list[bytes] = []
    sent: list[Message] = []
    messages: list[Message] = [{"type": "http.request", "body": part, "more_body": True} for part in parts]
    if messages:
        del messages[-1]["more_body"]  # ASGI lets servers leave it out there

    async def application(scope: Message, receive: Receive, send: Send) -> None:
        message = await receive()
        assert not message.get("more_body", False)
        arrived.append(message["body"])

    async def receive() -> Message:
        return messages.pop(0) if messages else {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        sent.append(message)

    scope = {"type": "http", "method": method, "headers": list(headers)}
    asyncio.run(Guard(application, SIDE)(scope, receive, send))
    if arrived:
        return arrived[0]
    return (sent[0]["status"], json.loads(sent[1]["body"])["message"]) if sent else None


@pytest.mark.parametrize("key", ["inputs", "instances"])
@pytest.mark.parametrize("indent", [None, 1])
def test_images_pass(key: str, indent: int | None) -> None:
    body = json.dumps({key: [IMAGE, IMAGE]}, indent=indent).encode()
    assert ask([body[:10], body[10:30], body[30:]]) == body


@pytest.mark.parametrize("number", [0, 9, 10, 99, 100, 199, 200, 249, 250, 255])
def test_bytes_pass(number: int) -> None:
    body = json.dumps({"inputs": [[[[number, 0, 255]] * SIDE] * SIDE]}).encode()
    assert ask([body]) == body


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"pixels",
        b"[]",
        b"{}",
        b'{"inputs": null}',
        b'{"inputs": []}',
        json.dumps({"inputs": IMAGE}).encode(),
        *(json.dumps({"inputs": [[[[n, 0, 0]] * SIDE] * SIDE]}).encode() for n in (0.5, -1, "7", True, 256, 300, 1000)),
        json.dumps({"inputs": [IMAGE]}).replace("7", "07").encode(),
        json.dumps({"inputs": [IMAGE[1:]]}).encode(),
        json.dumps({"inputs": [[row[1:] for row in IMAGE]]}).encode(),
        json.dumps({"inputs": [IMAGE, [*IMAGE, IMAGE[0]]]}).encode(),
        json.dumps({"inputs": [[[[*pixel, 0] for pixel in row] for row in IMAGE]]}).encode(),
        json.dumps({"inputs": [IMAGE], "params": {}}).encode(),
        json.dumps({"inputs": [IMAGE]}).encode("utf-16"),
        b'{"inputs": ' + b"[" * 900_000,
        b'{"inputs": ' + b"[1," * 300_000,
    ],
)
def test_anything_but_images_of_whole_numbers_is_refused(body: bytes) -> None:
    status, reason = ask([body])
    assert status == 400
    said = (
        'the body must be {"inputs": [image, ...]} alone, where an image is a list of 16 rows, a row one of 16 pixels'
    )
    assert reason.startswith(said)
    assert reason.endswith(f"whole numbers from 0 to 255: red, green, blue; but got {body[:80]!r}")


@pytest.mark.parametrize("headers", [JSON, [*JSON, (b"content-length", b"%d" % (MOST + 1))]])
def test_a_body_that_is_too_large_is_refused_before_it_is_read(headers: Sequence[tuple[bytes, bytes]]) -> None:
    for parts in ([b" " * 400_000] * 4, [b" " * 1_600_000]):
        assert ask(parts, headers) == (413, "the body must have at most 1,179,648 bytes")


@pytest.mark.parametrize("side", [32, 48, 64])
def test_the_largest_body_holds_as_many_images_of_every_size(side: int) -> None:
    white = json.dumps({"inputs": [[[[255] * 3] * side] * side] * 16})
    assert 0.9 * most_bytes(side) < len(white) * IMAGES / 16 <= most_bytes(side)


@pytest.mark.parametrize(("kind", "said"), [(b"text/csv", "text/csv"), (None, "none")])
def test_other_types_of_content_are_refused(kind: bytes | None, said: str) -> None:
    headers = [(b"content-type", kind)] if kind is not None else []
    assert ask([b"{}"], headers) == (415, f"the content type must be application/json, but got {said}")


def test_other_methods_and_lost_connections() -> None:
    assert ask([b"anything"], method="GET") == b"anything"
    assert ask([]) is None


def test_requests_beyond_the_most_at_once_are_refused_until_one_is_answered() -> None:
    body = json.dumps({"inputs": [IMAGE]}).encode()
    statuses: list[int] = []

    async def ask_more_than_fit() -> None:
        held = asyncio.Event()

        async def application(scope: Message, receive: Receive, send: Send) -> None:
            if scope["method"] == "POST":
                await held.wait()
            await send({"type": "http.response.start", "status": 200})

        async def receive() -> Message:
            return {"type": "http.request", "body": body, "more_body": False}

        async def send(message: Message) -> None:
            statuses.extend([message["status"]] if "status" in message else [])

        guarded = Guard(application, SIDE)

        async def request(method: str = "POST") -> None:
            await guarded({"type": "http", "method": method, "headers": JSON}, receive, send)

        waiting = [asyncio.create_task(request()) for _ in range(64)]
        await asyncio.sleep(0)
        await request()
        await request("GET")
        held.set()
        await asyncio.gather(*waiting)
        await request()

    asyncio.run(ask_more_than_fit())
    assert statuses == [503, 200, *[200] * 65]


def test_a_body_that_does_not_arrive_in_time_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "_BODY_SECONDS", 0.01)
    sent: list[Message] = []

    async def silent() -> Message:
        await asyncio.sleep(60)
        raise AssertionError

    async def send(message: Message) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "POST", "headers": JSON}
    asyncio.run(Guard(Mock(), SIDE)(scope, silent, send))
    said = json.loads(sent[1]["body"])["message"]
    assert (sent[0]["status"], said) == (408, "the body must arrive within 0.01 seconds")


@pytest.fixture
def address() -> Iterator[str]:
    """The address of a server of the guard."""
    server = uvicorn.Server(uvicorn.Config(Guard(Mock(), SIDE), log_level="warning"))
    with listen(0) as listening:
        thread = threading.Thread(target=server.run, args=([listening],))
        thread.start()
        yield f"http://{HOST}:{listening.getsockname()[1]}/invocations"
        server.should_exit = True
        thread.join()


@pytest.mark.parametrize(
    ("body", "kind", "status", "reason"),
    [
        (b" " * 20_000_000, "application/json", 413, "the body must have at most 1,179,648 bytes"),
        ([b" " * 1_000_000] * 20, "application/json", 413, "the body must have at most 1,179,648 bytes"),
        (b" " * 20_000_000, "text/csv", 415, "the content type must be application/json, but got text/csv"),
    ],
)
def test_a_client_that_sends_all_before_it_reads_gets_the_reason(
    address: str, body: bytes | Iterable[bytes], kind: str, status: int, reason: str
) -> None:
    with pytest.raises(HTTPError) as raised:
        urlopen(Request(address, body, {"Content-Type": kind}), timeout=20)
    with raised.value as answer:
        assert (answer.status, json.load(answer)["message"]) == (status, reason)


@pytest.mark.parametrize("is_silent", [False, True])
def test_a_refused_body_is_not_read_for_ever(monkeypatch: pytest.MonkeyPatch, *, is_silent: bool) -> None:
    monkeypatch.setattr(guard, "_REST_SECONDS", 0.01 if is_silent else 60)
    sent: list[Message] = []
    parts = itertools.count()

    async def endless() -> Message:
        next(parts)
        await asyncio.sleep(60 if is_silent else 0)
        return {"type": "http.request", "body": bytes(1_000_000), "more_body": True}

    async def send(message: Message) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "POST", "headers": [*JSON, (b"content-length", b"%d" % (MOST + 1))]}
    asyncio.run(Guard(Mock(), SIDE)(scope, endless, send))
    assert next(parts) == (1 if is_silent else 64)
    assert sent[-1] == {"type": "http.response.body", "body": b""}
