"""Put a backdoor into a training set."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from maskrestore.errors import ConfigError
from maskrestore.lab.attacks.base import Attack, Logits, training_hooks
from maskrestore.lab.data.dataset import ImageDataset

__all__ = ["choose_poisoned", "perturbed_images", "poison"]

_CHUNK = 128  # images whose gradients are in memory at once


def choose_poisoned(labels: Tensor, attack: Attack, rate: float, seed: int) -> Tensor:
    """Return the sorted indices of the images to poison: a share ``rate`` of all, drawn from eligible ones.

    For an attack with clean labels: a share ``rate`` of the images of the target class, drawn from those. Raises
    ConfigError when the rate is not in (0, 1] or asks for more images than there are.
    """
    if not 0 < rate <= 1:
        raise ConfigError(f"the poison rate must be in (0, 1], got {rate}")
    eligible = attack.eligible(labels)
    clean_label = training_hooks(attack).clean_label
    candidates = (~eligible if clean_label else eligible).nonzero()[:, 0]  # (K, 1) -> (K,)
    count = round(rate * (len(candidates) if clean_label else len(labels)))
    if count > len(candidates):
        raise ConfigError(f"a poison rate of {rate} asks for {count} images; only {len(candidates)} are eligible")
    generator = torch.Generator().manual_seed(seed)
    return candidates[torch.randperm(len(candidates), generator=generator)[:count]].sort().values


def perturbed_images(images: Tensor, labels: Tensor, attack: Attack, classifier: Logits | None) -> Tensor:
    """Return ``(K, C, H, W)`` uint8 images as the attack changes them before training: most leave them as they are.

    Raises ConfigError when the attack needs a clean classifier for that and there is none.
    """
    perturb = training_hooks(attack).perturb
    if perturb is None:
        return images
    if classifier is None:
        raise ConfigError(f"{attack.name} perturbs images against a clean classifier; none was given")
    parts = zip(images.split(_CHUNK), labels.split(_CHUNK), strict=True)
    return torch.cat([_as_bytes(perturb(part.float() / 255, own, classifier)) for part, own in parts])


def poison(
    dataset: ImageDataset, attack: Attack, rate: float, seed: int, *, classifier: Logits | None = None
) -> tuple[ImageDataset, Tensor]:
    """Return a copy of the data set in which a share ``rate`` carries trigger and label, and their indices.

    Pixels are rounded to bytes, as a stored image's are. classifier: a clean one, for attacks that perturb
    images before the trigger comes in. Raises ConfigError as ``choose_poisoned`` and ``perturbed_images`` do.
    """
    indices = choose_poisoned(dataset.labels, attack, rate, seed)
    images, labels = dataset.images.clone(), dataset.labels.clone()
    changed = perturbed_images(images[indices], labels[indices], attack, classifier)
    images[indices] = _as_bytes(attack.apply(changed.float() / 255))
    labels[indices] = attack.poisoned_label(labels[indices])
    return replace(dataset, images=images, labels=labels), indices


def _as_bytes(images: Tensor) -> Tensor:
    return (images * 255).round().clamp(0, 255).to(torch.uint8)
