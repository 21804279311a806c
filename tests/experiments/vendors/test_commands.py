"""The way of a vendor through the commands: export the images, ask, score, and a report that counts it as measured."""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import signal
import threading
import time
from dataclasses import replace
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
from PIL import Image

from cifar_core.data import Split
from cifar_core.data.data_set import CIFAR10
from cifar_core.data.picture_cache import store_pictures
from experiments import ask_vendor, export_test, score_answers
from experiments.decision.verdict import ways_of
from experiments.reading.scenario import DEFAULT_SCENARIO
from experiments.reading.vendor_score import load_scores
from experiments.vendors.answers import DESCRIPTION, Answer, parse_answers
from tests.conftest import Refused
from tests.experiments.fake_store import START, Fake
from tests.experiments.vendors.stub import completion, send, serving
from tests.sweeps.support import file_size_limit


def looks(store: Path) -> list[str]:
    return [json.loads(line).get("key", "") for line in (store / "test_looks.jsonl").read_text().splitlines()]


def read_answers(path: Path) -> tuple[Answer, ...]:
    return parse_answers(path.read_bytes(), path.name)


def cats(request: BaseHTTPRequestHandler, _: int) -> None:
    send(request, completion("Cat", {"prompt_tokens": 3000, "completion_tokens": 5}))


