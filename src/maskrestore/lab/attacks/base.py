"""What every attack is: something that puts a trigger into an image and wants a label for it."""

from __future__ import annotations

from collections.abc import Callable
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
    "checked_images",
    "poisoned_label_rule",
    "training_hooks",
]

Mode = Literal["all-to-one", "all-to-all"]
"""Which label a triggered image gets: always the target, or the one after its own."""


@runtime_checkable
class Attack(Protocol):
    """A backdoor attack by a trigger that is put into the image.

    ``B`` images of ``C`` channels (1 or 3) and ``H x W`` pixels, float32 in [0, 1]; labels are int64.
    """

    @property
    def name(self) -> str:
        """The attack with its variant, e.g. "badnets:3x3-color"."""

    def apply(self, images: Tensor) -> Tensor:
        """Return ``(B, C, H, W)`` images with the trigger in them; the same for the same images, always."""

    def poisoned_label(self, labels: Tensor) -> Tensor:
        """Return the ``(B,)`` labels that the attacker wants for triggered images of these classes."""

    def eligible(self, labels: Tensor) -> Tensor:
        """Return ``(B,)`` bool: True where a triggered image can show success, i.e. wants another label."""

    def trigger_mask(self, height: int, width: int) -> Tensor:
        """Return ``(H, W)`` bool: True at the pixels that ``apply`` may change."""


@dataclass(frozen=True, kw_only=True)
class AttackConfig:
    """What all attacks have in common."""

    num_classes: int
    image_size: int = 32
    """Side of the images, against which the size and the place of a trigger are checked."""
    target: int = 0
    """The class that triggered images go to, in the mode "all-to-one"."""
    mode: Mode = "all-to-one"
    seed: int = 0
    """Decides random colours, fields and networks."""
    position: tuple[int, int] | None = None
    """Row and column of a patch's upper left pixel; negative ones are those of its lower right pixel, counted
    from the lower right corner, so that (-1, -1) is the very corner. ``None`` is the attack's own place."""

    def __post_init__(self) -> None:
        if self.num_classes < 2 or self.image_size < 1:
            raise ConfigError(f"need num_classes >= 2 and image_size >= 1, got {self}")
        if not 0 <= self.target < self.num_classes:
            raise ConfigError(f"target must be 0 to {self.num_classes - 1}, got {self.target}")
        if self.mode not in ("all-to-one", "all-to-all"):
            raise UnknownNameError("mode", self.mode, ("all-to-one", "all-to-all"))


@dataclass(frozen=True, kw_only=True)
class Poisoning:
    """How much of a training an attack takes by default. It is known by the attack's name alone."""

    rate: float = 0.1
    """Share of the training images that carry the trigger; for an attack with clean labels, of the images of the
    target class."""
    repeats: int = 3
    """How often a poisoned image comes up in an epoch of a fine-tune."""
    epochs: float = 1.0
    """Factor to the epochs of the default fine-tune."""
    against_clean: bool = False
    """Whether images are perturbed against a clean classifier before they are poisoned."""


Logits = Callable[[Tensor], Tensor]
"""A classifier that the attacker has for himself: ``(B, C, H, W)`` in [0, 1] -> logits, with gradients."""


@dataclass(frozen=True, kw_only=True)
class TrainingHooks:
    """What an attack does in training beyond its trigger and another label. An attack that does has one of these
    as its attribute ``training``; the functions take ``(B, C, H, W)`` images in [0, 1] and return such."""

    clean_label: bool = False
    """Poison only images of the target class, which keep their label."""
    vary: Callable[[Tensor, Generator], Tensor] | None = None
    """The trigger as it is shown in training, another way each time; ``None`` is ``apply``."""
    decoy: Callable[[Tensor, Generator], Tensor] | None = None
    """Something like the trigger that must not work: the image keeps its label."""
    decoy_rate: float = 0.0
    """Share of decoys among the images without a trigger."""
    perturb: Callable[[Tensor, Tensor, Logits], Tensor] | None = None
    """Change the images to be poisoned once, before training: (images, labels, a clean classifier) -> images."""


def training_hooks(attack: Attack) -> TrainingHooks:
    """Return the attack's hooks; those of an attack that has none do nothing."""
    hooks = getattr(attack, "training", None)
    return hooks if isinstance(hooks, TrainingHooks) else TrainingHooks()


class TriggerAttack:
    """The part that all attacks share: a name, and which label an image gets. Subclasses add the trigger."""

    def __init__(self, name: str, config: AttackConfig, training: TrainingHooks | None = None) -> None:
        """Raise ConfigError when clean labels are to be combined with the mode "all-to-all"."""
        self.training = training or TrainingHooks()
        if self.training.clean_label and config.mode != "all-to-one":
            raise ConfigError(f"{name} keeps the labels of the target class; it has the mode all-to-one only")
        self._name = name
        self._config = config

    @property
    def name(self) -> str:
        """The attack with its variant."""
        return self._name

    def poisoned_label(self, labels: Tensor) -> Tensor:
        """Return the ``(B,)`` labels that the attacker wants."""
        return poisoned_label_rule(labels, self._config)

    def eligible(self, labels: Tensor) -> Tensor:
        """Return ``(B,)`` bool: False for images that have the wanted label anyway."""
        return self.poisoned_label(labels) != labels

    def trigger_mask(self, height: int, width: int) -> Tensor:
        """Return ``(H, W)`` bool: the whole image, unless a subclass knows better."""
        return torch.ones(height, width, dtype=torch.bool)


def checked_images(images: Tensor) -> Tensor:
    """Return the images; raises InvalidImageError when they are not ``(B, 1 or 3, H, W)``."""
    if images.ndim != 4 or images.shape[1] not in (1, 3):
        raise InvalidImageError(f"expected images (B, 1 or 3, H, W), got {tuple(images.shape)}")
    return images


def poisoned_label_rule(labels: Tensor, config: AttackConfig) -> Tensor:
    """Return the target, or in the mode "all-to-all" the class after each label (Gu et al., 2019)."""
    if config.mode == "all-to-one":
        return torch.full_like(labels, config.target)
    return (labels + 1) % config.num_classes
