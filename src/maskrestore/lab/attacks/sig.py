"""SIG: a faint sinusoid of vertical bars over the whole image.

Source: Barni et al., A New Backdoor Attack in CNNs by Training Set Corruption Without Label Poisoning, 2019:
``v(i, j) = delta * sin(2 pi j f / m)`` for row i and column j = 1..m, with f = 6 and delta = 20 of 255 levels.
The original poisons images of the target class and keeps their labels: the variant "clean-label". Train it from
scratch. Fine-tuning a clean classifier does not learn it, because the classifier recognises those images already.
Departure: without a variant, poisoned images come from the other classes and get the target's label.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from maskrestore.errors import ConfigError
from maskrestore.lab.attacks.base import AttackConfig, TrainingHooks
from maskrestore.lab.attacks.whole_image import AdditiveAttack

__all__ = ["sig"]

_AMPLITUDE = 20 / 255
_FREQUENCY = 6


def sig(variant: str, config: AttackConfig) -> AdditiveAttack:
    """Build the attack from the variant "" or "clean-label".

    Raises ConfigError for another variant, for a position, and for "clean-label" with the mode "all-to-all".
    """
    if variant not in ("", "clean-label") or config.position is not None:
        raise ConfigError(
            f"sig takes the variant clean-label or none, and no position; got {variant!r} and {config.position}"
        )
    name = f"sig:{variant}" if variant else "sig"
    return AdditiveAttack(name, config, _bars, TrainingHooks(clean_label=bool(variant)))


def _bars(height: int, width: int) -> Tensor:
    columns = torch.arange(1, width + 1, dtype=torch.float64)
    wave = _AMPLITUDE * torch.sin(2 * math.pi * _FREQUENCY * columns / width)
    return wave.float().expand(3, height, width)
