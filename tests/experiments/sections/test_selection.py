from __future__ import annotations

from dataclasses import replace

from experiments.decision.facts import Facts
from experiments.pages.blocks import Missing
from experiments.sections.selection import bias_sentence, candidates_of, section, selection_bias
from tests.experiments.support import known, with_study


def test_the_best_trial_is_compared_with_its_retraining(demo: Facts) -> None:
    bias = known(selection_bias(demo.study, 5000))
    assert (bias.trials, bias.same_compute) == (2, True)
    assert known(selection_bias(with_study(demo, confirm=demo.study.confirm.head(0)).study, 5000)).confirmed is None
    assert selection_bias(with_study(demo, search=demo.study.search.head(0)).study, 5000) is None


def test_selection_bias_needs_the_same_compute_and_more_than_chance(demo: Facts) -> None:
    bias = known(selection_bias(demo.study, 5000))
    again = replace(bias, confirmed=replace(known(bias.confirmed), mean=0.80, low=0.79, high=0.81))
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


def test_candidates_are_the_recipes_that_were_trained_again(demo: Facts) -> None:
    (row,) = candidates_of(demo.study)
    assert (row.trial, row.complete, len(row.run_ids), row.champion) == (3, 2, 2, True)


def test_without_candidates_the_section_says_why(unconfirmed: Facts) -> None:
    (block,) = section(unconfirmed).blocks
    assert isinstance(block, Missing)
    assert block.text.startswith("No recipe was confirmed.")
    unfinished = with_study(unconfirmed, search=unconfirmed.study.search.head(0))
    assert section(unfinished).blocks == (Missing("No trial is complete, so there is no network to show."),)
