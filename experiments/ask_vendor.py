"""Ask a vision-language model about the exported test images, through an OpenAI-compatible API.

VENDOR_KEY=... python experiments/ask_vendor.py --url URL --model MODEL --price KEY
"""

from __future__ import annotations

import argparse
import os
import re
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from pathlib import Path

from cifar_core.files import read_text
from experiments.reading.published import Price, load_published
from experiments.vendors.answers import COLUMNS, FAILED, Answer, read_answers, write_row
from experiments.vendors.chat import Budget, BudgetSpentError, Chat
from sweeps.command_line import FAILED as EXIT_FAILED
from sweeps.command_line import OneLineParser, number, run_command
from sweeps.standard_streams import protect_streams
from sweeps.validation import InvalidFileError
from sweeps.words import did_you_mean

KEY = "VENDOR_KEY"  # of the environment


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code: 0, 2 for a user's error, 130 on Ctrl-C.

    1 means that --max-usd ended it before all images were answered.
    """
    parser = build_parser()
    options = parser.parse_args(arguments)
    return run_command(parser, lambda: _run(options), stopped="stopped; the same command asks for the rest")


def build_parser() -> argparse.ArgumentParser:
    above = number("must be a number > 0 and at most 1e6", lambda value: 0 < value <= 1e6, float)
    parser = OneLineParser(
        prog="ask_vendor.py",
        description="Ask a model about each image that export_test.py wrote, and add its answers to a CSV file for "
        "score_answers.py. After an interruption the same command asks for the rest.",
        epilog=f"The key comes from the environment variable {KEY} and is written nowhere. Costs are of the tokens "
        "that the service reports; a request that breaks off, or whose reply reports none, counts as billed.",
    )
    parser.add_argument(
        "--url", required=True, help="where the service answers chats, such as https://HOST/v1/chat/completions"
    )
    parser.add_argument("--model", required=True, metavar="MODEL", help="the model, in the service's words")
    parser.add_argument(
        "--price", required=True, metavar="KEY", help="its token price in experiments/data/published.toml"
    )
    parser.add_argument("--images", type=Path, default=Path("test-images"), metavar="DIR", help="default: %(default)s")
    parser.add_argument(
        "--out", type=Path, metavar="FILE", help="a CSV file (default: MODEL.csv in the folder of the images)"
    )
    parser.add_argument(
        "--max-usd",
        type=above,
        default=5.0,
        metavar="USD",
        help="the most to spend: a request is sent only if its upper bound still fits (default: %(default)s)",
    )
    parser.add_argument(
        "--concurrency",
        type=number("must be a whole number from 1 to 64", lambda value: 1 <= value <= 64, int),
        default=4,
        metavar="N",
        help="requests at a time (default: %(default)s)",
    )
    parser.add_argument(
        "--reasoning-effort",
        default="",
        metavar="WORD",
        help="of a model that reasons, in the service's words, such as none or minimal (default: the service's)",
    )
    parser.add_argument("--timeout", type=above, default=60.0, metavar="SECONDS", help="default: %(default)s")
    return parser


def _run(options: argparse.Namespace) -> int:
    price = _token_price(options.price)
    try:
        prompt = read_text(options.images / "prompt.txt").strip()
    except (OSError, ValueError) as error:
        raise InvalidFileError(f"--images must be a folder that export_test.py wrote, but: {error}") from error
    pictures = sorted((options.images / "images").glob("*.png"))
    if not pictures:
        raise InvalidFileError(
            f"--images must be a folder that export_test.py wrote, but {options.images} has no image"
        )
    budget = Budget(options.max_usd, price.usd, price.usd_output, answer_tokens=16)
    key = os.environ.get(KEY, "").strip()  # a file from Windows leaves a carriage return
    chat = Chat(
        options.url,
        options.model,
        prompt,
        budget,
        key=key,
        seconds=options.timeout,
        effort=options.reasoning_effort,
    )
    out = options.out or options.images / (re.sub(r"[^\w.-]+", "-", options.model) + ".csv")
    before = _resume(out)
    answered = {answer.image for answer in before if answer.state != FAILED}
    budget.spent = sum(answer.usd or 0.0 for answer in before)
    left = [path for path in pictures if path.name not in answered]
    spent_out = _ask_all(chat, budget, left, out, options.concurrency)
    done = sum(answer.state != FAILED for answer in read_answers(out))
    print(f"{done:,} of {len(pictures):,} images are answered in {out}, for ${budget.spent:.4f}")
    if spent_out:
        print(f"stopped: {spent_out}", file=sys.stderr)
        return EXIT_FAILED
    return 0


def _ask_all(chat: Chat, budget: Budget, pictures: Sequence[Path], out: Path, concurrency: int) -> str:
    """Ask about the pictures, one at a time until a usage is known, and add the answers to a file as they come.

    Returns:
        Why not all were asked about; empty if they were.

    Raises:
        UserError: the service refuses.
    """
    lock, stop = threading.Lock(), threading.Event()

    def keep(answer: Answer) -> None:
        with lock, out.open("ab") as file:
            file.write(write_row(answer).encode())

    def one(path: Path) -> None:
        if not stop.is_set():
            chat.ask(path.name, path.read_bytes(), keep)

    with ThreadPoolExecutor(concurrency) as pool:
        asked = []
        try:
            for path in pictures:
                asked.append(pool.submit(one, path))
                if not budget.knows_usage and asked[-1].exception():  # waits for it
                    break
            wait(asked, return_when=FIRST_EXCEPTION)
        finally:
            stop.set()
            pool.shutdown(cancel_futures=True)
    errors = [error for future in asked if not future.cancelled() and (error := future.exception())]
    for error in errors:
        if isinstance(error, OSError):
            raise InvalidFileError(f"the images must be readable and {out} writable, but: {error}") from error
        if not isinstance(error, BudgetSpentError):
            raise error
    return str(errors[0]) if errors else ""


def _resume(out: Path) -> tuple[Answer, ...]:
    """The answers of an earlier call; a last line that a crash cut short is dropped."""
    header = ",".join(COLUMNS) + "\n"
    try:
        with out.open("a+b") as file:  # fails here if it cannot be written to
            file.seek(0)
            content = file.read()
        if not content.startswith(header.encode()):
            if content:
                raise InvalidFileError(f"{out.name} must begin with {header.strip()!r}, or not exist")
            out.write_text(header, encoding="utf-8")
            return ()
        if not content.endswith(b"\n"):
            out.write_bytes(content[: content.rindex(b"\n") + 1])
    except OSError as error:
        raise InvalidFileError(f"--out must be a file that can be written to, but: {error}") from error
    return read_answers(out)


def _token_price(key: str) -> Price:
    prices = {price.key: price for price in load_published().role("token")}
    if key not in prices:
        raise InvalidFileError(
            f"--price must be the key of a token price, but got {key!r}{did_you_mean(key, [*prices])}"
        )
    return prices[key]


if __name__ == "__main__":
    protect_streams()
    sys.exit(main())
