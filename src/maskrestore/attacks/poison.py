"""Put a backdoor into a training set."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from maskrestore.attacks.base import Attack
from maskrestore.data.dataset import ImageDataset
from maskrestore.errors import ConfigError

__all__ = ["choose_poisoned", "poison"]


def choose_poisoned(labels: Tensor, attack: Attack, rate: float, seed: int) -> Tensor:
    """Return the sorted indices of the images to poison: a share ``rate`` of all, drawn from eligible ones.

    Raises ConfigError when the rate is not in (0, 1] or asks for more images than are eligible.
    """
    if not 0 < rate <= 1:
        raise ConfigError(f"the poison rate must be in (0, 1], got {rate}")
    candidates = attack.eligible(labels).nonzero()[:, 0]  # (K, 1) -> (K,)
    count = round(rate * len(labels))
    if count > len(candidates):
        raise ConfigError(f"a poison rate of {rate} asks for {count} images; only {len(candidates)} are eligible")
    generator = torch.Generator().manual_seed(seed)
    return candidates[torch.randperm(len(candidates), generator=generator)[:count]].sort().values


def poison(dataset: ImageDataset, attack: Attack, rate: float, seed: int) -> tuple[ImageDataset, Tensor]:
    """Return a copy of the data set in which a share ``rate`` carries trigger and label, and their indices.

    Pixels are rounded to bytes, as a stored image's are. Raises ConfigError as ``choose_poisoned`` does.
    """
    indices = choose_poisoned(dataset.labels, attack, rate, seed)
    images, labels = dataset.images.clone(), dataset.labels.clone()
    triggered = attack.apply(images[indices].float() / 255)
    images[indices] = (triggered * 255).round().clamp(0, 255).to(torch.uint8)
    labels[indices] = attack.poisoned_label(labels[indices])
    return replace(dataset, images=images, labels=labels), indices
