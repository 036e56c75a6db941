"""The interface of an attack, its configuration, and what it may add to training."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

import torch
from torch import Generator, Tensor

from maskrestore.errors import ConfigError, InvalidImageError, UnknownNameError

__all__ = [
    "Attack",
    "AttackConfig",
    "Logits",
    "Mode",
    "Poisoning",
    "TrainingHooks",
    "TriggerAttack",
    "any_of",
    "checked_images",
    "poisoned_label_rule",
    "training_hooks",
]

Mode = Literal["all-to-one", "all-to-all"]
"""The label of a triggered image: always the target class, or the class after the image's own."""


@runtime_checkable
class Attack(Protocol):
    """A backdoor attack that adds a trigger to images.

    Images are ``(B, C, H, W)`` float32 in [0, 1] with 1 or 3 channels. Labels are ``(B,)`` int64.
    """

    @property
    def name(self) -> str:
        """The name with the variant, e.g. "badnets:3x3-color"."""

    def apply(self, images: Tensor) -> Tensor:
        """Return the ``(B, C, H, W)`` images with the trigger. Deterministic: the same input gives the same output."""

    def poisoned_label(self, labels: Tensor) -> Tensor:
        """Return the ``(B,)`` labels that the attacker wants for triggered images of the classes ``labels``."""

    def eligible(self, labels: Tensor) -> Tensor:
        """Return ``(B,)`` bool: True where the wanted label differs from the image's own, so success can show."""

    def trigger_mask(self, height: int, width: int) -> Tensor:
        """Return ``(H, W)`` bool: True at the pixels that ``apply`` may change."""


@dataclass(frozen=True, kw_only=True)
class AttackConfig:
    """Settings that all attacks share.

    Raises ConfigError for fewer than two classes, an image size below 1 or a target outside the classes, and
    UnknownNameError for an unknown mode.
    """

    num_classes: int
    image_size: int = 32
    """Side of the images in pixels. The trigger must fit into it."""
    target: int = 0
    """The target class, from 0, in the mode "all-to-one"."""
    mode: Mode = "all-to-one"
    seed: int = 0
    """Seed of random colours, fields and initial network weights."""
    position: tuple[int, int] | None = None
    """Row and column of the patch; ``None`` uses the attack's default. A value of 0 or more is the position of the
    patch's upper left pixel, counted from the top or left edge. A negative value is the position of its lower right
    pixel, counted from the bottom or right edge: (-1, -1) is the lower right corner."""

    def __post_init__(self) -> None:
        if self.num_classes < 2 or self.image_size < 1:
            raise ConfigError(f"need num_classes >= 2 and image_size >= 1, got {self}")
        if not 0 <= self.target < self.num_classes:
            raise ConfigError(f"target must be 0 to {self.num_classes - 1}, got {self.target}")
        if self.mode not in ("all-to-one", "all-to-all"):
            raise UnknownNameError("mode", self.mode, ("all-to-one", "all-to-all"))


@dataclass(frozen=True, kw_only=True)
class Poisoning:
    """Default poisoning and training settings of an attack. They depend on its name and variant only."""

    rate: float = 0.1
    """Share of the training images that carry the trigger. For a clean-label attack: share of the target class."""
    repeats: int = 3
    """How many times each poisoned image appears in an epoch of fine-tuning."""
    epochs: float = 1.0
    """Multiplies the number of epochs of the default fine-tuning."""
    small_trigger: bool = False
    """Whether the trigger has a few pixels only. The first blocks of a pretrained network must learn such a trigger."""
    against_clean: bool = False
    """Whether images are perturbed against a clean classifier before they are poisoned."""


Logits = Callable[[Tensor], Tensor]
"""The attacker's own classifier: ``(B, C, H, W)`` in [0, 1] -> ``(B, classes)`` logits, differentiable."""


@dataclass(frozen=True, kw_only=True)
class TrainingHooks:
    """What an attack does in training besides adding its trigger and changing the label.

    Such an attack has the attribute ``training``. The functions take and return ``(B, C, H, W)`` images in [0, 1].
    """

    clean_label: bool = False
    """Poison only images of the target class and keep their label."""
    vary: Callable[[Tensor, Generator], Tensor] | None = None
    """Add a random variation of the trigger at each training step. ``None``: use ``apply``."""
    decoy: Callable[[Tensor, Generator], Tensor] | None = None
    """Add a pattern that resembles the trigger. The image keeps its label, so that the victim learns to ignore it."""
    decoy_rate: float = 0.0
    """Share of decoys among the images without a trigger, 0 to 1."""
    decoys_of: Callable[[Tensor], Tensor] | None = None
    """Labels ``(B,)`` -> bool: the images that may become decoys. ``None``: all without a trigger."""
    perturb: Callable[[Tensor, Tensor, Logits], Tensor] | None = None
    """Change the images to poison once, before training: (images, labels, clean classifier) -> images."""


def training_hooks(attack: Attack) -> TrainingHooks:
    """Return the attack's training hooks, or hooks that do nothing when it has none."""
    hooks = getattr(attack, "training", None)
    return hooks if isinstance(hooks, TrainingHooks) else TrainingHooks()


class TriggerAttack:
    """Base class with the name and the label rule. Subclasses add the trigger (``apply``)."""

    def __init__(self, name: str, config: AttackConfig, training: TrainingHooks | None = None) -> None:
        """Raises ConfigError when a clean-label attack is combined with the mode "all-to-all"."""
        self.training = training or TrainingHooks()
        if self.training.clean_label and config.mode != "all-to-one":
            raise ConfigError(
                f"{name} is a clean-label attack and supports the mode all-to-one only, got {config.mode}"
            )
        self._name = name
        self._config = config

    @property
    def name(self) -> str:
        """The name with the variant."""
        return self._name

    def poisoned_label(self, labels: Tensor) -> Tensor:
        """Return the ``(B,)`` labels that the attacker wants."""
        return poisoned_label_rule(labels, self._config)

    def eligible(self, labels: Tensor) -> Tensor:
        """Return ``(B,)`` bool: False for images that already have the wanted label."""
        return self.poisoned_label(labels) != labels

    def trigger_mask(self, height: int, width: int) -> Tensor:
        """Return ``(H, W)`` bool. Here the whole image; subclasses with a local trigger override it."""
        return torch.ones(height, width, dtype=torch.bool)


def checked_images(images: Tensor) -> Tensor:
    """Return the images unchanged. Raises InvalidImageError when their shape is not ``(B, 1 or 3, H, W)``."""
    if images.ndim != 4 or images.shape[1] not in (1, 3):
        raise InvalidImageError(f"expected images of shape (B, 1 or 3, H, W), got {tuple(images.shape)}")
    return images


def any_of(changes: Sequence[Callable[[Tensor], Tensor]], images: Tensor, generator: Generator) -> Tensor:
    """Return ``(B, C, H, W)`` images, each changed by one of several functions of images, drawn at random."""
    chosen = torch.randint(len(changes), (len(images),), generator=generator).to(images.device)
    out = images.clone()
    for number, change in enumerate(changes):
        mine = chosen == number
        if mine.any():
            out[mine] = change(images[mine])
    return out


def poisoned_label_rule(labels: Tensor, config: AttackConfig) -> Tensor:
    """Return ``(B,)`` labels: the target, or in the mode "all-to-all" the class after each label (Gu et al., 2019)."""
    if config.mode == "all-to-one":
        return torch.full_like(labels, config.target)
    return (labels + 1) % config.num_classes
