import numpy as np
import pytest
import torch
from pictures import picture
from PIL import Image
from torchvision import transforms

from glora.data import Preprocessing
from glora.errors import DataError

MODES = {
    "nearest": transforms.InterpolationMode.NEAREST,
    "bilinear": transforms.InterpolationMode.BILINEAR,
    "bicubic": transforms.InterpolationMode.BICUBIC,
    "lanczos": transforms.InterpolationMode.LANCZOS,
}


def ours(preprocessing: Preprocessing, image: Image.Image) -> torch.Tensor:
    return preprocessing.normalise(preprocessing.pixels(image)[None])[0]


@pytest.mark.parametrize("shape", [(50, 37), (37, 50), (32, 32), (5, 90)])
@pytest.mark.parametrize("interpolation", MODES)
def test_squash_equals_torchvision(shape: tuple[int, int], interpolation: str) -> None:
    preprocessing = Preprocessing(size=32, interpolation=interpolation)
    oracle = transforms.Compose(
        [
            transforms.Resize((32, 32), MODES[interpolation]),
            transforms.ToTensor(),
            transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ]
    )
    image = picture(1, *shape)
    assert torch.equal(ours(preprocessing, image), oracle(image))


@pytest.mark.parametrize("shape", [(60, 37), (37, 61), (41, 41), (120, 33)])
def test_crop_equals_torchvision(shape: tuple[int, int]) -> None:
    preprocessing = Preprocessing(size=28, resize="crop", mean=(0.5, 0.4, 0.3), std=(0.5, 0.6, 0.7))
    oracle = transforms.Compose(
        [
            transforms.Resize(32, MODES["bicubic"]),
            transforms.CenterCrop(28),
            transforms.ToTensor(),
            transforms.Normalize((0.5, 0.4, 0.3), (0.5, 0.6, 0.7)),
        ]
    )
    image = picture(2, *shape)
    assert torch.equal(ours(preprocessing, image), oracle(image))


@pytest.mark.parametrize("resize", ["squash", "crop"])
@pytest.mark.parametrize("shape", [(1, 3_000_000), (3_000_000, 1)])
def test_extreme_shapes_cost_little(shape: tuple[int, int], resize: str) -> None:
    pixels = Preprocessing(size=16, resize=resize).pixels(Image.new("RGB", shape, (10, 20, 30)))
    assert torch.equal(pixels, torch.tensor([10, 20, 30], dtype=torch.uint8).view(3, 1, 1).expand(3, 16, 16))


def test_normalise_in_other_precisions() -> None:
    preprocessing = Preprocessing(size=4)
    batch = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (2, 3, 4, 4), dtype=np.uint8))
    mean, std = (torch.tensor(v, dtype=torch.float64).view(3, 1, 1) for v in (preprocessing.mean, preprocessing.std))
    exact = (batch.double() / 255 - mean) / std
    torch.testing.assert_close(preprocessing.normalise(batch, torch.float64), exact, rtol=1e-14, atol=1e-14)
    assert torch.equal(preprocessing.normalise(batch, torch.bfloat16), preprocessing.normalise(batch).bfloat16())
    with pytest.raises(DataError, match=r"pixels are uint8 \(N, 3, H, W\), not torch.float32"):
        preprocessing.normalise(batch.float())


@pytest.mark.parametrize("resize", ["squash", "crop"])
def test_dictionary_round_trip(resize: str) -> None:
    preprocessing = Preprocessing(size=196, mean=(0.5, 0.5, 0.5), interpolation="lanczos", resize=resize)
    assert Preprocessing.from_dict(preprocessing.to_dict()) == preprocessing
    assert ("crop_ratio" in preprocessing.to_dict()) == (resize == "crop")


def test_dictionary_is_strict() -> None:
    good = Preprocessing().to_dict()
    with pytest.raises(DataError, match="lacks std and has unknown sdt: its keys are size, mean"):
        Preprocessing.from_dict({("sdt" if key == "std" else key): value for key, value in good.items()})
    with pytest.raises(DataError, match="lacks crop_ratio"):
        Preprocessing.from_dict(good | {"resize": "crop"})
    with pytest.raises(DataError, match="a mapping is needed, not list"):
        Preprocessing.from_dict([])


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"size": 0}, "size is a whole number of pixels, not 0"),
        ({"size": 2.5}, "size is a whole number"),
        ({"mean": (0.5, 0.5)}, "mean is three numbers"),
        ({"mean": (0.5, 0.5, float("nan"))}, "mean is three numbers"),
        ({"std": (0.5, 0.5, 0.0)}, "std must be positive"),
        ({"interpolation": "cubic"}, "interpolation 'cubic' is none of nearest"),
        ({"resize": "pad"}, "resize 'pad' is none of squash, crop, squash-crop"),
        ({"crop_ratio": 1.5}, "crop_ratio is above 0 and at most 1"),
    ],
)
def test_bad_settings(values: dict, message: str) -> None:
    with pytest.raises(DataError, match=message):
        Preprocessing(**values)
