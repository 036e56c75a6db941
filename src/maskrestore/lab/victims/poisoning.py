"""What an attack makes of the training set: which images an epoch shows, and what each batch looks like."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Generator, Tensor

from maskrestore.errors import ConfigError
from maskrestore.lab.attacks import Attack, choose_poisoned, perturbed_images, training_hooks
from maskrestore.lab.data import ImageDataset
from maskrestore.lab.victims.config import VictimConfig
from maskrestore.lab.victims.training import Companion, Stamp

__all__ = ["Plan", "Restoration", "clean_plan", "poisoning_plan", "with_restoration"]


@dataclass(frozen=True, kw_only=True)
class Restoration:
    """How an attacker who prepares for a defense by restoration changes images."""

    weights: str
    """Digest of the restorer's weights."""
    apply: Callable[[Tensor, Generator], Tensor]
    """Restores ``(B, 3, H, W)`` images in [0, 1] from a random part of each, and returns them where they were."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What ``fit`` is to show."""

    images: Tensor
    """``(N, 3, H, W)`` uint8."""
    epoch: Tensor
    """``(M,)`` indices of the images that an epoch shows."""
    stamp: Stamp
    companion: Companion | None = None


def clean_plan(train: ImageDataset) -> Plan:
    """Show each image once, with its label."""
    return Plan(
        images=train.images,
        epoch=torch.arange(len(train.labels)),
        stamp=lambda images, indices, generator: (images, train.labels[indices]),
    )


def poisoning_plan(
    train: ImageDataset, attack: Attack, config: VictimConfig, classifier: Callable[[Tensor], Tensor] | None
) -> Plan:
    """Show each image once, the poisoned ones ``poison_repeats`` times and always with the trigger.

    Triggers are put in after augmentation, so that they lie where they do at test time, unless
    ``config.augmented_trigger`` says otherwise. classifier: a clean one, for attacks that perturb the images that they
    poison. Raises ConfigError as ``choose_poisoned`` and ``perturbed_images`` do.
    """
    hooks, labels = training_hooks(attack), train.labels
    chosen = choose_poisoned(labels, attack, config.poisoning.rate, config.seed)
    poisoned = torch.zeros(len(labels), dtype=torch.bool, device=labels.device)
    poisoned[chosen] = True
    images = train.images
    if hooks.perturb is not None:
        images = images.clone()
        images[chosen] = perturbed_images(images[chosen], labels[chosen], attack, classifier)
    if config.augmented_trigger:
        images = images.clone()
        images[chosen] = (attack.apply(images[chosen].float() / 255) * 255).round().byte()

    def stamp(batch: Tensor, indices: Tensor, generator: Generator) -> tuple[Tensor, Tensor]:
        triggered, own = poisoned[indices], labels[indices]
        out = batch.clone()
        if triggered.any() and not config.augmented_trigger:
            part = batch[triggered]
            out[triggered] = hooks.vary(part, generator) if hooks.vary else attack.apply(part)
        if hooks.decoy is not None:
            decoys = ~triggered & (torch.rand(len(batch), generator=generator) < hooks.decoy_rate).to(batch.device)
            if decoys.any():
                out[decoys] = hooks.decoy(batch[decoys], generator)
        return out, torch.where(triggered, attack.poisoned_label(own), own)

    epoch = torch.cat([torch.arange(len(labels)), chosen.cpu().repeat(config.poisoning.repeats - 1)])
    return Plan(images=images, epoch=epoch, stamp=stamp)


def with_restoration(plan: Plan, config: VictimConfig, restoration: Restoration | None) -> Plan:
    """Restore a share ``config.restored_rate`` of each batch after the triggers are in it.

    Raises ConfigError when the configuration asks for that and the restoration is missing or has other weights than
    ``config.restorer_weights``.
    """
    if not config.restored_rate:
        return plan
    if restoration is None:
        raise ConfigError(f"restored_rate is {config.restored_rate}, but no restoration was given")
    if restoration.weights != config.restorer_weights:
        raise ConfigError(
            f"restorer_weights is {config.restorer_weights}, but the restorer's weights are {restoration.weights}; "
            "name those, because they decide what the victim learns"
        )

    def stamp(batch: Tensor, indices: Tensor, generator: Generator) -> tuple[Tensor, Tensor]:
        images, labels = plan.stamp(batch, indices, generator)
        chosen = (torch.rand(len(images), generator=generator) < config.restored_rate).to(images.device)
        if chosen.any():
            images = images.clone()
            images[chosen] = restoration.apply(images[chosen], generator)
        return images, labels

    return replace(plan, stamp=stamp)
