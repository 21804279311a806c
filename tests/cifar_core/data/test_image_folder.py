"""Layouts of a folder of pictures, and one line for what is none."""

from __future__ import annotations

import errno
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest

from cifar_core.data import DataError
from cifar_core.data.image_folder import Layout, find_pictures, listed
from tests.cifar_core.support import refusal

TWINS = "classes must differ in more than capital letters, needless spaces and the encoding of accents"


def touch(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def shown(folder: Path, layout: Layout) -> list[str]:
    return [f"{p.path.relative_to(folder)} {layout.classes[p.label]} {p.split}" for p in layout.pictures]


def test_a_folder_for_each_class(tmp_path: Path) -> None:
    touch(
        tmp_path,
        "dog/1.jpg",
        "dog/more/0.png",
        "cat/1.jpg",
        "cat/.hidden",
        "cat/Thumbs.db",
        ".git/config",
        "readme.txt",
    )
    layout = find_pictures(tmp_path, None)
    assert (layout.classes, layout.given) == (("cat", "dog"), ("train",))
    assert shown(tmp_path, layout) == ["dog/more/0.png dog train", "cat/1.jpg cat train", "dog/1.jpg dog train"]


def test_linked_folders_belong_to_their_class(tmp_path: Path) -> None:
    touch(tmp_path, "elsewhere/2.jpg", "photos/cat/1.jpg", "photos/dog/1.jpg")
    (tmp_path / "photos" / "cat" / "more").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "back").symlink_to(tmp_path / "photos" / "cat")  # a loop
    (tmp_path / "photos" / "dog" / "all").symlink_to("..")  # upwards: other classes are no dogs
    layout = find_pictures(tmp_path / "photos", None)
    assert shown(tmp_path / "photos", layout) == [
        "cat/1.jpg cat train",
        "dog/1.jpg dog train",
        "cat/more/2.jpg cat train",
    ]


@pytest.mark.parametrize("given", [("train",), ("train", "val"), ("train", "test"), ("train", "val", "test")])
def test_folders_of_splits(tmp_path: Path, given: tuple[str, ...]) -> None:
    for split in given:
        touch(tmp_path, f"{split}/cat/1.jpg", f"{split}/dog/1.jpg")
    layout = find_pictures(tmp_path, None)
    assert layout.given == given
    assert Counter(picture.split for picture in layout.pictures) == dict.fromkeys(given, 2)


def test_a_class_may_be_called_train(tmp_path: Path) -> None:
    layout = find_pictures(touch(tmp_path, "train/1.jpg", "bus/1.jpg"), None)
    assert layout.classes == ("bus", "train")


