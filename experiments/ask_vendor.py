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
from experiments.vendors.answer_file import AnswerFile, Source
from experiments.vendors.answers import PROMPT, Answer, read_data_set
from experiments.vendors.chat import Chat, ImageRefusedError, SpendingLimit, SpendingLimitError
from sweeps.command_line import FAILED, OneLineParser, main_of, number, start
from sweeps.validation import InvalidFileError
from sweeps.words import counted, did_you_mean

KEY = "VENDOR_KEY"  # of the environment
_MOST_REFUSED = 5  # images in a row: then it is the service that refuses, and not its filter


def build_parser() -> argparse.ArgumentParser:
    above = number("must be a number > 0 and at most 1e6", lambda value: 0 < value <= 1e6, float)
    parser = OneLineParser(
        prog="ask_vendor.py",
        description="Ask a model about each image that export_test.py wrote, and add its answers to a CSV file for "
        "score_answers.py. After an interruption the same command asks for the rest.",
        epilog=f"The key comes from the environment variable {KEY} and is written nowhere. Costs are of the tokens "
        "that the service reports; a request that breaks off, or whose reply reports none, counts as billed. "
        "Exit code 1: --max-usd ended it before all images were answered, or the service refused some.",
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
        "--out",
        type=Path,
        metavar="FILE",
        help="a CSV file (default: MODEL.csv, or MODEL-WORD.csv with --reasoning-effort WORD, in the folder of the "
        "images)",
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
        help="reasoning effort to ask for, such as none or minimal (default: the service's own)",
    )
    parser.add_argument("--timeout", type=above, default=60.0, metavar="SECONDS", help="default: %(default)s")
    return parser


def _run(options: argparse.Namespace) -> int:
    price = _token_price(options.price)
    try:
        prompt = read_text(options.images / PROMPT).strip()
        data_set = read_data_set(options.images)
    except FileNotFoundError as error:
        lacking = f"{options.images} has no {Path(error.filename).name}"
        raise InvalidFileError(
            f"--images must be a folder that export_test.py wrote to its end, but {lacking}"
        ) from error
    except (OSError, ValueError) as error:
        raise InvalidFileError(f"--images must be a folder that export_test.py wrote, but: {error}") from error
    pictures = [path for path in sorted((options.images / "images").glob("*.png")) if path.stem.isdecimal()]
    if not pictures:
        raise InvalidFileError(
            f"--images must be a folder that export_test.py wrote, but {options.images} has no image"
        )
    spending = SpendingLimit(options.max_usd, price.usd, price.usd_output, answer_tokens=16)
    key = os.environ.get(KEY, "").strip()  # a file from Windows leaves a carriage return
    stop = threading.Event()
    chat = Chat(
        options.url,
        options.model,
        prompt,
        spending,
        key=key,
        seconds=options.timeout,
        effort=options.reasoning_effort,
        sleep=stop.wait,
    )
    name = "-".join(filter(None, (options.model, options.reasoning_effort)))
    out = options.out or options.images / (re.sub(r"[^\w.-]+", "-", name) + ".csv")
    source = Source(options.url.rstrip("/"), options.model, options.reasoning_effort, data_set.sha256, data_set.name)
    with AnswerFile.open(out, source) as file:
        if file.torn:
            row = file.torn.decode(errors="replace")[:80]
            print(f"the last row of {out} was cut short and is dropped: {row!r}", file=sys.stderr)
        spending.spent = file.usd
        left = [path for path in pictures if path.name not in file.answered]
        unasked = _ask_all(chat, left, file, options.concurrency, stop)
    print(f"{len(file.answered):,} of {len(pictures):,} images are answered in {out}, for ${spending.spent:.4f}")
    if unasked:
        print(unasked, file=sys.stderr)
        return FAILED
    return 0


def _ask_all(chat: Chat, pictures: Sequence[Path], file: AnswerFile, concurrency: int, stop: threading.Event) -> str:
    """Ask about the pictures, one at a time until a usage is known, and add the answers to a file as they come.

    Args:
        stop: set by the first error, after which no request is sent.

    Returns:
        Why some are not answered; empty if all are.

    Raises:
        UserError: the service refuses, or several images in a row.
    """
    lock = threading.Lock()
    refused, in_a_row = list[ImageRefusedError](), 0

    def keep(answer: Answer) -> None:
        nonlocal in_a_row
        with lock:
            in_a_row = 0
            file.add(answer)

    def one(path: Path) -> None:
        nonlocal in_a_row
        if stop.is_set():
            return
        try:
            chat.ask(path.name, path.read_bytes(), keep)
        except ImageRefusedError as error:
            with lock:
                refused.append(error)
                in_a_row += 1
                if in_a_row == _MOST_REFUSED:
                    stop.set()
                    raise

    pool, asked = ThreadPoolExecutor(concurrency), []
    try:
        for path in pictures:
            asked.append(pool.submit(one, path))
            if not chat.spending.knows_usage and asked[-1].exception():  # waits for it
                break
        wait(asked, return_when=FIRST_EXCEPTION)
    except KeyboardInterrupt:
        print(
            "stopping: waits for the answers to requests under way, which are paid for; a second Ctrl-C loses "
            "them, and their cost is not counted",
            file=sys.stderr,
            flush=True,
        )
        raise
    finally:
        stop.set()
        pool.shutdown(cancel_futures=True)
    errors = [error for future in asked if not future.cancelled() and (error := future.exception())]
    return _why_unasked(errors, refused, file)


def _why_unasked(errors: Sequence[BaseException], refused: Sequence[ImageRefusedError], file: AnswerFile) -> str:
    """Return why some images are not answered; empty if all are.

    Raises:
        UserError: another of the errors than the limit of spending.
    """
    for error in errors:
        if isinstance(error, OSError):
            raise InvalidFileError(f"the images must be readable and {file.path} writable, but: {error}") from error
        if not isinstance(error, SpendingLimitError):
            raise error
    if errors:
        return f"stopped: {errors[0]}"
    if refused:
        return f"{counted(len(refused), 'image')} got no answer, the last as {refused[-1]}"
    return ""


def _token_price(key: str) -> Price:
    prices = {price.key: price for price in load_published().role("token")}
    if key not in prices:
        raise InvalidFileError(
            f"--price must be the key of a token price, but got {key!r}{did_you_mean(key, [*prices])}"
        )
    return prices[key]


main = main_of(build_parser, _run, stopped="stopped; the same command asks for the rest")

if __name__ == "__main__":
    start(main)
