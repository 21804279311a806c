"""Ask an OpenAI-compatible service about an image: chat completions over HTTP, with limits on time, size and money."""

from __future__ import annotations

import base64
import http.client
import json
import random
import socket
import ssl
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from cifar_core.errors import UserError, cause
from experiments.vendors.answers import ANSWERED, NOT_ANSWERED, Answer
from sweeps.command_line import secret_of

MOST_REPLY_BYTES = 1_000_000
MOST_READ, MOST_SAID = 10_000, 300  # bytes of an error that are read, letters that are shown
TRIES = 6
UNREADABLE = 2  # such replies to one image are taken for its answer, which is wrong
LONGEST_WAIT = 60.0  # seconds between two tries
REFUSED = (400, 413, 422)  # statuses of an image that a service does not take, by its content or size
LOCAL = ("localhost", "127.0.0.1", "::1")
RETRIED = (408, 409, 425, 429)  # and all from 500 on
_NOT_CONNECTED = (ConnectionRefusedError, socket.gaierror, ssl.SSLCertVerificationError)  # before anything was sent
LEAST_BOUND = 10_000  # tokens of a small image and its prompt: some services count up to 8,500 for one tile


class VendorError(UserError):
    """A service refuses, does not answer, or reports no usage; the message is one line."""


class ImageRefusedError(VendorError):
    """The service refuses this image, but may take others."""


class _BilledError(VendorError):
    """A reply that was paid for shows that others would be of no use."""


class SpendingLimitError(UserError):
    """The next request might cross --max-usd."""


@dataclass
class SpendingLimit:
    """Money that requests may cost, in US dollars.

    Each request reserves the most that it may cost before it is sent: twice the most tokens that any has had, in and
    out. Until a usage is known, a request reserves its bound of tokens, and must go alone.
    """

    limit: float
    usd_input: float  # price of a million input tokens
    usd_output: float
    answer_tokens: int  # longest answer that the service is asked for
    spent: float = 0.0
    _reserved: float = 0.0
    _running: int = 0  # requests
    _most: tuple[int, int] | None = None  # tokens of a request so far, in and out
    _settled: threading.Condition = field(default_factory=threading.Condition)

    @property
    def knows_usage(self) -> bool:
        """True once a service has reported the tokens of a request."""
        return self._most is not None

    def cost(self, input_tokens: int, output_tokens: int) -> float:
        return (input_tokens * self.usd_input + output_tokens * self.usd_output) / 1e6

    def reserve(self, bound: int) -> float:
        """Set money aside for a request; waits for those that run where it might be enough once they are settled.

        Args:
            bound: upper bound of the input tokens of the request, used until a usage is known.

        Raises:
            SpendingLimitError: there is not enough.
        """
        with self._settled:
            self._settled.wait_for(lambda: not self._running or self._fits(bound))
            usd = self._next(bound)
            if not self._fits(bound):
                raise SpendingLimitError(
                    f"--max-usd {self.limit:g} must not be crossed; ${self.spent:.4f} is spent, and the next request "
                    f"may cost up to ${usd:.4f}"
                )
            self._reserved += usd
            self._running += 1
            return usd

    def settle(self, reserved: float, usd: float, usage: tuple[int, int] | None = None) -> None:
        """Replace a reservation by what the request cost, and learn from the tokens that it had, in and out."""
        with self._settled:
            self._reserved -= reserved
            self._running -= 1
            self.spent += usd
            if usage is not None:
                most = self._most or (0, 0)
                self._most = max(most[0], usage[0]), max(most[1], usage[1])
            self._settled.notify_all()

    def _next(self, bound: int) -> float:
        """The reservation of the next request."""
        into, out = self._most or (0, 0)
        return self.cost(2 * into or bound, max(2 * out, self.answer_tokens))

    def _fits(self, bound: int) -> bool:
        return self.spent + self._reserved + self._next(bound) <= self.limit


@dataclass(frozen=True)
class _Reply:
    text: str
    usage: tuple[int, int]  # tokens in and out
    cut_off: bool  # at the limit of tokens, before the first word


class _FailedTryError(Exception):
    """A try failed, and another may not.

    Attributes:
        after: seconds that the service asks to wait for; None if it does not.
        sent: True if the service may have billed the request.
        unreadable: True if the reply is no chat completion.
    """

    def __init__(self, reason: str, *, after: float | None = None, sent: bool = True, unreadable: bool = False) -> None:
        super().__init__(reason)
        self.after, self.sent, self.unreadable = after, sent, unreadable


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any) -> None:
        """None: a redirect would take the key elsewhere."""


