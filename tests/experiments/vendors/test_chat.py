"""A service that is slow, rate-limited, broken off, wrong or malicious, and the money that it may cost."""

from __future__ import annotations

import contextlib
import json
import re
import socket
import time
from http.server import BaseHTTPRequestHandler
from unittest.mock import Mock

import pytest

from experiments.vendors.answers import ANSWERED, NOT_ANSWERED, Answer
from experiments.vendors.chat import LEAST_BOUND, Chat, SpendingLimit, SpendingLimitError, VendorError
from tests.experiments.vendors.stub import USAGE, Behaviour, completion, send, serving

COST = (100 * 1.0 + 5 * 2.0) / 1e6


def spending(limit: float = 1.0) -> SpendingLimit:
    return SpendingLimit(limit, usd_input=1.0, usd_output=2.0, answer_tokens=16)


def ask(
    behave: Behaviour, money: SpendingLimit | None = None, *, seconds: float = 5.0
) -> tuple[list[Answer], list[float], int]:
    """The answers kept, the waits between tries, and the number of requests."""
    kept: list[Answer] = []
    waits: list[float] = []
    with serving(behave) as stub:
        chat = Chat(stub.url, "m", "Which?", money or spending(), key="secret", seconds=seconds, sleep=waits.append)
        chat.ask("00000.png", b"png", kept.append)
        assert set(stub.keys) == {"Bearer secret"}
        assert stub.bodies[0]["messages"][0]["content"][0]["image_url"]["url"].startswith("data:image/png;base64,")
        return kept, waits, len(stub.bodies)


def ask_for_ever(chat: Chat, kept: list[Answer]) -> None:
    for _ in range(1000):
        chat.ask("00000.png", b"png", kept.append)


def then_cat(*first: Behaviour) -> Behaviour:
    """Behave in turn, and say "cat" from then on."""

    def behave(request: BaseHTTPRequestHandler, number: int) -> None:
        if number <= len(first):
            first[number - 1](request, number)
        else:
            send(request, completion("cat"))

    return behave


def test_an_answer_has_its_time_and_its_cost() -> None:
    [answer], waits, _ = ask(then_cat())
    assert (answer.image, answer.text, answer.state, waits) == ("00000.png", "cat", ANSWERED, [])
    assert answer.usd == pytest.approx(COST)
    assert answer.seconds is not None
    assert answer.seconds > 0


def test_a_limit_of_rate_is_waited_for_and_costs_nothing() -> None:
    answers, waits, _ = ask(
        then_cat(
            lambda request, _: send(request, b"", 429, Retry_After="7"),
            lambda request, _: send(request, b"", 429),
            lambda request, _: send(request, b"", 429, Retry_After="\u00b2"),  # no number, though it is a digit
        )
    )
    assert [answer.text for answer in answers] == ["cat"]
    assert waits[0] == 7
    assert 1 <= waits[1] <= 3
    assert 2 <= waits[2] <= 6


def test_what_breaks_off_counts_as_billed_and_is_asked_again() -> None:
    def breaks(request: BaseHTTPRequestHandler, _: int) -> None:
        request.send_response(200)
        request.send_header("Content-Length", "1000")
        request.end_headers()
        request.wfile.write(b'{"choices')

    money = spending()
    answers, _, _ = ask(then_cat(breaks, lambda request, _: send(request, b"oh", 503)), money)
    assert [answer.state for answer in answers] == [NOT_ANSWERED, NOT_ANSWERED, ANSWERED]
    assert money.spent == pytest.approx(sum(answer.usd or 0 for answer in answers))
    assert money.spent > 2 * COST


def test_a_service_that_goes_away_is_waited_for_and_costs_nothing() -> None:
    with serving(then_cat(lambda request, _: send(request, b"", 503))) as stub:
        money, kept, waits = spending(), list[Answer](), list[float]()
        chat = Chat(stub.url, "model", "which?", money, sleep=waits.append)
        chat.ask("0.png", b"", kept.append)
    spent = money.spent
    with pytest.raises(VendorError, match=r"^6 tries of one request failed; the last: ConnectionRefusedError, no c"):
        chat.ask("1.png", b"", kept.append)
    assert ([answer.image for answer in kept], money.spent) == (["0.png", "0.png"], spent)
    assert len(waits) == 6


