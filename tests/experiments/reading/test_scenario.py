from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments.reading.published import load_published
from experiments.reading.scenario import DEFAULT_SCENARIO, Scenario, load_scenario, slug
from sweeps.validation import InvalidFileError
from tests.experiments.support import known

PUBLISHED = load_published()
SHIPPED = DEFAULT_SCENARIO.read_text(encoding="utf-8")


def read(tmp_path: Path, text: str) -> Scenario:
    path = tmp_path / "mine.toml"
    path.write_text(text, encoding="utf-8")
    return load_scenario(PUBLISHED, path)


def test_the_shipped_scenario_is_valid_and_says_what_it_assumes() -> None:
    scenario = load_scenario(PUBLISHED)
    assert (scenario.images_per_month, scenario.accuracy_bar, scenario.months) == (250_000, 0.70, 36)
    assert scenario.people_usd == 9600
    trained = [vendor.training for vendor in scenario.vendors]
    assert [price and price.key for price in trained] == [
        None, None, None, "azure-training", "vertex-training", "rekognition-training",
    ]  # fmt: skip
    assert [vendor.image_tokens for vendor in scenario.vendors[:3]] == [77, 88, 1090]
    assert [vendor.accuracy for vendor in scenario.vendors] == [None] * 6
    assert scenario.downloads[0].accuracy.key == "vit"
    assert scenario.compute is None
    assert scenario.entry.age(known(trained[3]).retirement) == ""  # type: ignore[arg-type]


def test_bars_may_be_left_out(tmp_path: Path) -> None:
    scenario = read(tmp_path, re.sub(r"(?m)^(accuracy_bar|latency_bar_ms).*$", "", SHIPPED))
    assert (scenario.accuracy_bar, scenario.latency_bar_ms) == (0.70, None)


def test_compute_is_a_key_or_a_number(tmp_path: Path) -> None:
    named = known(read(tmp_path, 'compute = "aws-h100"\n' + SHIPPED).compute)
    assert (named.key, named.usd) == ("aws-h100", 6.88)
    own = known(read(tmp_path, "compute = 0.5\n" + SHIPPED).compute)
    assert (own.usd, own.source, own.when) == (0.5, "mine.toml", "as given")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("images_per_month = 250_000", "images_per_mont = 1", "'images_per_mont'; did you mean 'images_per_month'?"),
        ("hourly_rate = 80", "hourly_rate = 80\nfile = 'x'", "unknown field 'file'; known: images_per_month, "),
        ("hourly_rate = 80", "hourly_rate = 80\nis_example = true", "unknown field 'is_example'; known: images_per_m"),
        ("images_per_month = 250_000", "images_per_month = 1e308", "must be at most 1e+15, but got 1e+308"),
        ("images_per_month = 250_000", "images_per_month = 1e-300", "must be at least 1e-15, but got 1e-300"),
        ("horizon_years = 3", "horizon_years = 101", "horizon_years must be at most 100, but got 101"),
        ("# compute = ", "compute = 1e308 #", "the key of a price or a number in (0, 1e+15], but got 1e+308"),
        ("# compute = ", "compute = -0.5 #", "the key of a price or a number in (0, 1e+15], but got -0.5"),
        ("# compute = ", "compute = 0 #", "the key of a price or a number in (0, 1e+15], but got 0"),
        ("# compute = ", "compute = [1] #", "the key of a price or a number in (0, 1e+15], but got [1]"),
        ('# compute = "aws-m7g"', 'compute = "aws-m7"', "but got 'aws-m7'; did you mean 'aws-m7g'?"),
        ('endpoint = "vertex-endpoint"', 'endpoint = "aws-m7"', "but got 'aws-m7'; known: vertex-endpoint"),
        ('# compute = "aws-m7g"', 'compute = "azure-training"', "compute must be the key of a compute price, but"),
        ('training = "azure-training"', 'training = "azure-prediction"', "vendor 'Azure Custom Vision': training must"),
        ('per_call = "azure-prediction"', "", "vendor 'Azure Custom Vision': per_call, endpoint or tokens must be"),
        ('per_call = "azure-prediction"', 'per_call = "vision-prediction"', "but 'vision-prediction' has its own"),
        ('tokens = "gpt-6-luna"', 'tokens = "azure-prediction"', "tokens must be the key of a token price, but"),
        ("image_tokens = 77", "", "image_tokens must be greater than 0 with a price by the token, but got 0"),
        ("image_tokens = 77", f"image_tokens = {10**16}", "image_tokens must be at most 1e+15, but got 1e+16"),
        ("integration_hours = ", "integration_hours = 1e16 #", "Luna': integration_hours must be at most 1e+15,"),
        ("image_tokens = 77", 'accuracy = "dbm"\nimage_tokens = 77', "but got 'dbm'; did you mean 'dbn'?"),
        ("image_tokens = 77", 'accuracy = ["dbn"]\nimage_tokens = 77', "a key of published.toml, but got ['dbn']"),
        ('name = "Claude Haiku 5.5"', 'name = "GPT 6 (Luna)"', "names of vendors and downloads must differ, and none"),
        ('name = "Claude Haiku 5.5"', 'name = "Building"', "downloads must differ, and none be 'building'"),
        ('name = "Claude Haiku 5.5"', 'name = "!"', "name must have a letter or a digit, but got '!'"),
        ('name = "Claude Haiku 5.5"', 'name = "GPT 6 (Luna)"', "none be 'building', but got 'GPT-6 Luna', 'GPT 6 (Lun"),
        ('name = "GPT-6 Luna"', 'name = "GPT\\nLuna"', "at most 80 letters that can be printed, but got 'GPT\\nLuna'"),
        ('name = "GPT-6 Luna"', 'name = "\\u001b[31m Luna"', "letters that can be printed, but got '\\x1b[31m Luna'"),
        ('name = "GPT-6 Luna"', f'name = "{"x" * 81}"', "at most 80 letters that can be printed, but got 'xxxxx"),
        ('name = "ViT-B/16"', 'name = "ViT\\u202e"', "at most 80 letters that can be printed, but got 'ViT\\u202e'"),
        ("data_stays_in_house = false", 'data_stays_in_house = "no"', "_house must be true or false, but got 'no'"),
        ("data_stays_in_house = false", "data_stays_in_house = 0", "_in_house must be true or false, but got 0"),
        ('name = "ViT-B/16"', 'name = "!"', "download '!': name must have a letter or a digit, but got '!'"),
        ('endpoint = "vertex-', 'endpoint_hours_per_month = 8\nendpoint = "vertex-', "must be 730 with a latency bar"),
        ('per_call = "azure-prediction"', "per_call = 2", "per_call must be the key of a price, but got 2"),
    ],
)  # fmt: skip
def test_a_fault_is_reported_in_one_line(tmp_path: Path, old: str, new: str, message: str) -> None:
    assert old in SHIPPED
    with pytest.raises(InvalidFileError) as raised:
        read(tmp_path, SHIPPED.replace(old, new, 1))
    assert message in str(raised.value)
    assert str(raised.value).startswith("mine.toml")
    assert "\n" not in str(raised.value)


