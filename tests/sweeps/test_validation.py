from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any

import pytest
from pydantic import BeforeValidator, Field, ValidationInfo
from pydantic.dataclasses import dataclass

from sweeps.validation import STRICT, InvalidFileError, Positive, Share, Text, read_json, read_toml, write_json


def add(value: Any, info: ValidationInfo) -> Any:
    if value < 0:
        raise ValueError(f"must not be negative, but got {value}")
    return value + (info.context or {"more": 0})["more"]


@dataclass(config=STRICT, frozen=True, kw_only=True, slots=True)
class Item:
    name: Text
    price: Positive = 1.0
    sizes: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.name == "nothing":
            raise ValueError("name must be of something")


@dataclass(config=STRICT, frozen=True, kw_only=True, slots=True)
class Shop:
    items: Annotated[tuple[Item, ...], Field(alias="item")] = ()
    best: Item | None = None
    shares: dict[str, Share] = Field(default_factory=dict)
    branches: dict[str, Item] = Field(default_factory=dict)
    count: Annotated[int, BeforeValidator(add)] = 0
    open: Annotated[tuple[Item, ...], Field(min_length=2)] = (Item(name="a"), Item(name="b"))


def read(folder: Path, text: str, **context: int) -> Shop:
    path = folder / "shop.toml"
    path.write_text(text)
    return read_toml(path, Shop, context or None)


def test_a_toml_file_becomes_a_record_with_the_defaults_of_its_fields(tmp_path: Path) -> None:
    shop = read(tmp_path, 'count = 2\n[[item]]\nname = "pen"\nsizes = [1, 2]\n', more=3)
    assert shop == Shop(items=(Item(name="pen", sizes=(1, 2)),), count=5)


@pytest.mark.parametrize(
    ("text", "faults"),
    [
        ('[[item]]\nname = "pen"\nprice = 0', "item 'pen': price must be greater than 0, but got 0"),
        ('[[item]]\nname = "pen"\nprice = nan', "item 'pen': price must be a finite number, but got nan"),
        (f'[best]\nname = "pen"\nprice = {"9" * 400}', "best.price must be a finite number, but got 999999999999999999."
         "..9999999999999999999"),
        ('[[item]]\nname = "pen"\nprize = 2', "item 'pen': unknown field 'prize'; did you mean 'price'?"),
        ('[[item]]\nname = "pen"\nx = 2', "item 'pen': unknown field 'x'; known: name, price, sizes"),
        ('[[item]]\nname = "pen"\nsizes = [1, true]', "item 'pen': sizes[1] must be a valid integer, but got True"),
        ('[[item]]\nname = "nothing"', "item 'nothing': name must be of something"),
        ("[[item]]\nname = ''", "item[0].name must have at least 1 character, but got ''"),
        ("[best]\nprize = 1", "field 'best.name' is missing; unknown field 'best.prize'; did you mean 'price'?"),
        ("[best]\nname = 'nothing'", "best.name must be of something"),
        ("item = 3\ncount = -1", "item must be a valid array, but got 3; count must not be negative, but got -1"),
        ('[branches.east]\nname = "n"\nprize = 1', "unknown field 'branches.east.prize'; did you mean 'price'?"),
        ("items = []", "unknown field 'items'; did you mean 'item'?"),
        ("open = []", "open must have at least 2 items after validation, not 0, but got []"),
        ("open = [{name = 'a'}, {}]", "shop.toml: field 'open[1].name' is missing"),
        ("items_ = 3", "unknown field 'items_'; did you mean 'item'?"),
        ('[shares]\n"a\\nb" = 2', "shares.a b must be less than or equal to 1, but got 2"),
        ("[shares]\n" + "\n".join(f"a{n} = 2" for n in range(12)), "shares.a9 must be less than or equal to 1, but "
         "got 2; and 2 more"),
    ],
)  # fmt: skip
def test_all_faults_are_one_line_with_place_rule_and_value(tmp_path: Path, text: str, faults: str) -> None:
    with pytest.raises(InvalidFileError) as raised:
        read(tmp_path, text)
    assert str(raised.value).startswith("shop.toml: ")
    assert str(raised.value).endswith(faults)
    assert len(str(raised.value).splitlines()) == 1


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_files_of_other_editors(tmp_path: Path, encoding: str) -> None:
    (tmp_path / "a.toml").write_text('count = 2\r\n[best]\r\nname = "Füller"\r\n', encoding=encoding, newline="")
    (tmp_path / "a.json").write_text('{"count": 2,\r\n"best": {"name": "Füller"}}', encoding=encoding, newline="")
    expected = Shop(count=2, best=Item(name="Füller"))
    assert read_toml(tmp_path / "a.toml", Shop) == read_json(tmp_path / "a.json", Shop) == expected


def test_a_written_file_has_each_innermost_list_and_record_on_a_line(tmp_path: Path) -> None:
    shop = Shop(items=(Item(name='[\n "{', sizes=(1, 2)),), shares={"a\n]": 0.5, "b": 1.0})
    write_json(tmp_path / "shop.json", shop)
    assert read_json(tmp_path / "shop.json", Shop) == shop
    lines = (tmp_path / "shop.json").read_text().splitlines()
    assert '   "sizes": [1,2]' in lines
    shop = Shop(shares={"a": 0.5, "b": 1.0})
    write_json(tmp_path / "shop.json", shop)
    assert ' "shares": {"a": 0.5,"b": 1.0},' in (tmp_path / "shop.json").read_text().splitlines()


@pytest.mark.parametrize("content", [None, b"\xff\xfea", b"[\0", b"{", b"\xff", b"[" * 100_000, b"[1, 2", b"9" * 5000])
def test_a_file_that_cannot_be_read_is_one_line(tmp_path: Path, content: bytes | None) -> None:
    for reader, kind in ((read_toml, "TOML"), (read_json, "JSON")):
        path = tmp_path / "file"
        if content is not None:
            path.write_bytes(content)
        file = "file" if content is not None else re.escape(f"{path}")
        with pytest.raises(InvalidFileError, match=rf"^{file} must be a readable {kind} file, but: .+$") as raised:
            reader(path, Shop)
        assert len(str(raised.value).splitlines()) == 1
