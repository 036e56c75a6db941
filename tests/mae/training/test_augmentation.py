import pytest
import torch

from maskrestore.errors import ConfigError
from maskrestore.mae.training.augmentation import AUGMENTATIONS, Augmentation, augment, random_parts

NOTHING = Augmentation(flip=False, jitter=0)


def images(count: int = 64) -> torch.Tensor:
    return torch.rand(count, 3, 12, 16, generator=torch.Generator().manual_seed(0))


def ramps(count: int = 64) -> torch.Tensor:
    """The place of each pixel's centre: across in the first channel, down in the second, 0.5 in the third."""
    across = ((torch.arange(16) + 0.5) / 16).expand(12, 16)
    down = ((torch.arange(12) + 0.5) / 12).view(-1, 1).expand(12, 16)
    return torch.stack([across, down, torch.full((12, 16), 0.5)]).repeat(count, 1, 1, 1)


def changed(pixels: torch.Tensor, config: Augmentation, seed: int = 0) -> torch.Tensor:
    return augment(pixels, config, torch.Generator().manual_seed(seed))


def test_nothing_changes_nothing() -> None:
    assert torch.equal(changed(images(), NOTHING), images())


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_shape_range_and_the_generator_decides(name: str) -> None:
    config = AUGMENTATIONS[name]
    found = changed(images(), config)
    assert found.shape == images().shape
    assert found.dtype == torch.float32
    assert found.min() >= 0
    assert found.max() <= 1
    assert torch.equal(found, changed(images(), config))
    assert not torch.equal(found, changed(images(), config, 1))
    assert len({float(image.mean()) for image in changed(images(1).expand(64, -1, -1, -1), config)}) == 64


def test_a_crop_is_a_part_enlarged_within_its_limits() -> None:
    found = changed(ramps(500), Augmentation(flip=False, jitter=0, crop=0.35))
    inner = found[:, :, 3:-3, 3:-3]  # bilinear values at the border of the image are those of its last pixel
    across, down = inner[:, 0], inner[:, 1]
    assert torch.allclose(across, across[:, :1].expand_as(across), atol=1e-5)
    assert torch.allclose(down, down[:, :, :1].expand_as(down), atol=1e-5)
    width = (across[:, 0, -1] - across[:, 0, 0]) / (9 / 16)  # ten pixels, nine distances
    height = (down[:, -1, 0] - down[:, 0, 0]) / (5 / 12)
    area, aspect = width * height, width / height
    assert area.min() > 0.34
    assert area.min() < 0.4
    assert area.max() > 0.9
    assert max(width.max(), height.max()) < 1.001
    assert aspect.min() > 0.749
    assert aspect.min() < 0.8
    assert aspect.max() < 1.334
    assert aspect.max() > 1.25
    centre = across.mean((1, 2))
    assert centre.min() < 0.4
    assert centre.max() > 0.6
    assert (centre - 0.5).abs().max() < (1 - width.min()) / 2 + 0.01


def test_flip_mirrors_half_of_the_images() -> None:
    found = changed(images(200), Augmentation(jitter=0))
    mirrored = (found == images(200).flip(3)).flatten(1).all(1)
    kept = (found == images(200)).flatten(1).all(1)
    assert (mirrored ^ kept).all()
    assert 70 < mirrored.sum() < 130


def test_joined_images_are_two_with_one_straight_cut() -> None:
    original = images(400)
    found = changed(original, Augmentation(flip=False, jitter=0, join=0.5))
    own, others = (found == original).all(1), (found == original.roll(1, 0)).all(1)
    assert (own ^ others).all()
    joined = others.flatten(1).any(1)
    assert 150 < joined.sum() < 250
    share = others[joined].float().mean((1, 2))
    assert share.min() >= 0.18
    assert share.max() <= 0.82
    vertical, horizontal = (others[joined].all(side).any(1) for side in (1, 2))
    assert (vertical ^ horizontal).all()
    assert min(vertical.sum(), horizontal.sum()) > 50


def test_saturation_keeps_brightness_and_grey_and_a_gain_is_one_for_each_channel() -> None:
    pixels = 0.3 + 0.4 * images()
    found = changed(pixels, Augmentation(flip=False, jitter=0, saturation=0.5))
    torch.testing.assert_close(found.mean(1), pixels.mean(1))
    spread = (found[:, 0] - found[:, 1]) / (pixels[:, 0] - pixels[:, 1])
    factors = spread.flatten(1).median(1).values
    assert factors.min() > 0.49
    assert factors.max() < 1.51
    assert factors.std() > 0.2
    found = changed(pixels, Augmentation(flip=False, jitter=0, gain=0.2))
    ratio = (found / pixels).flatten(2)
    torch.testing.assert_close(ratio, ratio[:, :, :1].expand_as(ratio))
    assert 0.79 < ratio.min() < 0.85
    assert 1.15 < ratio.max() < 1.21
    assert (ratio[:, 0, 0] - ratio[:, 1, 0]).abs().max() > 0.1


@pytest.mark.parametrize("settings", [{"crop": 0}, {"crop": 1.1}, {"join": -0.1}, {"saturation": 2}, {"gain": -1}])
def test_impossible_settings_are_refused(settings: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=next(iter(settings))):
        Augmentation(**settings)


def test_random_parts_are_never_enlarged() -> None:
    place = torch.arange(40, dtype=torch.uint8).mul(6).expand(40, 40)
    pictures = torch.stack([place, place.T, place]).expand(300, -1, -1, -1)
    found = random_parts(pictures, 20, torch.Generator().manual_seed(0))
    assert found.shape == (300, 3, 20, 20)
    assert found.dtype == torch.uint8
    inner = found[:, :, 2:-2, 2:-2].float()  # antialiasing shifts the outermost pixels
    across = (inner[:, 0, 0, -1] - inner[:, 0, 0, 0]) / 15 / 6  # pixels of the picture for each pixel of the part
    down = (inner[:, 1, -1, 0] - inner[:, 1, 0, 0]) / 15 / 6
    for scale in (across, down):
        assert scale.min() > 0.95
        assert scale.min() < 1.05
        assert scale.max() > 1.9
    assert (across / down).max() < 4 / 3 + 0.1
    assert random_parts(pictures, 40, torch.Generator().manual_seed(0)).equal(pictures)


def test_some_images_lose_their_colours() -> None:
    found = changed(images(400), Augmentation(flip=False, jitter=0, grey=0.25))
    grey = (found == found[:, :1]).flatten(1).all(1)
    assert 60 < grey.sum() < 140
    assert torch.equal(found[~grey], images(400)[~grey])
    assert torch.allclose(found[grey], images(400)[grey].mean(1, keepdim=True).expand(-1, 3, -1, -1))
