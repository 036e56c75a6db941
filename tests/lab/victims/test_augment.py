"""Augmentation of training batches."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from maskrestore.errors import ConfigError
from maskrestore.lab.victims.augment import Augmentation, augment

NOTHING = Augmentation(shift=0, flip=False)


def batch(count: int = 16) -> torch.Tensor:
    return torch.randint(0, 256, (count, 3, 12, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def run(config: Augmentation, seed: int = 0) -> torch.Tensor:
    return augment(batch(), config, torch.Generator().manual_seed(seed))


def test_without_changes_only_the_range_is_another() -> None:
    assert torch.equal(run(NOTHING), batch().float() / 255)


def test_shift_moves_each_image_as_a_whole() -> None:
    padded = F.pad(batch().float() / 255, (2, 2, 2, 2), mode="reflect")
    places = set()
    for image, wide in zip(run(Augmentation(shift=2, flip=False)), padded, strict=True):
        found = [
            (row, column)
            for row in range(5)
            for column in range(5)
            if torch.equal(image, wide[:, row : row + 12, column : column + 16])
        ]
        assert len(found) == 1
        places.add(found[0])
    assert len(places) > 5


def test_flip_mirrors_some() -> None:
    images = batch().float() / 255
    mirrored = [
        torch.equal(found, image.flip(2)) for found, image in zip(run(Augmentation(shift=0)), images, strict=True)
    ]
    kept = [torch.equal(found, image) for found, image in zip(run(Augmentation(shift=0)), images, strict=True)]
    assert all(one != other for one, other in zip(mirrored, kept, strict=True))
    assert 2 <= sum(mirrored) <= 14


def test_cutout_greys_one_square() -> None:
    changed = (run(Augmentation(shift=0, flip=False, cutout=5)) != batch().float() / 255).any(1)
    for image in changed:
        rows, columns = image.any(1).nonzero()[:, 0], image.any(0).nonzero()[:, 0]
        assert 3 <= len(rows) <= 5
        assert 3 <= len(columns) <= 5
        assert rows[-1] - rows[0] + 1 == len(rows)
        assert columns[-1] - columns[0] + 1 == len(columns)


def test_jitter_changes_light_within_the_range() -> None:
    found = run(Augmentation(shift=0, flip=False, jitter=0.5))
    assert not torch.equal(found, batch().float() / 255)
    assert found.min() >= 0
    assert found.max() <= 1


def test_the_generator_decides() -> None:
    config = Augmentation(cutout=4, jitter=0.2)
    assert torch.equal(run(config, 1), run(config, 1))
    assert not torch.equal(run(config, 1), run(config, 2))


def test_impossible_settings_are_refused() -> None:
    with pytest.raises(ConfigError, match="jitter"):
        Augmentation(jitter=1)
