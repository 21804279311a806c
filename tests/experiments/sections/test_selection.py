from __future__ import annotations

from dataclasses import replace

import pandas as pd
import pytest

from experiments.decision.facts import Facts
from experiments.pages.blocks import Missing, Table
from experiments.pages.text import CitedText
from experiments.sections.selection import (
    Candidate,
    bias_sentence,
    candidates_of,
    gain_sentence,
    lead_sentence,
    section,
    selection_bias,
)
from tests.experiments.support import known, said, with_study


def first_text(facts: Facts) -> str:
    first = section(facts).blocks[0]
    assert isinstance(first, CitedText)
    return first.text


def test_the_best_trial_is_compared_with_its_retraining(demo: Facts) -> None:
    bias = known(selection_bias(demo.study, 5000))
    assert (bias.trials, bias.same_compute) == (2, True)
    assert known(selection_bias(with_study(demo, confirm=demo.study.confirm.head(0)).study, 5000)).confirmed is None
    assert selection_bias(with_study(demo, search=demo.study.search.head(0)).study, 5000) is None


def test_selection_bias_needs_the_same_compute_and_more_than_chance(demo: Facts) -> None:
    bias = known(selection_bias(demo.study, 5000))
    confirmed = replace(known(bias.confirmed), mean=0.80, low=0.79, high=0.81)
    again = replace(bias, confirmed=confirmed, as_searched=confirmed)
    cases = {
        "with the same compute, 4.00 points less, more than chance explains: choosing the best flattered it": again,
        "cannot be told from the effect of more training": replace(again, confirm_flops=9e14),
        "how the compute of the two compares was not recorded": replace(again, confirm_flops=None),
        "so how much of that is luck cannot be said": replace(again, confirmed=None),
        "0.00 points more, within chance": replace(again, searched=0.80),
        "choosing the best did not flatter it": replace(again, searched=0.70),
    }
    for words, case in cases.items():
        assert words in bias_sentence(case).text


def test_chance_is_judged_by_as_many_images_as_the_search_had(demo: Facts) -> None:
    """A trial of 1,000 images may lie further from its retraining by chance than one of all 50,000."""
    own = replace(demo.study, data_set=replace(demo.study.data_set, val_images=50_000))
    every, few = (
        known(selection_bias(replace(own, params={**own.params, "trial_images": images}), 50_000))
        for images in ("50000", "1000")
    )
    assert every.confirmed == every.as_searched == few.confirmed
    searched = (known(few.as_searched).low + known(every.as_searched).low) / 2
    said = [bias_sentence(replace(bias, searched=searched)).text for bias in (every, few)]
    assert ["within chance" in text for text in said] == [False, True]


def test_of_a_single_trial_nothing_was_chosen(demo: Facts) -> None:
    complete = demo.study.search["state"] == "complete"
    best = demo.study.search[complete & (demo.study.search["trial"] == 3)]
    facts = with_study(demo, search=best)
    assert "trained again from new seeds" in said(section(demo), "learning")
    assert "learning" not in section(facts).recommendation


def test_a_trial_beside_pruned_ones_was_chosen(demo: Facts) -> None:
    search = demo.study.search
    facts = with_study(demo, search=search[(search["trial"] == 3) | (search["state"] == "pruned")])
    assert said(section(facts), "learning").startswith("The only complete trial had 84.00 % validation accuracy")


@pytest.mark.parametrize(
    ("baseline", "words"),
    [(None, "The best recipe of the search"), ("true", "The recipe that the search began with")],
)
def test_a_single_candidate_was_not_chosen_among_several(demo: Facts, baseline: str | None, words: str) -> None:
    confirm = demo.study.confirm.assign(**{"tags.baseline": baseline})
    assert (
        first_text(with_study(demo, confirm=confirm))
        == f"{words} was trained again, and is the champion. Its recipe was then trained on all training images."
    )


def test_runs_that_diverged_are_counted(demo: Facts) -> None:
    study, other = demo.study, demo.study.confirm.assign(source_trial=0, state=["complete", "pruned"])
    final = pd.concat([study.final, study.final.assign(state="pruned").head(1)])
    made = section(with_study(demo, confirm=pd.concat([study.confirm, other]), final=final))
    text, table = made.blocks[:2]
    assert isinstance(text, CitedText)
    assert text.text.endswith(
        "The one with the highest mean validation accuracy, of those without a run that diverged, is the champion. "
        "Its recipe was then trained on all training images: 1 of 3 runs diverged."
    )
    assert isinstance(table, Table)
    assert [row.cells[2].text for row in table.rows] == ["2 of 2", "1 of 2, 1 diverged"]


