from __future__ import annotations

import pytest
from random_vits import random_vit
from torch import nn


@pytest.fixture(scope="module")
def vit() -> nn.Module:
    return random_vit()
