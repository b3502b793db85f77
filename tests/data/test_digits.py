import sys

import pytest
import torch

from glora.data import Preprocessing, open_data
from glora.errors import DataError


def test_digits() -> None:
    pytest.importorskip("sklearn")
    preprocessing = Preprocessing(size=8, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    data, again, other = (open_data("digits", preprocessing, seed=seed) for seed in (0, 0, 1))
    assert data.test is not None
    assert [len(part) for part in (data.train, data.val, data.test)] == [800, 200, 797]
    assert data.classes == tuple("0123456789")
    assert data.digest == again.digest != other.digest
    assert data.val.labels.bincount().min() >= 18
    images = data.train.inputs(torch.arange(800))
    assert images.shape == (800, 3, 8, 8)
    assert (images.min(), images.max()) == (0, 1)
    torch.testing.assert_close(images * 16, (images * 16).round(), atol=0.05, rtol=0)


def test_digits_without_scikit_learn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(DataError, match=r'comes with scikit-learn: pip install "glora\[demo\]"'):
        open_data("digits", Preprocessing(size=8))