def test_a_name_that_cannot_be_looked_up_just_now_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    failure = socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
    monkeypatch.setattr(socket, "getaddrinfo", Mock(side_effect=failure))
    chat = Chat("https://service.invalid", "model", "which?", spending(), sleep=lambda _: None)
    with pytest.raises(VendorError, match=r"^6 tries of one request failed; the last: gaierror, no connection$"):
        chat.ask("1.png", b"", lambda answer: None)


def test_an_address_where_nothing_listens_ends_at_once_and_costs_nothing() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
    money, kept = spending(), list[Answer]()
    chat = Chat(f"http://127.0.0.1:{port}", "model", "which?", money, sleep=lambda _: None)
    with pytest.raises(
        VendorError, match=rf"^the service must answer at http://127\.0\.0\.1:{port}, but: Connection refused$"
    ):
        chat.ask("1.png", b"", kept.append)
    assert (kept, money.spent) == ([], 0.0)


def test_a_slow_service_is_given_up_in_time() -> None:
    def drips(request: BaseHTTPRequestHandler, _: int) -> None:
        request.send_response(200)
        request.send_header("Content-Length", "100000")
        request.end_headers()
        for _ in range(400):
            request.wfile.write(b" ")
            time.sleep(0.05)

    began = time.monotonic()
    answers, _, _ = ask(then_cat(drips), seconds=1.0)
    assert [answer.text for answer in answers] == ["", "cat"]
    assert time.monotonic() - began < 10, "half of what it would take"


@pytest.mark.parametrize(
    "content",
    [
        b"<html>busy</html>",
        b'{"error": "no"}',
        b"[" * 100_000,
        b'{"choices": []}',
        b'{"choices": [{"message": 3}]}',
        b"null",
        b"a" * 2_000_000,
    ],
)
def test_other_replies_are_an_answer_that_is_wrong(content: bytes) -> None:
    kept: list[Answer] = []
    with serving(lambda request, number: send(request, completion("cat") if number == 1 else content)) as stub:
        chat = Chat(stub.url, "m", "Which?", spending(), sleep=lambda _: None)
        chat.ask("0.png", b"png", kept.append)
        chat.ask("1.png", b"png", kept.append)
        assert len(stub.bodies) == 3
    assert [(answer.text, answer.state) for answer in kept] == [("cat", ANSWERED), ("", NOT_ANSWERED), ("", ANSWERED)]


def test_an_address_that_answers_no_chats_ends_it_at_the_first_image() -> None:
    kept: list[Answer] = []
    with serving(lambda request, _: send(request, b"<html>hello</html>")) as stub:
        chat = Chat(stub.url, "m", "Which?", spending(), sleep=lambda _: None)
        with pytest.raises(VendorError, match=r"chat completions, but http\S+ gives a reply that is no"):
            chat.ask("0.png", b"png", kept.append)
        assert len(stub.bodies) == 2
    assert {answer.state for answer in kept} == {NOT_ANSWERED}, "the same command asks again"


def test_no_further_try_after_a_stop() -> None:
    with serving(lambda request, _: send(request, b"", 429)) as stub:
        kept: list[Answer] = []
        Chat(stub.url, "m", "Which?", spending(), sleep=lambda _: True).ask("0.png", b"png", kept.append)
        assert (kept, len(stub.bodies)) == ([], 1)


def test_a_text_that_is_none_is_an_empty_answer() -> None:
    answers, _, _ = ask(lambda request, _: send(request, completion(None)))
    assert [(answer.text, answer.state) for answer in answers] == [("", ANSWERED)]


def test_an_error_that_a_gateway_passes_on_is_waited_for() -> None:
    limited, down = (json.dumps({"error": {"code": code}}).encode() for code in (429, "502"))
    answers, waits, _ = ask(then_cat(lambda r, _: send(r, limited), lambda r, _: send(r, down)))
    assert [(answer.text, answer.state) for answer in answers] == [("", NOT_ANSWERED), ("cat", ANSWERED)]
    assert len(waits) == 2


