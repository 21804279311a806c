"""Guard in front of MLflow's scoring server: what it would misread, or fail at, is refused with a reason.

MLflow's server reads a body of any size into memory, for any time, takes 0.5 for the byte 0, answers 500 to a request
without a content type or with brackets nested too deep, and repeats all pixels of an image of another shape.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Message, Receive, Send], Awaitable[None]]  # of ASGI

IMAGES = 256  # that fit into a request, whatever their pixels
_MOST_REQUESTS = 64  # at once
_BODY_SECONDS = 30.0
_REST_BYTES, _REST_SECONDS = 64_000_000, 5.0  # at most, of a refused body
_PIXEL_BYTES = 18  # at most, as json.dumps writes it: "[255, 255, 255], " and a share of the brackets around
_BYTE = rb"(?>25[0-5]|2[0-4]\d|1\d\d|[1-9]?\d)\s*+"


def most_bytes(side: int) -> int:
    """Return the size of the largest body for images of `side` x `side` pixels, which holds at least `IMAGES`."""
    return IMAGES * side * side * _PIXEL_BYTES


def _json_list(item: bytes, count: int | None = None) -> bytes:
    """Return the pattern of a list of `count` items, or of one or more.

    Possessive quantifiers prevent backtracking, so matching takes linear time.
    """
    others = b"*+" if count is None else b"{%d}+" % (count - 1)
    return rb"\[\s*+" + item + rb"(?:,\s*+" + item + rb")" + others + rb"\]\s*+"


def _body_of(side: int) -> re.Pattern[bytes]:
    """Return the pattern of a body that holds images of `side` x `side` pixels."""
    images = _json_list(_json_list(_json_list(_json_list(_BYTE, 3), side), side))
    return re.compile(rb'\s*+\{\s*+"(?:inputs|instances)"\s*+:\s*+' + images + rb"\}\s*+")


class Guard:
    """An ASGI application that passes sound requests on to `application`, with their bodies read.

    Requests are counted, and not connections, of which a silent one would take a place for good.

    Args:
        side: height and width of an image in pixels.
    """

    def __init__(self, application: Application, side: int) -> None:
        self._application, self._most_bytes, self._body = application, most_bytes(side), _body_of(side)
        self._rule = (
            f'the body must be {{"inputs": [image, ...]}} alone, where an image is a list of {side} rows, a row one of '
            f"{side} pixels, and a pixel one of three whole numbers from 0 to 255: red, green, blue"
        )
        self._places = asyncio.Semaphore(_MOST_REQUESTS)

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "POST":
            await self._application(scope, receive, send)
        elif self._places.locked():
            await _refuse(
                send, 503, f"at most {_MOST_REQUESTS} requests are answered at once; try again later", receive
            )
        else:
            async with self._places:
                await self._post(scope, receive, send)

    async def _post(self, scope: Message, receive: Receive, send: Send) -> None:
        headers = dict(scope["headers"])
        kind = headers.get(b"content-type", b"none").decode("latin-1")
        if kind.partition(";")[0].strip().lower() != "application/json":
            await _refuse(send, 415, f"the content type must be application/json, but got {kind[:80]}", receive)
            return
        too_large = f"the body must have at most {self._most_bytes:,} bytes"
        if int(headers.get(b"content-length", 0)) > self._most_bytes:
            await _refuse(send, 413, too_large, receive)
            return
        body = bytearray()
        message: Message = {"more_body": True}
        try:
            async with asyncio.timeout(_BODY_SECONDS):
                while message.get("more_body", False) and len(body) <= self._most_bytes:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        return
                    body += message.get("body", b"")
        except TimeoutError:
            await _refuse(send, 408, f"the body must arrive within {_BODY_SECONDS:g} seconds")
            return
        if len(body) > self._most_bytes:
            await _refuse(send, 413, too_large, receive if message.get("more_body", False) else None)
            return
        if self._body.fullmatch(body) is None:
            await _refuse(send, 400, f"{self._rule}; but got {bytes(body[:80])!r}")
            return
        whole: list[Message] = [{"type": "http.request", "body": bytes(body), "more_body": False}]

        async def replay() -> Message:
            return whole.pop() if whole else await receive()

        await self._application(scope, replay, send)


async def _refuse(send: Send, status: int, message: str, rest: Receive | None = None) -> None:
    """Answer with the reason.

    Args:
        rest: of the body, where it was not read to its end: many clients send all of it before they read an answer, and
            a connection that is closed before that is reset for them.
    """
    content = json.dumps({"error_code": "BAD_REQUEST", "message": message}).encode()
    # The body may not be read to its end, so the connection cannot be used again.
    headers = [(b"content-type", b"application/json"), (b"connection", b"close")]
    headers.append((b"content-length", str(len(content)).encode()))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": content, "more_body": True})  # to clients that wait for it
    if rest is not None:
        await _discard(rest)
    await send({"type": "http.response.body", "body": b""})


async def _discard(receive: Receive) -> None:
    read, more = 0, True
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_REST_SECONDS):
            while more and read < _REST_BYTES:
                message = await receive()
                read, more = read + len(message.get("body", b"")), message.get("more_body", False)
