"""Poison a training set."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from maskrestore.errors import ConfigError
from maskrestore.lab.attacks.base import Attack, Logits, training_hooks
from maskrestore.lab.data.dataset import ImageDataset, replacing

__all__ = ["choose_poisoned", "perturbed_images", "poison"]

_CHUNK = 128  # images per gradient computation, to bound memory


def choose_poisoned(labels: Tensor, attack: Attack, rate: float, seed: int) -> Tensor:
    """Return the sorted ``(K,)`` indices of the images to poison, drawn at random from ``labels`` ``(N,)``.

    The poison rate is the share of all images; the chosen ones are eligible. For a clean-label attack it is the
    share of the target class, and the chosen ones belong to it. Raises ConfigError when the rate is not in (0, 1] or
    exceeds the share of eligible images.
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
    """Return ``(K, C, H, W)`` uint8 images after the attack's perturbation; unchanged for attacks without one.

    Raises ConfigError when the attack needs a clean classifier and ``classifier`` is None.
    """
    perturb = training_hooks(attack).perturb
    if perturb is None:
        return images
    if classifier is None:
        raise ConfigError(f"{attack.name} perturbs images against a clean classifier; pass one as classifier, got None")
    chunks = zip(images.split(_CHUNK), labels.split(_CHUNK), strict=True)
    return torch.cat([_as_bytes(perturb(x.float() / 255, y, classifier)) for x, y in chunks])


def poison(
    dataset: ImageDataset, attack: Attack, rate: float, seed: int, *, classifier: Logits | None = None
) -> tuple[ImageDataset, Tensor]:
    """Return a poisoned copy of the data set and the sorted ``(K,)`` indices of its poisoned images.

    ``choose_poisoned`` chooses them; they get the trigger and the wanted label. Pixels are rounded to bytes, as in a
    stored image. classifier: a clean one, for attacks that perturb images before the trigger is added. Raises
    ConfigError as ``choose_poisoned`` and ``perturbed_images`` do.
    """
    indices = choose_poisoned(dataset.labels, attack, rate, seed)
    labels = dataset.labels.clone()
    changed = perturbed_images(dataset.images[indices], labels[indices], attack, classifier)
    images = replacing(dataset.images, indices, _as_bytes(attack.apply(changed.float() / 255)))
    labels[indices] = attack.poisoned_label(labels[indices])
    return replace(dataset, images=images, labels=labels), indices


def _as_bytes(images: Tensor) -> Tensor:
    return (images * 255).round().clamp(0, 255).to(torch.uint8)
