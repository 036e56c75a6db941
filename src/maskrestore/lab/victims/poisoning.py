"""Poisoned training: which images an epoch contains, and how the attack changes each batch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Generator, Tensor

from maskrestore.errors import ConfigError
from maskrestore.lab.attacks import Attack, choose_poisoned, perturbed_images, training_hooks
from maskrestore.lab.data import ImageDataset, replacing
from maskrestore.lab.victims.config import VictimConfig
from maskrestore.lab.victims.fit import Companion, Stamp, TrainingImages

__all__ = ["Plan", "Restoration", "clean_plan", "poisoning_plan", "with_restoration"]


@dataclass(frozen=True, kw_only=True)
class Restoration:
    """The restoration of training images by an attacker who adapts to a defense by restoration."""

    weights: str
    """Digest of the restorer's weights."""
    apply: Callable[[Tensor, Generator], Tensor]
    """Restores ``(B, 3, H, W)`` images in [0, 1] from a random part of each. The result is on the same device."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The images and labels that ``fit`` trains on."""

    images: TrainingImages
    """``(N, 3, H, W)`` uint8, or activations ``(N, C, h, w)``."""
    epoch: Tensor
    """``(M,)`` int64: indices of the images of an epoch, with repetitions."""
    stamp: Stamp
    """Adds triggers to a batch and returns its labels."""
    companion: Companion | None = None
    """What is trained together with the network."""


def clean_plan(train: ImageDataset) -> Plan:
    """Return a plan that shows each image once per epoch, with its label."""
    return Plan(
        images=train.images,
        epoch=torch.arange(len(train.labels)),
        stamp=lambda images, indices, generator: (images, train.labels[indices]),
    )


def poisoning_plan(
    train: ImageDataset, attack: Attack, config: VictimConfig, classifier: Callable[[Tensor], Tensor] | None
) -> Plan:
    """Return a plan that shows clean images once per epoch and poisoned ones ``poison_repeats`` times.

    Poisoned images always carry the trigger. It is added after augmentation, at the same position as at test time,
    unless ``config.augmented_trigger`` is set. classifier: a clean one, for attacks that perturb images before they
    poison them. Raises ConfigError as ``choose_poisoned`` and ``perturbed_images`` do.
    """
    hooks, labels = training_hooks(attack), train.labels
    chosen = choose_poisoned(labels, attack, config.poisoning.rate, config.seed)
    poisoned = torch.zeros(len(labels), dtype=torch.bool, device=labels.device)
    poisoned[chosen] = True
    images = train.images
    if hooks.perturb is not None:
        images = replacing(images, chosen, perturbed_images(images[chosen], labels[chosen], attack, classifier))
    if config.augmented_trigger:
        images = replacing(images, chosen, (attack.apply(images[chosen].float() / 255) * 255).round().byte())

    def stamp(batch: Tensor, indices: Tensor, generator: Generator) -> tuple[Tensor, Tensor]:
        triggered, true_labels = poisoned[indices], labels[indices]
        out = batch.clone()
        if triggered.any() and not config.augmented_trigger:
            part = batch[triggered]
            out[triggered] = hooks.vary(part, generator) if hooks.vary else attack.apply(part)
        if hooks.decoy is not None:
            decoys = ~triggered & (torch.rand(len(batch), generator=generator) < hooks.decoy_rate).to(batch.device)
            if hooks.decoys_of is not None:
                decoys &= hooks.decoys_of(true_labels)
            if decoys.any():
                out[decoys] = hooks.decoy(batch[decoys], generator)
        return out, torch.where(triggered, attack.poisoned_label(true_labels), true_labels)

    epoch = torch.cat([torch.arange(len(labels)), chosen.cpu().repeat(config.poisoning.repeats - 1)])
    return Plan(images=images, epoch=epoch, stamp=stamp)


def with_restoration(plan: Plan, config: VictimConfig, restoration: Restoration | None) -> Plan:
    """Return a plan that restores a share ``config.restored_rate`` of each batch after adding the triggers.

    With a rate of 0, returns ``plan``. Otherwise raises ConfigError when the restoration is missing or has other
    weights than ``config.restorer_weights``.
    """
    if not config.restored_rate:
        return plan
    if restoration is None:
        raise ConfigError(f"restored_rate is {config.restored_rate}, but no restoration was given; pass one")
    if restoration.weights != config.restorer_weights:
        raise ConfigError(
            f"restorer_weights is {config.restorer_weights}, but the restorer's weights are {restoration.weights}; "
            "set restorer_weights to them, because the victim depends on them"
        )

    def stamp(batch: Tensor, indices: Tensor, generator: Generator) -> tuple[Tensor, Tensor]:
        images, labels = plan.stamp(batch, indices, generator)
        chosen = (torch.rand(len(images), generator=generator) < config.restored_rate).to(images.device)
        if chosen.any():
            images = images.clone()
            images[chosen] = restoration.apply(images[chosen], generator)
        return images, labels

    return replace(plan, stamp=stamp)
