"""Multi: a classifier with several backdoors at once. Each trigger alone gets the attacker's label.

The first trigger in the variant is the one that the attacker shows. In training each poisoned image carries one of the
triggers, drawn anew for each batch, so the order of the triggers does not matter to the classifier: the variants
"A+B" and "B+A" test the two triggers of the same one. Source: this project.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Generator, Tensor

from maskrestore.errors import ConfigError
from maskrestore.lab.attacks.base import Attack, AttackConfig, TrainingHooks, TriggerAttack, any_of, training_hooks
from maskrestore.lab.attacks.learned import LearnedAttack

__all__ = ["MultiAttack", "multi", "same_training"]

_NAME = "multi"
Make = Callable[[str, AttackConfig], Attack]
"""Builds an attack from its specification."""


class MultiAttack(TriggerAttack):
    """Adds the first of several triggers. Training adds any of them."""

    parts: dict[str, Attack]
    """The attacks by their specification, the one that is tested first."""

    def __init__(self, name: str, config: AttackConfig, parts: dict[str, Attack]) -> None:
        super().__init__(name, config, TrainingHooks(vary=self._any_part))
        self.parts = parts
        self._tested = next(iter(parts.values()))
        self._sorted = [parts[spec] for spec in sorted(parts)]

    def apply(self, images: Tensor) -> Tensor:
        """Add the first trigger to ``(B, C, H, W)`` images in [0, 1]. Raises what that attack raises."""
        return self._tested.apply(images)

    def trigger_mask(self, height: int, width: int) -> Tensor:
        """Return ``(H, W)`` bool: True at the pixels that the first trigger may change."""
        return self._tested.trigger_mask(height, width)

    def _any_part(self, images: Tensor, generator: Generator) -> Tensor:
        def change(part: Attack) -> Callable[[Tensor], Tensor]:
            vary = training_hooks(part).vary
            return part.apply if vary is None else lambda some: vary(some, generator)

        return any_of([change(part) for part in self._sorted], images, generator)


def multi(variant: str, config: AttackConfig, make: Make) -> MultiAttack:
    """Build the attack from a variant: specifications joined by "+", e.g. "badnets:2x2-white+corners".

    make: builds each of them. Raises ConfigError for fewer than two different triggers, for a position, and for an
    attack that does more in training than to add its trigger; and what ``make`` raises.
    """
    name = f"{_NAME}:{variant}" if variant else _NAME
    specs = variant.split("+")
    if len(specs) < 2 or len(set(specs)) < len(specs) or config.position is not None:
        raise ConfigError(
            f"{name} needs two or more different attacks, joined by +, and takes no position; got {variant!r} and "
            f"{config.position}"
        )
    parts = {spec: make(spec, config) for spec in specs}
    for spec, part in parts.items():
        hooks = training_hooks(part)
        if hooks.clean_label or hooks.decoy or hooks.perturb or isinstance(part, LearnedAttack | MultiAttack):
            raise ConfigError(f"{name} cannot contain {spec}, which does more in training than to add its trigger")
    return MultiAttack(name, config, parts)


def same_training(spec: str) -> str:
    """Return the specification that stands for all with the same training: for "multi", with its parts sorted."""
    name, _, variant = spec.partition(":")
    return f"{name}:{'+'.join(sorted(variant.split('+')))}" if name == _NAME else spec