def test_a_mean_cites_the_runs_that_it_is_of(demo: Facts) -> None:
    study, other = demo.study, demo.study.confirm.assign(source_trial=0, state=["complete", "pruned"])
    other["run_id"] = ["c" * 32, "d" * 32]
    made = section(with_study(demo, confirm=pd.concat([study.confirm, other])))
    cited = {number.name: number.sources for number in made.numbers}
    assert cited["confirmed.trial0.validation"] == ("run/" + "c" * 32,)
    lead = made.blocks[-1]
    assert isinstance(lead, CitedText)
    assert lead.text.startswith("Against the recipe of trial 0 ")
    assert set(lead.sources) == {f"run/{run_id}" for run_id in (*study.confirm["run_id"], "c" * 32)}


def test_the_lead_of_the_champion_is_stated_with_its_interval() -> None:
    def candidate(trial: int, accuracy: float | None, *, champion: bool = False) -> Candidate:
        runs = (f"{trial}" * 32,)
        return Candidate(trial, "fast_resnet", 1, 0, runs, accuracy, runs, champion, baseline=None)

    pair = [candidate(1, 0.8928, champion=True), candidate(2, 0.8936), candidate(3, 0.7)]
    assert known(lead_sentence(pair, 5000)).text == (
        "Against the recipe of trial 2 the champion has -0.08 points of validation accuracy, or -4 of 5,000 images "
        "(95 % interval over images -1.29 to +1.13): within chance."
    )
    far = [candidate(1, 0.9, champion=True), candidate(2, 0.8)]
    assert known(lead_sentence(far, 5000)).text.endswith("more than chance explains.")
    assert lead_sentence([candidate(1, 0.9, champion=True), candidate(2, None)], 5000) is None


def test_what_the_search_added(demo: Facts) -> None:
    assert gain_sentence(demo.study) is None, "where it was not measured"
    confirm = demo.study.confirm.assign(**{"tags.baseline": "true"})
    gain = {"study/search_gain": 0.0031, "study/search_gain_low": -0.002, "study/search_gain_high": 0.0082}
    facts = with_study(demo, confirm=confirm, metrics={**demo.study.metrics, **gain})
    made, sentence = section(facts), known(gain_sentence(facts.study))
    assert sentence.text == (
        "The search added +0.31 points to its starting recipe (95 % interval -0.20 to +0.82), within chance: "
        "the starting recipe stays. Both were trained again in the same way, and judged on the validation images."
    )
    assert made.blocks[-1] == sentence, "the lead, on fewer grounds, is not stated as well"
    assert made.recommendation["learning"][0] == sentence
    assert [n.value for n in made.numbers if n.name.startswith("selection.search_gain")] == list(gain.values())


def test_the_final_makes_its_recipe_the_champion(demo: Facts) -> None:
    (row,) = candidates_of(demo.study)
    assert (row.trial, row.complete, len(row.run_ids), row.champion, row.baseline) == (3, 2, 2, True, None)
    assert first_text(demo).endswith("is the champion. Its recipe was then trained on all training images.")
    confirm = demo.study.confirm.assign(**{"tags.baseline": "true"})
    (row,) = candidates_of(with_study(demo, confirm=confirm).study)
    assert row.baseline


def test_without_candidates_the_section_says_why(unconfirmed: Facts) -> None:
    (block,) = section(unconfirmed).blocks
    assert isinstance(block, Missing)
    assert block.text.startswith("No recipe was confirmed.")
    unfinished = with_study(unconfirmed, search=unconfirmed.study.search.head(0))
    assert section(unfinished).blocks == (Missing("No trial is complete, so there is no network to show."),)


@pytest.mark.parametrize(
    ("state", "words"),
    [
        ("running", "is still running"),
        ("interrupted", "was interrupted"),
        ("failed", "has failed"),
        ("pruned", "diverged"),
    ],
)
def test_a_champion_whose_final_is_not_done_is_chosen(demo: Facts, state: str, words: str) -> None:
    facts = with_study(demo, final=demo.study.final.head(1).assign(state=state))
    assert [row.champion for row in candidates_of(facts.study)] == [True]
    assert first_text(facts).endswith(f"The training of its recipe on all training images {words}.")


def test_a_champion_whose_final_has_not_begun(demo: Facts) -> None:
    facts = with_study(demo, tags={**demo.study.tags, "champion": "0"})  # a study that went on
    assert len(facts.study.champion) == 0
    assert first_text(facts).endswith("The training of its recipe on all training images has not begun yet.")