class Chat:
    """A service that answers questions about images.

    Args:
        url: URL of chat completions; https, or a local address.
        key: API key; "" for a service that needs none.
        seconds: longest time that one request may take.
        effort: reasoning effort in the service's words; "" leaves it to the service.
        sleep: function that waits for a number of seconds, and returns true if no further try is to follow.

    Raises:
        VendorError: the address is none that a key may be sent to, or the key is none that can be sent.
    """

    def __init__(
        self,
        url: str,
        model: str,
        prompt: str,
        spending: SpendingLimit,
        *,
        key: str = "",
        seconds: float = 60.0,
        effort: str = "",
        sleep: Callable[[float], object] = time.sleep,
    ) -> None:
        try:
            parts = urlsplit(url)
            if secret := secret_of(url):  # the message is without the URL
                raise VendorError(
                    f"--url must hold no key, which goes into VENDOR_KEY, but that of {parts.hostname} has {secret}"
                )
            host, _ = parts.hostname or "", parts.port  # which may raise as well
            host.encode("idna")
        except ValueError as error:
            raise VendorError(f"--url must be a URL, but {url!r} gave: {error}") from error
        local = host in LOCAL
        if parts.scheme != "https" and not (parts.scheme == "http" and local):
            raise VendorError(f"--url must begin with https:// (http:// for this machine alone), but got {url!r}")
        if not host:
            raise VendorError(f"--url must name a host, but got {url!r}")
        if not (url.isascii() and url.isprintable()) or " " in url:
            raise VendorError(f"--url must be printable ASCII without spaces, but got {url!r}")
        if not (key.isascii() and key.isprintable()):  # no header holds it, and no error may quote it
            raise VendorError("the key must be one line of printable ASCII characters, but is not")
        self._url, self._model, self._prompt, self._key = url, model, prompt, key
        self.spending, self._seconds, self._sleep = spending, seconds, sleep
        self._reached = False  # whether the service has ever answered, whatever it said
        self._limits: dict[str, object] = {"max_tokens": spending.answer_tokens, "temperature": 0}
        self._effort = {"reasoning_effort": effort} if effort else {}
        handlers: list[urllib.request.BaseHandler] = [_NoRedirects()]
        if local:
            handlers.append(urllib.request.ProxyHandler({}))
        self._opener = urllib.request.build_opener(*handlers)

    def ask(self, image: str, png: bytes, keep: Callable[[Answer], None]) -> None:
        """Ask about an image, retry errors that may pass, and record each try that was charged.

        Raises:
            ImageRefusedError: the service refuses this image.
            VendorError: the service refuses, gives no chat completions, or all tries failed.
            SpendingLimitError: the next try might cross the limit.
        """
        unreadable, seconds, picture = 0, 0.0, base64.b64encode(png).decode()
        largest = len(self._body(picture, self._limits))  # no token is shorter than a byte of the request
        bound = max(LEAST_BOUND, largest)
        for number in range(TRIES):
            first = not self.spending.knows_usage
            reserved, began = self.spending.reserve(bound), time.perf_counter()
            reply, charged = self._try(picture, reserved)
            seconds += time.perf_counter() - began  # also of tries that fail, without the pauses after them
            if isinstance(reply, _Reply):
                if first and reply.cut_off:
                    keep(Answer(image, "", None, charged, NOT_ANSWERED))
                    raise VendorError(
                        f"the service must answer within {self.spending.answer_tokens} tokens, but spends them before "
                        "its first word; a model that reasons may need --reasoning-effort none (or minimal)"
                    )
                return keep(Answer(image, reply.text, seconds, charged, ANSWERED))
            if isinstance(reply, _BilledError):
                keep(Answer(image, "", None, charged, NOT_ANSWERED))
                raise reply
            unreadable += reply.unreadable
            if unreadable == UNREADABLE and first:
                keep(Answer(image, "", None, charged, NOT_ANSWERED))
                raise VendorError(f"the service must answer with chat completions, but {self._url} gives {reply}")
            if unreadable == UNREADABLE:
                return keep(Answer(image, "", seconds, charged, ANSWERED))  # all that it says of this image
            if charged:
                keep(Answer(image, "", None, charged, NOT_ANSWERED))
            if number == TRIES - 1:
                raise VendorError(f"{TRIES} tries of one request failed; the last: {reply}")
            if not reply.unreadable:
                wait = 2.0**number * (0.5 + random.random()) if reply.after is None else reply.after
                if self._sleep(min(LONGEST_WAIT, wait)):
                    return None
        raise AssertionError("the last try has returned or raised")

    def _try(self, picture: str, reserved: float) -> tuple[_Reply | _FailedTryError | _BilledError, float]:
        """Send one request; return its reply, or why there is none, and what it is charged of the money reserved."""
        charged, reply = 0.0, None
        try:
            reply = self._send(picture)
            charged = self.spending.cost(*reply.usage)
            return reply, charged
        except (_FailedTryError, _BilledError) as error:
            charged = reserved if isinstance(error, _BilledError) or error.sent else 0.0
            return error, charged
        finally:
            self.spending.settle(reserved, charged, reply.usage if reply else None)

    def _body(self, picture: str, limits: Mapping[str, object]) -> bytes:
        url = {"url": f"data:image/png;base64,{picture}"}
        content = [{"type": "image_url", "image_url": url}, {"type": "text", "text": self._prompt}]
        messages = [{"role": "user", "content": content}]
        body = {"model": self._model, "messages": messages, **limits, **self._effort}
        return json.dumps(body).encode()

    def _send(self, picture: str) -> _Reply:
        limits = self._limits  # another request may change them meanwhile
        body = self._body(picture, limits)
        headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {self._key}"} if self._key else {})
        request = urllib.request.Request(self._url, body, headers)
        try:
            with self._opener.open(request, timeout=self._seconds) as response:
                self._reached = True
                return _parse(self._read(response))
        except urllib.error.HTTPError as error:
            self._reached = True
            with error:
                if error.code in RETRIED or error.code >= 500:
                    raise _FailedTryError(f"status {error.code}", after=_after(error), sent=error.code >= 500) from None
                said = self._said(error)
                # Of models that reason.
                newer: dict[str, object] = {"max_completion_tokens": self.spending.answer_tokens}
                if error.code == 400 and "max_completion_tokens" in said and limits != newer:
                    self._limits = newer
                    raise _FailedTryError("status 400", after=0.0, sent=False) from None
                kind = ImageRefusedError if error.code in REFUSED else VendorError
                unset = "; VENDOR_KEY is not set" if error.code in (401, 403) and not self._key else ""
                raise kind(
                    f"the service must accept the request, but answers status {error.code}{said and ': '}{said}{unset}"
                ) from None
        except (OSError, http.client.HTTPException) as error:
            reason = getattr(error, "reason", error)  # of a URLError
            sent = not isinstance(reason, _NOT_CONNECTED)
            if not (sent or self._reached or self.spending.spent or _may_pass(reason)):  # a wrong address, most likely
                raise VendorError(f"the service must answer at {self._url}, but: {cause(reason)}") from None
            said = f"{type(reason).__name__}, no {'whole reply' if sent else 'connection'}"
            raise _FailedTryError(said, sent=sent) from None

    def _said(self, error: urllib.error.HTTPError) -> str:
        """The beginning of what a service says of an error, on one line and without the key."""
        try:
            text = " ".join(error.read(MOST_READ).decode(errors="replace").split())
        except (OSError, http.client.HTTPException):
            return ""
        text = text.replace(self._key, "...") if self._key else text
        return "".join(letter for letter in text if letter.isprintable())[:MOST_SAID]

    def _read(self, response: Any) -> bytes:
        """The body of a reply, within the limits of size and time."""
        deadline, parts, size = time.monotonic() + self._seconds, [], 0
        while chunk := response.read1(65_536):
            size += len(chunk)
            if size > MOST_REPLY_BYTES:
                raise _FailedTryError("a reply larger than a megabyte", unreadable=True)
            if time.monotonic() > deadline:
                raise _FailedTryError("a reply slower than the limit of time")
            parts.append(chunk)
        if (length := response.headers.get("Content-Length", "")).isdecimal() and size < int(length):
            raise _FailedTryError("a reply that broke off")
        return b"".join(parts)


