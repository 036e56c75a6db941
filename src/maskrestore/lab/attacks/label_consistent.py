"""Label-Consistent: poisoned images are of the target class and keep their label; they are made hard to recognise,
so that the classifier learns the trigger instead.

Source: Turner et al., Label-Consistent Backdoor Attacks, 2019: images of the target class, moved away from it by
projected gradient ascent on the loss of a classifier of the attacker's own, within 16 of 255 levels; a 3x3
checkerboard in each corner. Departures: that classifier is the clean one of this project, not an adversarially
trained one, so fewer and longer steps do (20 of 2 levels); the trigger has full contrast in training, too.
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
    """Build the attack. It has no variants and no position: raises ConfigError when one is given, and for the
    mode "all-to-all", in which no class keeps its label."""
    refuse_variant("label-consistent", variant, config)
    return corner_attack("label-consistent", config, TrainingHooks(clean_label=True, perturb=_perturb))


def _perturb(images: Tensor, labels: Tensor, classifier: Logits) -> Tensor:
    return move_away(images, labels, classifier, bound=_BOUND, step=_STEP, steps=_STEPS)


def move_away(images: Tensor, labels: Tensor, classifier: Logits, *, bound: float, step: float, steps: int) -> Tensor:
    """Raise the loss of ``classifier`` on ``(B, C, H, W)`` images by signed gradient steps.

    The result is in [0, 1] and within ``bound`` of the image at each pixel. It starts at the image itself, so
    that nothing is random.
    """
    moved = images.clone()
    for _ in range(steps):
        moved = moved.detach().requires_grad_()
        loss = F.cross_entropy(classifier(moved).float(), labels, reduction="sum")
        (gradient,) = torch.autograd.grad(loss, moved)
        moved = (moved + step * gradient.sign()).clamp(images - bound, images + bound).clamp(0, 1)
    return moved.detach()