def test_images_are_exported_under_neutral_names_and_the_look_is_on_record(
    exported: Path, small_test_set: Split, tmp_path: Path, refused: Refused, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = sorted(path.name for path in (exported / "images").iterdir())
    assert names == [f"{index:05d}.png" for index in range(20)]
    with Image.open(exported / "images" / "00003.png") as picture:
        assert picture.size == (256, 256)
        small = np.asarray(picture.resize((32, 32), Image.Resampling.BOX), dtype=float)
    assert abs(small - small_test_set.images[3].permute(1, 2, 0).numpy()).mean() < 5
    assert (exported / "classes.txt").read_text().split() == list(CIFAR10.classes)
    assert "airplane, automobile" in (exported / "prompt.txt").read_text()
    assert looks(tmp_path / "mlruns") == ["export"]
    (exported / DESCRIPTION).unlink()
    said = refused(export_test.main, str(exported), "--store", str(tmp_path / "mlruns"))
    earlier = "one with an earlier export of CIFAR-10"
    assert said == f"DIR must be a new or empty folder, or {earlier}, but {exported} is not"
    (tmp_path / "file").touch()
    said = refused(export_test.main, str(tmp_path / "file" / "x"), "--store", str(tmp_path / "other"))
    assert said.startswith("DIR and the store must be folders to write to, but: ")
    assert not (tmp_path / "other").exists(), "a look that did not happen is not counted"
    monkeypatch.setattr(os, "access", lambda *_: False)  # else only for who is not root
    said = refused(export_test.main, str(tmp_path / "new"), "--store", str(tmp_path / "other"))
    assert said == f"the store must be a folder to write to, but {tmp_path / 'other'} is not"
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("place_of_fault", ["cifar_core.data.source.load_test", "PIL.Image.Image.save"])
def test_an_export_that_is_cut_short_or_given_again_starts_anew_and_counts_once(
    small_test_set: Split, tmp_path: Path, refused: Refused, monkeypatch: pytest.MonkeyPatch, place_of_fault: str
) -> None:
    folder, stores = tmp_path / "x", [tmp_path / "mlruns", tmp_path / "other"]
    with monkeypatch.context() as context:
        context.setattr(place_of_fault, Mock(side_effect=KeyboardInterrupt))
        assert export_test.main([str(folder), "--store", str(stores[0])]) == 130
    assert looks(stores[0]) == ["export"]
    said = refused(
        ask_vendor.main,
        *("--url", "http://localhost:1", "--model", "m", "--price", "gpt-6-luna", "--images", str(folder)),
    )
    assert said == f"--images must be a folder that export_test.py wrote to its end, but {folder} has no prompt.txt"
    (folder / "images").mkdir(exist_ok=True)
    (folder / "images" / "00003.png").write_bytes(b"half a picture")
    for store, place in zip((*stores, *stores), (folder, folder, tmp_path / "y", folder), strict=True):
        assert export_test.main([str(place), "--store", str(store)]) == 0
        assert looks(store) == ["export"], "each store has its record, once"
    with Image.open(folder / "images" / "00003.png") as picture:
        assert picture.size == (256, 256)
    with monkeypatch.context() as context:
        context.setattr(place_of_fault, Mock(side_effect=KeyboardInterrupt))
        assert export_test.main([str(folder), "--store", str(stores[0])]) == 130
    whole = place_of_fault.endswith("load_test")
    assert (folder / "prompt.txt").exists() == whole, "images that may be cut short are not sent, and others are kept"
    (folder / DESCRIPTION).write_bytes(replace(CIFAR10, sha256="ab" * 32).to_json())
    assert " an earlier export of CIFAR-10, but " in refused(export_test.main, str(folder), "--store", str(stores[0]))


def test_answers_are_asked_for_resumed_and_kept_within_the_limit(
    exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("VENDOR_KEY", "sesame\r\n")  # as a file from Windows has it
    out = tmp_path / "answers.csv"
    with serving(cats) as stub:
        options = ["--url", stub.url, "--model", "m", "--price", "gpt-6-luna", "--images", str(exported)]
        options += ["--out", str(out)]
        # Each request costs $0.0003025, and the next might cost twice as much.
        assert ask_vendor.main([*options, "--max-usd", "0.002", "--concurrency", "1"]) == 1
        assert len(stub.bodies) == 5
        assert "stopped: --max-usd 0.002 must not be crossed; $0.0015 is spent" in capsys.readouterr().err
        with out.open("a") as file:
            file.write("00019.png,ca")  # a crash cut this line short
        assert ask_vendor.main([*options, "--max-usd", "1", "--concurrency", "3"]) == 0
        assert f"the last row of {out} was cut short and is dropped: '00019.png,ca'" in capsys.readouterr().err
        assert len(stub.bodies) == 20
        assert ask_vendor.main([*options, "--max-usd", "1"]) == 0
        assert len(stub.bodies) == 20
        assert set(stub.keys) == {"Bearer sesame"}
    answers = read_answers(out)
    assert sorted(answer.image for answer in answers) == [f"{index:05d}.png" for index in range(20)]
    assert {answer.text for answer in answers} == {"Cat"}
    printed = capsys.readouterr()
    assert "20 of 20 images are answered" in printed.out
    assert "sesame" not in printed.out + printed.err + out.read_text()


def test_each_model_has_a_file_of_its_own_beside_the_images(
    exported: Path, capsys: pytest.CaptureFixture[str], refused: Refused
) -> None:
    for name in ("._00000.png", "00001 (1).png"):  # of macOS, and of a tool that syncs
        (exported / "images" / name).write_bytes(b"none of ours")
    with serving(cats) as stub:
        for model in ("maker/small 2", "large"):
            options = ["--url", stub.url, "--model", model, "--price", "gpt-6-luna", "--images", str(exported)]
            assert ask_vendor.main(options) == 0
        assert len(stub.bodies) == 40, "no answer of one counts as one of the other"
        said = capsys.readouterr().out
        out = exported / "large.csv"
        assert refused(ask_vendor.main, *options, "--out", str(out), "--model", "small") == (
            f"--out must be a file of answers with model small, but those of {out} have model large"
        )
        assert ask_vendor.main([*options, "--reasoning-effort", "low"]) == 0
        assert len(stub.bodies) == 60
        assert stub.bodies[-1]["reasoning_effort"] == "low"
    assert len(read_answers(exported / "large-low.csv")) == 20
    for name in ("maker-small-2.csv", "large.csv"):
        assert len(read_answers(exported / name)) == 20
        assert f"20 of 20 images are answered in {exported / name}, for " in said


def test_a_last_row_without_its_line_end_is_kept_or_dropped_by_the_command_of_its_service_alone(
    exported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], refused: Refused
) -> None:
    out = tmp_path / "a.csv"
    with serving(cats) as stub:
        options = ["--url", stub.url, "--price", "gpt-6-luna", "--images", str(exported), "--out", str(out)]
        assert ask_vendor.main([*options, "--model", "m"]) == 0
        whole = out.read_bytes()
        for left in (whole[:-1], whole[:-2]):
            out.write_bytes(left)
            assert "but those of" in refused(ask_vendor.main, *options, "--model", "other")
            assert out.read_bytes() == left
            assert ask_vendor.main([*options, "--model", "m"]) == 0
            assert len(read_answers(out)) == 20
            if left == whole[:-1]:
                assert out.read_bytes() == whole
                assert (len(stub.bodies), capsys.readouterr().err) == (20, ""), "nothing is paid twice"
    assert len(stub.bodies) == 21
    assert capsys.readouterr().err.endswith(",answere'\n")


def test_a_file_without_answers_is_of_no_service_yet(exported: Path, tmp_path: Path, refused: Refused) -> None:
    out = tmp_path / "a.csv"
    options = ["--model", "m", "--price", "gpt-6-luna", "--images", str(exported), "--out", str(out)]
    with serving(lambda request, _: send(request, b"", 401)) as stub:
        said = refused(ask_vendor.main, "--url", stub.url, *options)
        assert said == "the service must accept the request, but answers status 401; VENDOR_KEY is not set"
        assert len(stub.bodies) == 1
    with serving(cats) as stub:
        assert ask_vendor.main(["--url", stub.url, *options]) == 0
        assert ask_vendor.main(["--url", f"{stub.url}/", *options]) == 0
        others = tmp_path / "others"
        shutil.copytree(exported, others)
        (others / DESCRIPTION).write_bytes(replace(CIFAR10, name="garden", sha256="ab" * 32).to_json())
        said = refused(ask_vendor.main, "--url", stub.url, *options, "--images", str(others))
        assert said == (
            "--out must be a file of answers with images garden (abababab), but those of "
            f"{out} have images CIFAR-10 (9a5bcfec)"
        )
        said = refused(ask_vendor.main, "--url", "http://localhost:1", *options, "--reasoning-effort", "low")
        assert said == (
            "--out must be a file of answers with URL http://localhost:1, reasoning effort low, but those of "
            f"{out} have URL {stub.url}, reasoning effort unset"
        )
        out.with_name("a.csv.service").unlink()
        said = refused(ask_vendor.main, "--url", stub.url, *options)
        assert said.startswith(f"{out}.service must be a readable JSON file, but: ")
        assert len(stub.bodies) == 20


def test_requests_that_cost_more_than_assumed_stay_within_the_limit(
    exported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    running, most, lock = 0, [], threading.Lock()

    def dear(request: BaseHTTPRequestHandler, _: int) -> None:
        nonlocal running
        with lock:
            running += 1
            most.append(running)
        time.sleep(0.05)
        with lock:
            running -= 1
        send(request, completion("Cat", {"prompt_tokens": 25_501, "completion_tokens": 5}))  # $0.0025526

    out = tmp_path / "answers.csv"
    with serving(dear) as stub:
        options = ["--url", stub.url, "--model", "m", "--price", "gpt-6-luna", "--images", str(exported)]
        options += ["--out", str(out), "--concurrency", "16"]
        assert ask_vendor.main([*options, "--max-usd", "0.03"]) == 1
    assert len(stub.bodies) == 10  # all that the limit allows, as those that wait go on when others cost less
    assert most[:2] == [1, 1]  # the first one alone
    assert max(most) <= 5
    assert sum(answer.usd or 0 for answer in read_answers(out)) <= 0.03
    assert "stopped: --max-usd 0.03 must not be crossed; $0.0255 is spent" in capsys.readouterr().err


def test_a_service_that_refuses_ends_it_with_one_line(exported: Path, tmp_path: Path, refused: Refused) -> None:
    with serving(lambda request, _: send(request, b"", 401)) as stub:
        options = ["--model", "m", "--price", "gpt-6-luna", "--images", str(exported), "--out", str(tmp_path / "a.csv")]
        assert "answers status 401" in refused(ask_vendor.main, "--url", stub.url, *options)
    assert "--url must begin with https://" in refused(ask_vendor.main, "--url", "http://example.com", *options)
    options[3] = "gpt-6-lun"
    assert "but got 'gpt-6-lun'; did you mean 'gpt-6-luna'?" in refused(ask_vendor.main, "--url", "https://x", *options)
    options[3:6] = ["gpt-6-luna", "--images", str(tmp_path)]
    assert "--images must be a folder that export_test.py wrote" in refused(
        ask_vendor.main, "--url", "https://x", *options
    )


@pytest.mark.usefixtures("settings_of_this_process")
@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_stop_waits_for_the_answers_that_are_paid_for_and_says_so(
    exported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], stop: signal.Signals
) -> None:
    def interrupts(request: BaseHTTPRequestHandler, number: int) -> None:
        if number == 3:
            os.kill(os.getpid(), stop)
            time.sleep(0.3)
            if stop != signal.SIGINT:  # as a lost terminal and `timeout` do
                os.kill(os.getpid(), stop)
                time.sleep(0.3)
        cats(request, number)

    out = tmp_path / "a.csv"
    options = ["--model", "m", "--price", "gpt-6-luna", "--images", str(exported), "--concurrency", "1"]
    signal.signal(signal.SIGINT, signal.default_int_handler)  # shells ignore it for background jobs
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # nohup ignores it
    with serving(interrupts) as stub:
        assert ask_vendor.main(["--url", stub.url, *options, "--out", str(out)]) == 128 + stop
    assert capsys.readouterr().err.splitlines() == [
        "stopping: waits for the answers to requests under way, which are paid for; a second Ctrl-C loses them, and "
        "their cost is not counted",
        "stopped; the same command asks for the rest",
    ]
    assert [answer.text for answer in read_answers(out)] == ["Cat"] * 3


def test_an_image_that_the_service_refuses_is_left_out(
    exported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], refused: Refused
) -> None:
    def filters(request: BaseHTTPRequestHandler, number: int) -> None:
        if number in (3, 4):
            send(request, b"content filter", 400)
        else:
            cats(request, number)

    options = ["--model", "m", "--price", "gpt-6-luna", "--images", str(exported), "--concurrency", "1"]
    with serving(filters) as stub:
        assert ask_vendor.main(["--url", stub.url, *options]) == 1
        assert len(stub.bodies) == 20
    said = capsys.readouterr()
    assert "18 of 20 images are answered" in said.out
    assert "2 images got no answer, the last as the service must accept the request, but answers status 400" in said.err
    with serving(lambda r, number: cats(r, number) if number == 1 else send(r, b"", 400)) as stub:
        new = ["--out", str(tmp_path / "new.csv")]
        assert "answers status 400" in refused(ask_vendor.main, "--url", stub.url, *options, *new)
        assert len(stub.bodies) == 6, "five in a row: it is not its filter"
    with serving(lambda r, number: send(r, b"", 400) if number == 1 else cats(r, number)) as stub:
        first = ["--out", str(tmp_path / "first.csv")]
        assert ask_vendor.main(["--url", stub.url, *options, *first]) == 1
        assert len(stub.bodies) == 20, "also if it is the first that this command asks about"