def _parse(content: bytes) -> _Reply:
    reply = None
    try:
        reply = json.loads(content)
        choice, usage = reply["choices"][0], reply.get("usage")
        text, finished = choice["message"]["content"], choice.get("finish_reason")
    except (ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError):
        code = _passed_on(reply)
        if code in RETRIED or code >= 500:
            raise _FailedTryError(f"error {code} in a reply of status 200", sent=code >= 500) from None
        raise _FailedTryError("a reply that is no chat completion", unreadable=True) from None
    if not isinstance(usage, dict):
        raise _BilledError("the service must report its usage, without which --max-usd cannot be kept, but does not")
    counts = [usage.get(name) for name in ("prompt_tokens", "completion_tokens")]
    tokens = [count for count in counts if isinstance(count, int) and not isinstance(count, bool) and 0 <= count < 1e9]
    if len(tokens) != 2:
        raise _BilledError(f"the service must report its usage in tokens, but reports {str(counts)[:60]}")
    return _Reply(text if isinstance(text, str) else "", (tokens[0], tokens[1]), not text and finished == "length")


def _may_pass(reason: object) -> bool:
    return isinstance(reason, socket.gaierror) and reason.errno == socket.EAI_AGAIN


def _passed_on(reply: Any) -> int:
    """The status of an upstream service that a gateway passes on in the body of a reply; 0 if there is none."""
    try:
        return int(reply["error"]["code"])
    except (KeyError, TypeError, ValueError, OverflowError):
        return 0


def _after(error: urllib.error.HTTPError) -> float | None:
    text = error.headers.get("Retry-After", "") if error.headers else ""
    return float(text) if text.isdecimal() else None