def test_the_time_of_an_answer_includes_the_tries_that_failed() -> None:
    def slowly_busy(request: BaseHTTPRequestHandler, _: int) -> None:
        time.sleep(0.2)
        send(request, b"", 503)

    answers, _, _ = ask(then_cat(slowly_busy))
    assert answers[-1].seconds is not None
    assert answers[-1].seconds > 0.2


def test_a_model_that_reasons_gets_the_limit_in_its_own_words() -> None:
    def newer(request: BaseHTTPRequestHandler, _: int) -> None:
        send(request, b"'max_tokens' is not supported. Use 'max_completion_tokens' instead.", 400)

    with serving(then_cat(newer)) as stub:
        kept: list[Answer] = []
        chat = Chat(stub.url, "m", "Which?", spending(), effort="minimal", sleep=lambda _: None)
        chat.ask("00000.png", b"png", kept.append)
        chat.ask("00001.png", b"png", kept.append)
    assert [answer.text for answer in kept] == ["cat", "cat"]
    limits = [{name: body[name] for name in body.keys() - {"model", "messages"}} for body in stub.bodies]
    after = {"max_completion_tokens": 16, "reasoning_effort": "minimal"}
    assert limits == [{"max_tokens": 16, "temperature": 0, "reasoning_effort": "minimal"}, after, after]


def test_a_model_that_reasons_past_its_limit_ends_at_its_first_image_alone() -> None:
    silent = {"choices": [{"message": {"content": ""}, "finish_reason": "length"}], "usage": USAGE}
    reply, kept = json.dumps(silent).encode(), list[Answer]()
    with serving(lambda r, n: send(r, completion("cat") if n == 2 else reply)) as stub:
        money = spending()
        chat = Chat(stub.url, "m", "Which?", money, sleep=lambda _: None)
        with pytest.raises(VendorError, match=r"^the service must answer within 16 tokens, but spends .*-effort none"):
            chat.ask("0.png", b"png", kept.append)
        chat.ask("1.png", b"png", kept.append)
        chat.ask("2.png", b"png", kept.append)
    assert [(answer.text, answer.state) for answer in kept] == [("", NOT_ANSWERED), ("cat", ANSWERED), ("", ANSWERED)]
    assert money.spent == pytest.approx(3 * COST)


@pytest.mark.parametrize(
    ("behave", "message"),
    [
        (lambda r, _: send(r, b"", 401), "the service must accept the request, but answers status 401"),
        (
            lambda r, _: send(r, b'{"error":\n "Bearer secret: no such model"}', 404),
            r'answers status 404: \{"error": "Bearer \.\.\.: no such model"\}$',
        ),
        (lambda r, _: send(r, b"", 302, Location="http://127.0.0.1:1/"), "answers status 302"),
        (lambda r, _: send(r, completion("cat", usage=None)), "must report its usage, without which --max-usd"),
        (lambda r, _: send(r, completion("cat", usage={"prompt_tokens": -1})), "must report its usage in tokens, but"),
        (lambda r, _: send(r, b"", 413), "answers status 413"),
        (lambda r, _: send(r, b"", 500), "6 tries of one request failed; the last: status 500"),
    ],
)
def test_a_service_that_is_of_no_use_ends_it_in_one_line(behave: Behaviour, message: str) -> None:
    with pytest.raises(VendorError, match=message) as raised:
        ask(behave)
    assert "secret" not in str(raised.value)


def test_a_request_that_might_cross_the_limit_is_not_sent() -> None:
    money = spending(limit=0.01003)  # less than the most that one request may cost
    said = r"--max-usd 0\.01003 must not be crossed; \$0\.0000 is spent, and the next request may cost up to \$0\.0100"
    with pytest.raises(SpendingLimitError, match=said):
        ask(then_cat(), money)
    money = spending(limit=0.0101)
    kept: list[Answer] = []
    with serving(then_cat()) as stub:
        chat = Chat(stub.url, "m", "Which?", money, sleep=lambda _: None)
        with pytest.raises(SpendingLimitError):
            ask_for_ever(chat, kept)
        assert stub.keys[0] == ""
    assert 0.0098 < money.spent <= 0.0101
    assert len(kept) == len(stub.bodies) == pytest.approx(money.spent / COST)
    assert {body["max_tokens"] for body in stub.bodies} == {16}