def test_a_full_disk_leaves_no_part_of_a_line(
    exported: Path, tmp_path: Path, refused: Refused, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "a.csv"
    options = ["--model", "m", "--price", "gpt-6-luna", "--images", str(exported), "--out", str(out)]
    with serving(cats) as stub:
        with file_size_limit(400):
            assert "writable, but: " in refused(ask_vendor.main, "--url", stub.url, *options)
        assert out.read_bytes().endswith(b"\n")
        assert out.stat().st_size <= 400
        assert ask_vendor.main(["--url", stub.url, *options]) == 0
    assert "20 of 20 images are answered" in capsys.readouterr().out


def test_two_commands_do_not_write_to_one_file(exported: Path, tmp_path: Path, refused: Refused) -> None:
    out = tmp_path / "a.csv"
    options = ["--url", "http://localhost:1", "--model", "m", "--price", "gpt-6-luna", "--images", str(exported)]
    with out.open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        said = refused(ask_vendor.main, *options, "--out", str(out))
    assert said == f"--out must be a file that no other command writes to, but got {out}"


@pytest.mark.parametrize("key", ["sésame", "sesame\nopen", "sesame\N{EM DASH}", "\udcff"])
def test_a_key_that_no_header_can_hold_is_refused_and_not_quoted(
    exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refused: Refused, key: str
) -> None:
    monkeypatch.setenv("VENDOR_KEY", key)
    options = ["--model", "m", "--price", "gpt-6-luna", "--images", str(exported), "--out", str(tmp_path / "a.csv")]
    said = refused(ask_vendor.main, "--url", "http://localhost:1", *options)
    assert said == "the key must be one line of printable ASCII characters, but is not"
    assert not (tmp_path / "a.csv").exists()


def test_a_score_makes_the_vendor_measured_in_the_report(
    small_test_set: Split, fresh_store: Fake, tmp_path: Path, capsys: pytest.CaptureFixture[str], refused: Refused
) -> None:
    fresh_store.add()
    rows = [f"{index:05d}.png,{CIFAR10.classes[index % 10] if index < 18 else '<script>'},0.4" for index in range(19)]
    (tmp_path / "answers.csv").write_text("\n".join(["image,answer,seconds", *rows, ""]))
    options = ["--vendor", "GPT-6 Luna", "--store", str(fresh_store.folder)]
    assert score_answers.main([str(tmp_path / "answers.csv"), *options]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("GPT-6 Luna: 90.00 % of 20 images (95 % interval 69.90 to 99.11 %)\n"), "one is missing"
    assert "counted as wrong: 1 answer with no class or several, 1 missing" in printed
    assert re.search(r"airplane +100\.0 %", printed)
    assert "fewer than 59 answers have a time: too few to tell within what 95 % come" in printed
    assert looks(fresh_store.folder)[-1].startswith("gpt_6_luna-")
    [score] = load_scores(fresh_store.folder, CIFAR10).values()
    assert (score.right, score.unparsable, score.missing) == (18, 1, 1)
    said = refused(score_answers.main, str(tmp_path / "none.csv"), *options)
    assert said == f"{tmp_path}/none.csv must be a readable file, but: No such file or directory"
    before = looks(fresh_store.folder)
    assert score_answers.main([str(tmp_path / "answers.csv"), *options]) == 0
    assert looks(fresh_store.folder) == before, "the same answers again tell nothing new"
    options[1] = "GPT-6 Lune"
    assert refused(score_answers.main, str(tmp_path / "answers.csv"), *options) == (
        "--vendor must be a vendor of scenario.toml, but got 'GPT-6 Lune'; did you mean 'GPT-6 Luna'?"
        "; --scenario FILE takes another scenario"
    )
    assert looks(fresh_store.folder) == before
    mine = tmp_path / "mine.toml"
    mine.write_text(DEFAULT_SCENARIO.read_text().replace('"GPT-6 Luna"', '"GPT-6 Lune"'))
    assert score_answers.main([str(tmp_path / "answers.csv"), *options, "--scenario", str(mine)]) == 0


@pytest.mark.usefixtures("small_test_set")
def test_answers_are_compared_with_those_of_the_champion(
    fresh_store: Fake, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    true = [CIFAR10.classes[index % 10] for index in range(20)]
    said = [f"{index},{name},{'cat' if index < 3 else name},0.9" for index, name in enumerate(true)]
    fresh_store.add(answers=lambda _: "\n".join(["index,true,predicted,probability", *said, ""]).encode())
    rows = [f"{index:05d}.png,{name if index < 19 else 'none'}" for index, name in enumerate(true)]
    del rows[5]
    (tmp_path / "answers.csv").write_text("\n".join(["image,answer", *rows, ""]))
    scored = [str(tmp_path / "answers.csv"), "--vendor", "GPT-6 Luna", "--store", str(fresh_store.folder)]
    assert score_answers.main(scored) == 0
    assert capsys.readouterr().out.endswith(
        "  against the champion of demo, on 19 answered images: it alone is right on 3, the champion alone on 1 "
        "(p = 0.625, McNemar)\n"
    )


def test_answers_are_of_the_images_that_the_service_was_asked_about_wherever_they_lie(
    fresh_store: Fake, exported: Path, tmp_path: Path, refused: Refused
) -> None:
    fresh_store.add()
    out = tmp_path / "elsewhere.csv"
    with serving(cats) as stub:
        options = ["--url", stub.url, "--model", "m", "--price", "gpt-6-luna", "--images", str(exported)]
        assert ask_vendor.main([*options, "--out", str(out)]) == 0
    scored = [str(out), "--vendor", "GPT-6 Luna", "--store", str(fresh_store.folder)]
    (tmp_path / DESCRIPTION).write_bytes(replace(CIFAR10, sha256="ab" * 32).to_json())
    assert score_answers.main(scored) == 0, "not of the images that lie beside it"
    beside = out.with_name("elsewhere.csv.service")
    beside.write_text(beside.read_text().replace(CIFAR10.sha256, "ab" * 32).replace("CIFAR-10", "garden"))
    said = refused(score_answers.main, *scored)
    assert said == f"--study must be one of garden, as {out} has answers to its images, but 'demo' is of CIFAR-10"


@pytest.mark.usefixtures("small_test_set")
def test_the_pictures_of_a_study_of_ones_own_go_the_same_way(
    fresh_store: Fake,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    refused: Refused,
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    own = replace(CIFAR10, name="garden", classes=("rose", "rose bush"), side=48, sha256="ab" * 32, test_images=6)
    pixels = np.arange(6, dtype=np.uint8).repeat(3 * 48 * 48).reshape(6, 3, 48, 48)
    labels = np.array([0, 1, 0, 1, 0, 1])
    stored = store_pictures(own, [], dict.fromkeys(("train", "val", "test"), (pixels, labels)))
    fresh_store.put(fresh_store.add(name="flowers"), {"data.json": json.dumps(own.to_dict()).encode()})
    fresh_store.add(name="earlier", start=START - 90_000_000)
    folder, options = tmp_path / "test-images", ["--store", str(fresh_store.folder)]
    assert export_test.main([str(folder), *options]) == 0
    assert [Image.open(path).getpixel((9, 9)) for path in sorted(folder.glob("images/*"))] == [
        (i,) * 3 for i in range(6)
    ]
    assert (folder / "classes.txt").read_text() == "rose\nrose bush\n"
    assert "show: rose, rose bush?" in (folder / "prompt.txt").read_text()
    rows = [f"{index:05d}.png,A {own.classes[label]}." for index, label in enumerate(labels[:5])]
    (tmp_path / "answers.csv").write_text("\n".join(["image,answer", *rows, ""]))
    scored = ["--vendor", "GPT-6 Luna", "--study", "flowers", *options]
    assert score_answers.main([str(tmp_path / "answers.csv"), *scored]) == 0
    assert "GPT-6 Luna: 83.33 % of 6 images" in capsys.readouterr().out
    facts = replace(fresh_store.facts("flowers"), scores=load_scores(fresh_store.folder, own))
    assert [way.title for way in ways_of(facts) if way.measured] == ["building", "GPT-6 Luna"]
    (folder / "answers.csv").write_text("image,answer\n00000.png,rose\n")
    said = refused(
        score_answers.main, str(folder / "answers.csv"), "--vendor", "GPT-6 Luna", "--study", "earlier", *options
    )
    rule = f"--study must be one of garden, as {folder / 'answers.csv'} has answers to its images, but"
    assert said == f"{rule} 'earlier' is of CIFAR-10"
    before = looks(fresh_store.folder)
    shutil.rmtree(stored.folder)
    said = refused(export_test.main, str(tmp_path / "x"), *options)
    assert said.startswith("the pictures of garden (abababababab) must be in the cache, but are not; ")
    assert looks(fresh_store.folder) == before
    (tmp_path / "file").touch()
    said = refused(export_test.main, str(tmp_path / "y"), "--store", f"{tmp_path}/file")
    assert said.startswith("DIR and the store must be folders to write to, but: ")
    assert not (tmp_path / "y" / "images").exists(), "no image is written without a record"
    assert export_test.main([str(tmp_path / "y"), "--store", str(tmp_path / "other")]) == 0


@pytest.mark.parametrize("content", [None, "[]", "{}", "cats"])
def test_a_folder_that_does_not_say_what_its_images_are_of_is_refused_before_a_file_is_made(
    exported: Path, tmp_path: Path, refused: Refused, content: str | None
) -> None:
    (exported / DESCRIPTION).unlink()
    if content is not None:
        (exported / DESCRIPTION).write_text(content)
    before = sorted(exported.iterdir())
    options = ["--url", "http://localhost:1", "--model", "m", "--price", "gpt-6-luna", "--images", str(exported)]
    said = refused(ask_vendor.main, *options)
    if content is None:
        assert said == (
            f"--images must be a folder that export_test.py wrote to its end, but {exported} has no {DESCRIPTION}"
        )
    else:
        assert said.startswith("--images must be a folder that export_test.py wrote, but: ")
        assert str(exported / DESCRIPTION) in said
    assert sorted(exported.iterdir()) == before


def test_an_image_that_cannot_be_read_is_one_line(exported: Path, refused: Refused) -> None:
    (exported / "images" / "00000.png").unlink()
    (exported / "images" / "00000.png").mkdir()
    with serving(cats) as stub:
        options = ["--url", stub.url, "--model", "m", "--price", "gpt-6-luna", "--images", str(exported)]
        said = refused(ask_vendor.main, *options)
    assert said.startswith(f"the images must be readable and {exported / 'm.csv'} writable, but: [Errno 21] ")
