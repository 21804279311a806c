import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cifar_core import data
from cifar_core.data import Split
from cifar_core.data.data_set import CIFAR10
from cifar_core.data.download import default_data_dir, ensure_cifar10
from tests.cifar_core.support import refusal, seeded
from tests.synthetic import synthetic_splits

SMALL_IMAGES = 100


@pytest.fixture(scope="module")
def small_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with six files of 100 random records, 10 of each class."""
    folder = tmp_path_factory.mktemp("small")
    generator = np.random.default_rng(0)
    for name in data.FILE_SHA256:
        records = generator.integers(0, 256, (SMALL_IMAGES, data.RECORD_BYTES), dtype=np.uint8)
        records[:, 0] = generator.permutation(SMALL_IMAGES) % 10
        (folder / name).write_bytes(records.tobytes())
    return folder


@pytest.fixture
def small(small_files: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """`small_files` in place of the official ones."""
    hashes = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in small_files.iterdir()}
    monkeypatch.setattr(data, "FILE_SHA256", hashes)
    monkeypatch.setattr(data, "IMAGES_PER_FILE", SMALL_IMAGES)
    monkeypatch.setattr(data, "FILE_BYTES", SMALL_IMAGES * data.RECORD_BYTES)
    monkeypatch.setattr(data, "VAL_PER_CLASS", 5)
    return small_files


@pytest.fixture(scope="module")
def real() -> Path:
    directory = default_data_dir()
    ensure_cifar10(directory, lambda what, done, total: None)
    return directory


def rows(split: Split) -> list[bytes]:
    """The records of a split as in the files: label byte, then image bytes."""
    together = torch.cat([split.labels[:, None].to(torch.uint8), split.images.flatten(1)], dim=1)
    return [row.tobytes() for row in together.numpy()]


def digest(indices: data.Integers) -> str:
    return hashlib.sha256(indices.tobytes()).hexdigest()


def check_form(split: Split, count: int) -> None:
    assert len(split) == count
    for tensor, shape, dtype in ((split.images, (3, 32, 32), torch.uint8), (split.labels, (), torch.int64)):
        assert (tensor.shape, tensor.dtype) == ((count, *shape), dtype)
        assert tensor.is_contiguous()


def test_train_and_val_share_out_all_records(small: Path) -> None:
    splits = data.load_train_val(small)
    check_form(splits.train, 450)
    check_form(splits.val, 50)
    content = b"".join((small / name).read_bytes() for name in data.TRAIN_FILES)
    records = [content[at : at + data.RECORD_BYTES] for at in range(0, len(content), data.RECORD_BYTES)]
    in_val = set(rows(splits.val))
    assert len(in_val) == 50
    assert in_val < set(records)
    assert rows(splits.train) == [record for record in records if record not in in_val]
    assert splits.val.labels.tolist() == [index % 10 for index in range(50)]


def test_held_out_images_are_drawn_with_the_seed(small: Path) -> None:
    everything = data.load_train(small)
    check_form(everything, 500)
    splits, again, other, none = (
        data.hold_out(everything, fraction, seed) for fraction, seed in ((0.2, 3), (0.2, 3), (0.2, 4), (0.0, 0))
    )
    check_form(splits.train, 400)
    check_form(splits.val, 100)
    assert sorted(rows(splits.train) + rows(splits.val)) == sorted(rows(everything))
    assert rows(again.val) == rows(splits.val)
    assert set(rows(other.val)) != set(rows(splits.val))
    assert rows(none.train) == rows(everything)
    check_form(none.val, 0)
    check_form(data.hold_out(everything, 1e-6, 0).val, 1)


def test_head_is_the_beginning_of_a_split(small: Path) -> None:
    val = data.load_train_val(small).val
    for count in (0, 1, 10, 37, 50):
        head = val.head(count)
        check_form(head, count)
        assert rows(head) == rows(val)[:count]
        counts = head.labels.bincount(minlength=10)
        assert counts.max() - counts.min() <= (1 if count % 10 else 0)
    assert len(val.head(51)) == 50


def test_test_set_is_the_file_in_its_order(small: Path) -> None:
    split = data.load_test(small)
    check_form(split, 100)
    assert b"".join(rows(split)) == (small / data.TEST_FILE).read_bytes()


def test_train_and_val_do_not_need_the_test_file(small: Path, tmp_path: Path) -> None:
    for name in data.TRAIN_FILES:
        (tmp_path / name).write_bytes((small / name).read_bytes())
    assert len(data.load_train_val(tmp_path).train) == 450
    message = refusal(lambda: data.load_test(tmp_path))
    assert message.endswith("test_batch.bin: this CIFAR-10 file must be readable, but got: No such file or directory")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])  # `small` is only read
@given(bit=st.integers(0, 8 * SMALL_IMAGES * data.RECORD_BYTES - 1))
def test_one_flipped_bit_is_refused(small: Path, tmp_path_factory: pytest.TempPathFactory, bit: int) -> None:
    content = bytearray((small / data.TEST_FILE).read_bytes())
    content[bit // 8] ^= 1 << bit % 8
    path = tmp_path_factory.mktemp("flipped") / data.TEST_FILE
    path.write_bytes(content)
    right, found = data.FILE_SHA256[data.TEST_FILE], hashlib.sha256(content).hexdigest()
    assert refusal(lambda: data.load_test(path.parent)) == f"{path}: SHA-256 must be {right}, but got {found}"


@pytest.mark.parametrize("change", [-307_300, -1, 1, 3073])
def test_a_wrong_size_is_refused(small: Path, tmp_path: Path, change: int) -> None:
    path, content = tmp_path / data.TEST_FILE, (small / data.TEST_FILE).read_bytes()
    path.write_bytes((content + bytes(3073))[: len(content) + change])
    message = refusal(lambda: data.load_test(tmp_path))
    assert message == f"{path}: size must be 307300 bytes, but got {307_300 + change}"


def test_a_folder_in_place_of_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / data.TEST_FILE).mkdir()
    assert refusal(lambda: data.load_test(tmp_path)).endswith(" must be readable, but got: Is a directory")


def test_validation_indices_are_pinned() -> None:
    labels = np.arange(50_000) % 10
    chosen = data.validation_indices(labels)
    assert chosen.dtype == np.int64
    assert len(np.unique(chosen)) == 5_000
    assert digest(chosen) == "0afbd16979faf0b167133daad5adc0613b63e2fdb161420248f9dd1ebf9e0aa9"


def test_data_sha256_names_the_six_files() -> None:
    assert CIFAR10.sha256 == hashlib.sha256("".join(data.FILE_SHA256.values()).encode()).hexdigest()


@pytest.mark.slow
@pytest.mark.real_data
@pytest.mark.timeout(600)
def test_real_data_has_the_published_figures(real: Path) -> None:
    splits, test = data.load_train_val(real), data.load_test(real)
    check_form(splits.train, 45_000)
    check_form(splits.val, 5_000)
    check_form(test, 10_000)
    assert splits.train.labels.bincount().tolist() == [4_500] * 10
    assert splits.val.labels.tolist() == list(range(10)) * 500
    assert test.labels.bincount().tolist() == [1_000] * 10
    assert test.labels[:10].tolist() == [3, 8, 8, 0, 6, 6, 1, 6, 3, 1]

    # Exact integer sums over both parts: the figures are those of all 50,000 images.
    values = torch.arange(256, dtype=torch.float64) / 255
    for channel in range(3):
        images = torch.cat([splits.train.images[:, channel], splits.val.images[:, channel]])
        counts = images.flatten().bincount(minlength=256)
        share = counts / counts.sum()
        mean = (share * values).sum()
        deviation = (share * (values - mean).square()).sum().sqrt()
        assert mean.item() == pytest.approx(CIFAR10.mean[channel], abs=1e-8)
        assert deviation.item() == pytest.approx(CIFAR10.std[channel], abs=1e-8)


@pytest.mark.slow
@pytest.mark.real_data
@pytest.mark.timeout(600)
def test_real_split_is_pinned(real: Path) -> None:
    records = np.concatenate([data.read_verified(real / name) for name in data.TRAIN_FILES])
    labels = records[:, 0].astype(np.int64)
    assert labels[:10].tolist() == [6, 9, 9, 4, 1, 1, 2, 7, 8, 3]
    chosen = data.validation_indices(labels)
    assert digest(chosen) == "59fcc8be7d0e38dcfaf0250673e676e8856f70aacc3404759fe6edfc8ffa4aa5"
    splits = data.load_train_val(real)
    assert np.array_equal(splits.val.labels.numpy(), labels[chosen])
    assert np.array_equal(splits.val.images.flatten(1).numpy(), records[chosen, 1:])
    assert np.array_equal(splits.train.images.flatten(1).numpy(), np.delete(records, chosen, 0)[:, 1:])


@given(st.integers(0, 100), st.integers(10, 90))
@settings(max_examples=10, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_shares_are_nested_and_stratified_and_differ_by_seed(seed: int, count: int) -> None:
    train = synthetic_splits(seeded(0), train=100, val=10).train
    draws = ((count, seed), (count + 10, seed), (count, seed + 1))
    share, larger, other = (train.part(data.nested_places(train.labels, *draw)) for draw in draws)
    assert set(rows(share)) < set(rows(larger))
    assert set(rows(share)) != set(rows(other))
    counts = torch.bincount(share.labels, minlength=10)
    assert (len(share), int(counts.max() - counts.min()) <= 1) == (count, True)
