"""The sealed test images of a study, for vendors to label."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path

from cifar_core.data import Split, load_test
from cifar_core.data.data_set import CIFAR10, DataSet
from cifar_core.data.download import default_data_dir, ensure_cifar10
from cifar_core.data.picture_cache import require_cached


def sealed_test(data_set: DataSet, cifar10: Path | None = None) -> Callable[[], Split]:
    """Find the test images of a data set; the function that is returned loads them.

    Args:
        cifar10: the folder with the files of CIFAR-10; by default the one in the cache.

    Raises:
        DataError: they are one's own, and no longer in the cache; or CIFAR-10 cannot be had.
    """
    if data_set.sha256 == CIFAR10.sha256:
        ensure_cifar10(cifar10 or default_data_dir(), lambda *_: None)
        return functools.partial(load_test, cifar10 or default_data_dir())
    return require_cached(data_set.sha256, data_set.name).load_test
