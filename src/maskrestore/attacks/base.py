"""What every attack is: something that puts a trigger into an image and wants a label for it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

import torch
from torch import Tensor

from maskrestore.errors import ConfigError, UnknownNameError

__all__ = ["Attack", "AttackConfig", "Mode", "poisoned_label_rule"]

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
    """Decides random colours."""
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


def poisoned_label_rule(labels: Tensor, config: AttackConfig) -> Tensor:
    """Return the target, or in the mode "all-to-all" the class after each label (Gu et al., 2019)."""
    if config.mode == "all-to-one":
        return torch.full_like(labels, config.target)
    return (labels + 1) % config.num_classes
