"""Stores of synthetic studies and the pages of `compare.py` over them, each made once."""

from __future__ import annotations

import functools
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from experiments.decision.facts import Facts
from tests.experiments.fake_store import START, Fake, Trial, nested_answers
from tests.experiments.support import WrittenPage, write_page

if TYPE_CHECKING:
    from playwright.sync_api import Browser

Pages = Callable[[str], WrittenPage]

# A page that is new in the project comes in here.
COMMANDS = {
    "demo": ("--study", "demo"),
    "unconfirmed": ("--study", "unconfirmed"),
    "interrupted": ("--study", "interrupted"),
    "systems": ("systems",),
    "all kinds of runs": (
        *("--runs", "unconfirmed", "demo/trial-0", "demo/trial-1", "five_conv-seed0", "three_conv-seed0"),
        *("block_cnn-seed0", "custom_resnet-seed0"),
        *("--baseline", "demo"),
    ),
    "runs": ("--runs", "good", "level", "bad", "twice", "--baseline", "good"),
}


@pytest.fixture
def fresh_store(tmp_path: Path, blank: Path) -> Fake:
    """An empty store, for a test that wants a study of its own."""
    return Fake(tmp_path / "mlruns", blank)


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory, blank: Path) -> Fake:
    """A store with three studies: `demo` (whole, the most recent), `unconfirmed` and `interrupted`."""
    made = Fake(tmp_path_factory.mktemp("store") / "mlruns", blank)
    made.add(name="unconfirmed", champion=(), start=START - 90_000_000)
    half = (Trial(accuracy=0.6), Trial(state="running"), Trial(state="interrupted", accuracy=0.3))
    made.add(name="interrupted", trials=half, champion=(), state="interrupted", start=START - 80_000_000)
    made.add()
    return made


@pytest.fixture(scope="session")
def rivals(tmp_path_factory: pytest.TempPathFactory, blank: Path) -> Fake:
    """A store with studies of one final run (`good`, `level`, `bad`) or two (`twice`, `again`), each with its answers
    to 1,000 test images, and one without (`searched`)."""
    made = Fake(tmp_path_factory.mktemp("rivals") / "mlruns", blank)
    accuracies = {"good": (0.92,), "level": (0.918,), "bad": (0.8,), "twice": (0.92, 0.922), "again": (0.85, 0.853)}
    trials = (Trial(accuracy=0.71, model="five_conv"), Trial(state="pruned", accuracy=0.35), Trial(accuracy=0.84))
    for index, (name, champion) in enumerate({**accuracies, "searched": ()}.items()):
        start = START - 10_000_000 * index
        made.add(name=name, trials=trials, champion=champion, start=start, answers=nested_answers)
    return made


@pytest.fixture(scope="session")
def demo(store: Fake) -> Facts:
    """A finished study with a champion, under the shipped scenario."""
    return store.facts("demo")


@pytest.fixture(scope="session")
def unconfirmed(store: Fake) -> Facts:
    """A finished study without a champion."""
    return store.facts("unconfirmed")


@pytest.fixture(scope="session")
def empty(tmp_path_factory: pytest.TempPathFactory, blank: Path) -> Facts:
    """A study that was interrupted before its first run ended."""
    made = Fake(tmp_path_factory.mktemp("empty") / "mlruns", blank)
    made.add(trials=(), champion=(), state="interrupted")
    return made.facts()


@pytest.fixture(scope="session")
def pages(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pages:
    """The pages of `COMMANDS` by name, each written once."""

    @functools.cache
    def write(name: str) -> WrittenPage:
        store: Fake = request.getfixturevalue("rivals" if name == "runs" else "store")
        return write_page(store, tmp_path_factory.mktemp(name), *COMMANDS[name])

    return write


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """A chromium for a module, and gone with it, as others' event loops do not run beside Playwright's."""
    from playwright.sync_api import sync_playwright

    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if chromium is None:
        pytest.skip("needs a chromium on the path: apt-get install chromium")
    with sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=chromium, args=["--disable-gpu"])
        yield found
        found.close()
