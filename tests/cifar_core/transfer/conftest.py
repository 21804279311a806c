from __future__ import annotations

import pytest

from cifar_core.transfer.backbone import Backbone
from tests.cifar_core.transfer.support import small_backbone


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Backbone:
    return small_backbone(tmp_path_factory.mktemp("backbone"))
