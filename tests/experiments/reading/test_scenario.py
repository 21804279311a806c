from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments.reading.published import AssumedPrice, load_published
from experiments.reading.scenario import DEFAULT_SCENARIO, ScenarioError, load_scenario

PUBLISHED = load_published()
SHIPPED = DEFAULT_SCENARIO.read_text(encoding="utf-8")


def read(tmp_path: Path, text: str):  # type: ignore[no-untyped-def]
    path = tmp_path / "mine.toml"
    path.write_text(text, encoding="utf-8")
    return load_scenario(PUBLISHED, path)


def test_the_shipped_scenario_is_valid_and_says_what_it_assumes() -> None:
    scenario = load_scenario(PUBLISHED)
    assert (scenario.images_per_month, scenario.accuracy_bar, scenario.months) == (250_000, 0.70, 36)
    assert scenario.people_usd == 9600
    assert [vendor.training.key for vendor in scenario.vendors] == [
        "azure-training", "vertex-training", "rekognition-training",
    ]  # fmt: skip
    assert scenario.compute is None
    assert scenario.entry.age(scenario.vendors[0].training.retirement) == ""  # type: ignore[arg-type]


def test_bars_may_be_left_out(tmp_path: Path) -> None:
    lines = [line for line in SHIPPED.splitlines() if not line.startswith(("accuracy_bar", "latency_bar_ms"))]
    scenario = read(tmp_path, "\n".join(lines))
    assert (scenario.accuracy_bar, scenario.latency_bar_ms) == (0.70, None)


def test_compute_is_a_key_or_a_number(tmp_path: Path) -> None:
    named = read(tmp_path, 'compute = "aws-h100"\n' + SHIPPED).compute
    assert (named.key, named.usd) == ("aws-h100", 6.88)
    own = read(tmp_path, "compute = 0.5\n" + SHIPPED).compute
    assert isinstance(own, AssumedPrice)
    assert (own.usd, own.source, own.when) == (0.5, "mine.toml", "as given")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("images_per_month = 250_000", "images_per_mont = 1", "'images_per_mont'; did you mean 'images_per_month'?"),
        ("images_per_month = 250_000", "zebra = 1", "unknown field 'zebra'; known: images_per_month, "),
        ("images_per_month = 250_000", "", "field 'images_per_month' is missing"),
        ("images_per_month = 250_000", "images_per_month = -1", "images_per_month > 0 must hold, but got -1"),
        ("images_per_month = 250_000", "images_per_month = true", "images_per_month must be a number, but got True"),
        ("images_per_month = 250_000", "images_per_month = nan", "images_per_month must be a number, but got nan"),
        ("images_per_month = 250_000", "images_per_month =", "mine.toml must be a readable TOML file, but: "),
        ("images_per_month = 250_000", f"x = {'9' * 5000}", "mine.toml must be a readable TOML file, but: "),
        ("images_per_month = 250_000", f"x = {'[' * 5000}", "mine.toml must be a readable TOML file, but: "),
        ("hourly_rate = 80", f"hourly_rate = {'9' * 400}", "hourly_rate must be a number, but got 99"),
        ("accuracy_bar = 0.70", "accuracy_bar = 70", "0 < accuracy_bar < 1 must hold, but got 70"),
        ("latency_bar_ms = 1000", "latency_bar_ms = 0", "latency_bar_ms > 0 must hold, but got 0"),
        ("horizon_years = 3", "horizon_years = 0", "0 < horizon_years <= 100 must hold, but got 0"),
        ("hourly_rate = 80", "hourly_rate = -80", "hourly_rate >= 0 must hold, but got -80"),
        ("# compute = ", "compute = -0.5 #", "usd > 0 must hold, but got -0.5"),
        ("# compute = ", "compute = [1] #", "compute must be a price key or a number, but got [1]"),
        ('# compute = "aws-m7g"', 'compute = "aws-m7"', "but got 'aws-m7'; did you mean 'aws-m7g'?"),
        ('# compute = "aws-m7g"', 'compute = "azure-training"', "compute must be the key of a compute price, but"),
        ('training = "azure-training"', 'training = "azure-prediction"', "vendor 'Azure Custom Vision': training"),
        ('per_call = "azure-prediction"', "", "vendor 'Azure Custom Vision': per_call or endpoint must be given"),
        ('per_call = "azure-prediction"', "per_call = 2", "per_call must be a text, but got 2"),
        ('endpoint = "vertex-endpoint"', 'endpont = "x"', "unknown field 'endpont'; did you mean 'endpoint'?"),
        ('endpoint = "vertex-', 'endpoint_hours_per_month = 800\nendpoint = "vertex-', "<= 730 must hold, but got 800"),
        ('[[vendor]]\nname = "Azure Custom Vision"', '[[vendor]]', "field 'name' is missing"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_one_line(tmp_path: Path, old: str, new: str, message: str) -> None:
    assert old in SHIPPED
    with pytest.raises(ScenarioError) as raised:
        read(tmp_path, SHIPPED.replace(old, new, 1))
    assert message in str(raised.value)
    assert str(raised.value).startswith("mine.toml")
    assert "\n" not in str(raised.value)


def test_a_scenario_needs_a_vendor_and_a_file(tmp_path: Path) -> None:
    with pytest.raises(ScenarioError, match=r"at least one \[\[vendor\]\] must hold, but got 0"):
        read(tmp_path, SHIPPED[: SHIPPED.index("[[vendor]]\nname")])
    with pytest.raises(ScenarioError, match=r"nowhere\.toml must be a readable TOML file, but: "):
        load_scenario(PUBLISHED, tmp_path / "nowhere.toml")
    with pytest.raises(ScenarioError, match=r"vendor must be a list of \[\[vendor\]\] tables, but got 3"):
        read(tmp_path, "vendor = 3\n")


@given(st.text(max_size=60))
def test_no_text_is_more_than_one_line_of_error(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    path = tmp_path_factory.getbasetemp() / "any.toml"
    path.write_text(text, encoding="utf-8", errors="surrogatepass")
    with pytest.raises(ScenarioError) as raised:
        load_scenario(PUBLISHED, path)
    assert len(str(raised.value).splitlines()) == 1
