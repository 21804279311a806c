"""Keys of runs name their trial."""

from __future__ import annotations

import pytest

from sweeps.studies.keys import confirm_key, final_key, head_key, seed_of, trial_key, trial_of, tuned_key


@pytest.mark.parametrize("key", [trial_key(12), final_key(12, 3), head_key(12), tuned_key(12), confirm_key(12, 0)])
def test_a_key_names_its_trial(key: str) -> None:
    assert trial_of(key) == 12


@pytest.mark.parametrize("key", ["", "study", "trial-", "trial-12-extra", "range-12"])
def test_other_keys_name_none(key: str) -> None:
    assert trial_of(key) == -1


def test_a_key_names_its_seed() -> None:
    assert [seed_of(key) for key in (confirm_key(12, 1), final_key(3, 20), tuned_key(12))] == [1, 20, 1]