def test_the_first_request_counts_a_token_for_each_of_its_bytes() -> None:
    png = bytes(9000)  # 12,000 letters in base64
    for limit, sent in ((0.0120, 0), (0.0130, 1)):
        with serving(then_cat()) as stub:
            chat = Chat(stub.url, "m", "Which?", spending(limit), sleep=lambda _: None)
            with pytest.raises(SpendingLimitError) if not sent else contextlib.nullcontext():
                chat.ask("00000.png", png, list[Answer]().append)
            assert len(stub.bodies) == sent


@pytest.mark.parametrize("usage", [None, {"prompt_tokens": -1}])
def test_a_reply_without_usage_counts_as_billed(usage: object) -> None:
    money, kept = spending(), list[Answer]()
    with serving(lambda request, _: send(request, completion("cat", usage=usage))) as stub:
        chat = Chat(stub.url, "m", "Which?", money, sleep=lambda _: None)
        with pytest.raises(VendorError, match="must report its usage"):
            chat.ask("00000.png", b"png", kept.append)
    assert money.spent == pytest.approx(money.cost(LEAST_BOUND, 16))
    assert [(answer.state, answer.usd) for answer in kept] == [(NOT_ANSWERED, money.spent)]


def test_each_request_reserves_twice_the_tokens_that_any_had_in_and_out() -> None:
    money = spending()
    for usage in ((1000, 200), (3000, 5)):
        money.settle(money.reserve(1), money.cost(*usage), usage)
    assert [spending().knows_usage, money.knows_usage] == [False, True]
    assert money.spent == pytest.approx(money.cost(4000, 205))
    assert money.reserve(1) == pytest.approx(money.cost(6000, 400))


@pytest.mark.parametrize("url", ["http://example.com/v1", "ftp://localhost/", "localhost:80", ""])
def test_a_key_is_sent_over_https_alone(url: str) -> None:
    with pytest.raises(VendorError, match="--url must begin with https://"):
        Chat(url, "m", "Which?", spending())


@pytest.mark.parametrize(
    ("url", "secret"),
    [
        ("https://me:secret@example.com/v1", "a password"),
        ("https://me@example.com/v1", "a user name"),
        ("http://me@example.com:x/", "a user name"),
        ("https://example.com/v1?v=1&api-key=secret", "api-key="),
        ("https://example.com/v1?sig=secret", "sig="),
        ("https://example.com/v1?KEY=secret", "key="),
    ],
)
def test_an_address_with_a_key_is_refused_and_not_repeated(url: str, secret: str) -> None:
    said = f"--url must hold no key, which goes into VENDOR_KEY, but that of example.com has {secret}"
    with pytest.raises(VendorError, match=rf"^{re.escape(said)}$"):
        Chat(url, "m", "Which?", spending())


@pytest.mark.parametrize("url", ["https://example.com/é", "https://example.com/a b", "http://localhost/\n"])
def test_an_address_that_no_request_can_hold_is_refused(url: str) -> None:
    with pytest.raises(VendorError, match="--url must be printable ASCII without spaces, but got"):
        Chat(url, "m", "Which?", spending())


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("https://api..example.com/v1", "--url must be a URL, but 'https://api..example.com/v1' gave: "),
        (f"https://{'a' * 64}.com", "--url must be a URL, but "),
        ("https://host:abc/", "--url must be a URL, but 'https://host:abc/' gave: Port could not be cast"),
        ("https:///v1", "--url must name a host, but got 'https:///v1'"),
    ],
)
def test_an_address_that_is_none_is_refused_before_any_request(url: str, message: str) -> None:
    with pytest.raises(VendorError) as error:
        Chat(url, "model", "which?", spending())
    assert str(error.value).startswith(message)
