"""Label-Consistent: a clean-label attack on images that are made hard to recognise.

Poisoned images belong to the target class and keep their label. They are perturbed so that a classifier no longer
recognises them and learns the trigger instead.

Source: Turner et al., Label-Consistent Backdoor Attacks, 2019: projected gradient ascent on the loss of the
attacker's own classifier, within 16 of 255 levels; a 3x3 checkerboard in each corner. Departures: the attacker's
classifier is the clean one of this project, not an adversarially trained one, so fewer and larger steps suffice
(20 steps of 2 levels); the trigger has full contrast in training, too.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from maskrestore.lab.attacks.base import AttackConfig, Logits, TrainingHooks
from maskrestore.lab.attacks.corners import corner_attack
from maskrestore.lab.attacks.overlay import OverlayAttack
from maskrestore.lab.attacks.whole_image import refuse_variant

__all__ = ["label_consistent", "move_away"]

_BOUND = 16 / 255
_STEP = 2 / 255
_STEPS = 20


def label_consistent(variant: str, config: AttackConfig) -> OverlayAttack:
    """Build the attack. It has no variant and no position.

    Raises ConfigError when one is given, and for the mode "all-to-all", in which no class keeps its label.
    """
    refuse_variant("label-consistent", variant, config)
    return corner_attack("label-consistent", config, TrainingHooks(clean_label=True, perturb=_perturb))


def _perturb(images: Tensor, labels: Tensor, classifier: Logits) -> Tensor:
    return move_away(images, labels, classifier, bound=_BOUND, step=_STEP, steps=_STEPS)


def move_away(images: Tensor, labels: Tensor, classifier: Logits, *, bound: float, step: float, steps: int) -> Tensor:
    """Increase the loss of ``classifier`` on ``(B, C, H, W)`` images by projected signed gradient steps.

    labels: ``(B,)`` classes. The result is in [0, 1] and differs from the image by at most ``bound`` per pixel.
    Deterministic: the steps start at the image itself.
    """
    moved = images.clone()
    for _ in range(steps):
        moved = moved.detach().requires_grad_()
        loss = F.cross_entropy(classifier(moved).float(), labels, reduction="sum")
        (gradient,) = torch.autograd.grad(loss, moved)
        moved = (moved + step * gradient.sign()).clamp(images - bound, images + bound).clamp(0, 1)
    return moved.detach()
