"""The adapted network in the report: beside the champion, and as a way of the verdict."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from experiments.decision.facts import Facts
from experiments.decision.verdict import Way, verdict_of, ways_of
from experiments.pages.blocks import Cell, Missing, Section, Table
from experiments.pages.text import CitedText
from experiments.sections import verdict
from experiments.sections.adapting import compared, section
from experiments.stats import mean_accuracy
from tests.experiments.support import ADAPTED, known, with_artifacts, with_scenario, with_study


def adapted(facts: Facts, wrong: int, accuracy: float = 0.85, **changes: Any) -> Facts:
    """`facts` with an adapted network, which is wrong in the first `wrong` images that the champion is right in."""
    ours = facts.study.artifacts.answers[facts.subject_runs[0]]
    right = [index for index, is_right in enumerate(ours.right) if is_right][:wrong]
    other = {index: next(name for name in ours.true if name != ours.true[index]) for index in right}
    answers = replace(ours, predicted=tuple(other.get(i, name) for i, name in enumerate(ours.predicted)))
    test = mean_accuracy([accuracy], (ADAPTED.run_id,), 10_000)
    return with_study(facts, adapted=replace(ADAPTED, answers=answers, test=test, **changes))


def texts(part: Section) -> str:
    return " ".join(block.text for block in part.blocks if isinstance(block, CitedText | Missing))


def way(facts: Facts) -> Way:
    return next(way for way in ways_of(facts) if way.option.name == "efficientnet_lite0 (new head)")


def test_networks_are_compared_image_by_image(demo: Facts) -> None:
    facts = adapted(demo, wrong=40)
    test = known(compared(facts, known(facts.study.adapted)))
    assert (test.first, test.second) == (40, 0)
    said = texts(section(facts))
    images = test.images
    ours = f"one of the champion's 2 runs ({(test.both + 40) / images:.2%})".replace("%", " %")
    lost = f"{-4000 / images:.2f} points on the same {images:,} test images"
    assert f"The adapted network is worse than {ours}: {lost}" in said
    assert "It alone labels 0 of them right, that run alone 40 (McNemar's test, p < 0.001)." in said
    level = f"The adapted network and {ours} do not differ beyond chance: {-200 / images:.2f} points"
    assert level in texts(section(adapted(demo, wrong=2)))
    single = with_study(facts, final=demo.study.final.head(1))
    assert "The adapted network is worse than the champion: " in texts(section(single))
    assert "the champion alone 40" in texts(section(single))
    assert "McNemar" not in texts(section(with_artifacts(facts, answers={})))
    first, second = facts.subject_runs
    answers = facts.study.artifacts.answers
    [sentence] = (
        block
        for block in section(with_artifacts(facts, answers={second: answers[first]})).blocks
        if isinstance(block, CitedText) and "McNemar" in block.text
    )
    assert sentence.sources == (f"run/{second}", f"run/{ADAPTED.run_id}"), "the run that was compared"


def test_what_it_learnt_from_is_said_wherever_it_is_compared(demo: Facts) -> None:
    facts = adapted(demo, wrong=2)
    caveat = "learnt from ImageNet-1k before. Whether these include test images is unknown"
    assert caveat in texts(section(facts))
    screen = verdict.section(facts)
    assert any(caveat in item.text for block in screen.blocks for item in getattr(block, "items", ()))
    unnamed = adapted(demo, wrong=2, pretrained_on="")
    assert "learnt from images that its file of weights does not name" in texts(section(unnamed))


def test_table_has_the_costs_of_both(demo: Facts) -> None:
    [table] = [block for block in section(adapted(demo, wrong=2)).blocks if isinstance(block, Table)]
    rows = {row.cells[0].text: [cell.text for cell in row.cells[1:]] for row in table.rows}
    assert rows["Test accuracy"] == ["92.30 %", "85.00 %"]
    assert table.rows[1].cells[1] == Cell("92.70 %", note="of its confirmation, which is shorter")
    assert rows["Training of the network"][1] == "6 min 40 s"
    assert rows["Answer to one image (95 %)"][1] == "6 ms"
    assert rows["Weights"][1] == "3,350,000"
    untimed = section(adapted(demo, wrong=2, serving=()))
    assert Cell("unknown", style="missing") in untimed.blocks[1].rows[-1].cells  # type: ignore[union-attr]


def test_the_better_of_head_and_fine_tuned_network_was_tested(demo: Facts) -> None:
    assert "Everything below the head was kept as it is." in texts(section(adapted(demo, wrong=2)))
    better, worse = (section(adapted(demo, wrong=2, tuned=t, is_tuned=t > 0.9)) for t in (0.93, 0.84))
    assert "fine-tuned: 93.00 % validation accuracy, 85.12 % with the head alone." in texts(better)
    assert "on validation images, the fine-tuned network, was tested; the head was not." in texts(better)
    assert "on validation images, the head, was tested; the fine-tuned network was not." in texts(worse)
    headers = [block.titles[2] for part in (better, worse) for block in part.blocks if isinstance(block, Table)]
    assert headers == ["Fine-tuned efficientnet_lite0", "Adapted efficientnet_lite0"]
    ways = ways_of(adapted(demo, wrong=2, tuned=0.93, is_tuned=True))
    assert "efficientnet_lite0 (fine-tuned)" in [way.option.name for way in ways]


def test_it_is_a_way_of_the_verdict(demo: Facts) -> None:
    facts = with_scenario(adapted(demo, wrong=2), downloads=())
    measured = way(facts)
    assert measured.measured
    assert measured.clears
    assert measured.option.training > 0
    cheap = with_scenario(demo, downloads=tuple(replace(each, hours=1.0) for each in demo.scenario.downloads))
    cheap = adapted(cheap, wrong=2)
    assert way(cheap).option.people == cheap.scenario.hourly_rate
    low = way(with_scenario(adapted(demo, wrong=2, accuracy=0.6), downloads=()))
    assert [check.bar for check in low.misses] == ["accuracy"]
    assert verdict_of(facts).answer == "Not yet"  # a vendor that nobody measured costs less


def test_its_machine_is_one_with_its_own_device(demo: Facts) -> None:
    here, there = (way(adapted(demo, wrong=2, device=device)) for device in ("cpu", "cuda"))
    assert there.clears
    assert there.option.training > here.option.training > 0
    [unknown] = way(adapted(demo, wrong=2, device="mps")).unknown
    assert (unknown.reason, unknown.command) == ("has no price: no price is listed for compute on 'mps'", "")


def test_without_one_the_command_is_named(demo: Facts) -> None:
    command = "python sweeps/run_study.py --study demo --preset quick --seed 0 --adapt-only --store STORE"
    assert texts(section(demo)) == f"No adapted network was tested on these images: `{command}` does that."
    begun = with_study(demo, adapting="demo-adapted")
    assert texts(section(begun)) == (
        "No adapted network was tested on these images yet: study demo-adapted has not finished. If it was "
        f"interrupted, `{command}` resumes it."
    )
    params = {**demo.study.params, "preset": "epochs-2.5", "seed": "3"}
    assert "--study demo --epochs 2.5 --seed 3 --adapt-only" in texts(section(with_study(demo, params=params)))