def test_a_scenario_needs_a_vendor(tmp_path: Path) -> None:
    with pytest.raises(InvalidFileError, match=r"mine.toml: at least one \[\[vendor\]\] must be given, but"):
        read(tmp_path, SHIPPED[: SHIPPED.index("[[vendor]]\nname")])
    lone = SHIPPED[: SHIPPED.index("[[vendor]]\nname")] + '[[vendor]]\nname = "A"\ntokens = "gpt-6-lun"\n'
    with pytest.raises(InvalidFileError) as raised:
        read(tmp_path, lone)
    assert str(raised.value).count(";") == 1, "one fault, and what was meant"
    assert len(read(tmp_path, SHIPPED.replace("GPT-6 Luna", "x" * 80)).vendors[0].name) == 80


def test_names_have_letters_of_any_script_and_differ_in_any_of_them(tmp_path: Path) -> None:
    names = ["通义千问", "Modèle", "Modele", "की", "का", "Я5"]
    text = SHIPPED
    for old, new in zip([v.name for v in load_scenario(PUBLISHED).vendors], names, strict=True):
        text = text.replace(f'name = "{old}"', f'name = "{new}"')
    slugs = [slug(vendor.name) for vendor in read(tmp_path, text).vendors]
    assert slugs == ["通义千问", "modèle", "modele", "की", "का", "я5"]
    with pytest.raises(InvalidFileError, match="names of vendors and downloads must differ"):
        read(tmp_path, text.replace("Modele", "MODE\N{COMBINING GRAVE ACCENT}LE"))


@given(st.text(max_size=60))
def test_no_text_is_more_than_one_line_of_error(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    path = tmp_path_factory.getbasetemp() / "any.toml"
    path.write_text(text, encoding="utf-8", errors="surrogatepass")
    with pytest.raises(InvalidFileError) as raised:
        load_scenario(PUBLISHED, path)
    assert len(str(raised.value).splitlines()) == 1