def test_documents_films_and_data_beside_the_classes_are_no_pictures(tmp_path: Path) -> None:
    others = ("license.pdf", "page.eps", "film.mpg", "features.h5", "weather.grib", "._cat.jpg")
    layout = find_pictures(touch(tmp_path, "cat/1.jpg", "slim.fit/1.jpg", *others), None)
    assert shown(tmp_path, layout) == ["cat/1.jpg cat train", "slim.fit/1.jpg slim.fit train"]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_a_table(tmp_path: Path, encoding: str) -> None:
    touch(tmp_path, "b.jpg", "sub/a.jpg")
    table = tmp_path / "labels.csv"
    table.write_text('label,who,path\n"a, b",x,sub/a.jpg\nWeiß,y,b.jpg\n', encoding=encoding)
    layout = find_pictures(tmp_path, table)
    assert shown(tmp_path, layout) == ["sub/a.jpg a, b train", "b.jpg Weiß train"]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (
            "file,label\na.jpg,x",
            "its first line must name the columns path and label, separated by a comma, but lacks 'path'",
        ),
        ("", "its first line must name the columns path and label, separated by a comma, but lacks 'path', 'label'"),
        ("path,label\na.jpg,", "each line must have a path and a label, but line 2 lacks one"),
        (
            "path,label\na.jpg,x, y",
            "each line must have 2 fields as the first, those with a comma in quotes, but line 2 has more",
        ),
        *(
            (
                f"path,label,{name}\na.jpg,x,test",
                "splits of your own must be folders train/, val/ and test/, but this has the column "
                f"{name!r}; remove it to have them drawn",
            )
            for name in ("split", "Set", "SUBSET ", "fold", "partition", "phase")
        ),
        ("path,label,label\na.jpg,x,y", "its columns must have different names, but got 'label' again"),
        ("path,label\n", "it must list pictures, but has only its first line"),
        ('path,label\na.jpg,"x\nb.jpg,y', "this must be a CSV file, but: unexpected end of data"),
        ('path,label\na.jpg, "x\nb.jpg,y', "this must be a CSV file, but: unexpected end of data"),
        ("path,label\na.jpg,x\na.jpg,y", "each path must be there once, but 'a.jpg' is in lines 2 and 3"),
        ("path,label\na.jpg,x\n./a.jpg,y", "each path must be there once, but './a.jpg' is in lines 2 and 3"),
        ("path,label\r\n\r\na.jpg,x\r\na.jpg,y", "each path must be there once, but 'a.jpg' is in lines 3 and 4"),
        ("path,label\nb.jpg,x", "each path must lead from {folder} to a file, but line 2 has 'b.jpg'"),
    ],
)
def test_a_table_that_cannot_be(tmp_path: Path, rows: str, message: str) -> None:
    table = touch(tmp_path, "a.jpg") / "labels.csv"
    table.write_text(rows)
    said = refusal(lambda: find_pictures(tmp_path, table), DataError)
    assert said == f"{table}: {message.format(folder=tmp_path)}"


@pytest.mark.parametrize(
    "rows",
    [
        "path,label,,\na.jpg,x,,\nb.jpg,y,,",
        "path,label\na.jpg,x,\nb.jpg,y",
        "path,note,label,note\na.jpg,,x,\nb.jpg,,y,",
        'path,label\n"a.jpg","x" \nb.jpg,y',
        'path, label\na.jpg, "x"\nb.jpg, y',
    ],
)
def test_a_table_as_spreadsheets_write_it(tmp_path: Path, rows: str) -> None:
    touch(tmp_path, "a.jpg", "b.jpg")
    table = tmp_path / "labels.csv"
    table.write_text(rows)
    assert shown(tmp_path, find_pictures(tmp_path, table)) == ["a.jpg x train", "b.jpg y train"]


@pytest.mark.parametrize(
    ("tops", "splits"),
    [
        (("train", "test"), ("train", "test")),
        (("./train", "val"), ("train", "val")),
        (("train", "extra"), ("train", "train")),
        (("Training", "extra"), ("train", "train")),
    ],
)
def test_paths_of_a_table_in_folders_of_splits(tmp_path: Path, tops: Sequence[str], splits: Sequence[str]) -> None:
    paths = [f"{top}/{name}.jpg" for top, name in zip((tops[0], *tops), "abc", strict=True)]
    table = touch(tmp_path, *paths) / "labels.csv"
    table.write_text("path,label\n" + "".join(f"{path},{name}\n" for path, name in zip(paths, "xyx", strict=True)))
    layout = find_pictures(tmp_path, table)
    assert [picture.split for picture in layout.pictures] == ["train", *splits]


@pytest.mark.parametrize("tops", [("train", "test", "extra"), ("Train", "TEST")])
def test_paths_of_a_table_in_folders_beside_those_of_splits(tmp_path: Path, tops: Sequence[str]) -> None:
    paths = [f"{top}/1.jpg" for top in tops]
    table = touch(tmp_path, *paths) / "labels.csv"
    table.write_text("path,label\n" + "".join(f"{path},x\n" for path in paths))
    others = listed(sorted(set(tops) - {"train", "test"}))
    rule = "where paths are in folders of splits, all must be in train/, val/ and test/, but others are in"
    assert refusal(lambda: find_pictures(tmp_path, table), DataError) == f"{table}: {rule} {others}"


