"""Keys of runs name their trial."""

from __future__ import annotations

import pytest

from sweeps.studies.keys import final_key, head_key, trial_key, trial_of, tuned_key


@pytest.mark.parametrize("key", [trial_key(12), final_key(12, 3), head_key(12), tuned_key(12), "confirm-12-0"])
def test_a_key_names_its_trial(key: str) -> None:
    assert trial_of(key) == 12


@pytest.mark.parametrize("key", ["", "study", "trial-", "trial-12-extra", "range-12"])
def test_other_keys_name_none(key: str) -> None:
    assert trial_of(key) == -1