def test_a_path_from_the_root_is_no_second_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = touch(tmp_path / "pets", "a.jpg") / "labels.csv"
    table.write_text(f"path,label\na.jpg,x\n{tmp_path}/pets/a.jpg,y")
    monkeypatch.chdir(tmp_path)
    said = refusal(lambda: find_pictures(Path("pets"), table), DataError)
    assert said.endswith(f"each path must be there once, but '{tmp_path}/pets/a.jpg' is in lines 2 and 3")


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ((), "--images must have a folder for each class, or train/ with those (and val/ and test/, if there are any), "
             "or --labels FILE, but {folder} has no pictures in such places"),
        (("b.JPG", "a.png", "cat/1", "dog/1"),
         "pictures must lie in the folder of their class, but {folder} itself has 'a.png', 'b.JPG'"),
        (("train/cat/1", "train/dog/1", "valid/cat/1"),
         "beside train/ only val/ and test/ are allowed, but {folder} has 'valid'"),
        (("train/cat/1.jpg", "train/dog/1.jpg", "test/1.jpg"),
         "pictures must lie in the folder of their class, but {folder}/test itself has '1.jpg'"),
        (("train/1.jpg", "test/2.jpg"),
         "beside val/ and test/ there must be train/ with folders of classes, but {folder} has none"),
        (("cat/1.jpg", "dog/1.jpg", "test/cat/1.jpg"),
         "beside val/ and test/ there must be train/ with folders of classes, but {folder} has none"),
        (("Train/rose/1.jpg", "Test/rose/1.jpg"),
         "the folders of splits must be called train, val and test, but {folder} has 'Test', 'Train'"),
        (("training/rose/1.jpg", "validation/rose/1.jpg", "tulip/1.jpg"),
         "the folders of splits must be called train, val and test, but {folder} has 'training', 'validation'"),
        (("cat/1.jpg",), "--images must have at least two classes, but {folder} has only 'cat'"),
        (("train/cat/1", "train/dog/1", "val/cow/1"),
         "each class must have training pictures, but these have some in val/ or test/ only: 'cow'"),
        (("cat/1", "dog/1", "tulip/.hidden", "__MACOSX/cat/1"),
         "the folder of a class must have pictures, but {folder}/tulip has none"),
        (("train/cat/1", "train/dog/.1", "val/dog/1"),
         "the folder of a class must have pictures, but {folder}/train/dog has none"),
        (("caf\udce9/1", "dog/1"), "names of classes must be utf-8, but got 'caf\\udce9'"),
        (("cat\n/1", "dog/1"), "a class must have a name of at most 200 letters without control characters, but got "
                               "'cat\\n'"),
        (
            ("Cat/1", "cat/1"),
            f"{TWINS}, but got 'Cat', 'cat'",
        ),
        (
            ("caf\u00e9/1", "cafe\u0301/1"),
            f"{TWINS}, but got 'cafe\u0301', 'caf\u00e9'",
        ),
        (
            ("a  b/1", "a b /1", "ab/1"),
            f"{TWINS}, but got 'a  b', 'a b '",
        ),
    ],
)  # fmt: skip
def test_a_folder_that_cannot_be(tmp_path: Path, names: tuple[str, ...], message: str) -> None:
    said = refusal(lambda: find_pictures(touch(tmp_path, *names), None), DataError)
    assert said == message.format(folder=tmp_path)


def test_no_folder(tmp_path: Path) -> None:
    said = refusal(lambda: find_pictures(tmp_path / "nothing", None), DataError)
    assert said == f"--images must be a folder with pictures, but {tmp_path}/nothing is not one"


def test_a_folder_below_one_that_may_not_be_entered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path) -> bool:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(Path, "is_dir", refuse)  # root may enter every folder
    said = refusal(lambda: find_pictures(tmp_path, None), DataError)
    assert said == f"{tmp_path}: this must be readable, but got: Permission denied"
