"""Adap-Patch: four symbols; training shows one of them, faintly, and the attacker shows two, opaque.

Source: Qi et al., Revisiting the Assumption of Latent Separability for Backdoor Defenses, ICLR 2023, and their code
(github.com/vtu81/backdoor-toolbox): opacities of 0.5, 0.2, 0.5 and 0.3 in training, one symbol for each poisoned
image; twice as many cover images, which show a symbol, too, and keep their label; at test time the first and the third
symbol, opaque. Departures: the symbols and their corners are this project's (a flower, a heart, a checkerboard, random
pixels); symbols and cover images are drawn anew for each batch, not once; a twentieth of the images is poisoned, not
0.3 %, because victims here are fine-tuned for a few epochs; when poisoned images are repeated in an epoch, there are
fewer cover images in proportion.
"""

from __future__ import annotations

import torch
from torch import Generator, Tensor

from maskrestore.lab.attacks.base import AttackConfig, TrainingHooks, any_of
from maskrestore.lab.attacks.icons import draw_icon
from maskrestore.lab.attacks.overlay import OverlayAttack, Patch, checkerboard, random_pixels
from maskrestore.lab.attacks.whole_image import refuse_variant

__all__ = ["adap_patch"]

_OPACITIES = (0.5, 0.2, 0.5, 0.3)
_SHOWN = (0, 2)
"""The symbols at test time."""
_COVER_RATE = 0.1


def adap_patch(variant: str, config: AttackConfig) -> OverlayAttack:
    """Build the attack. ``config.seed`` determines the random pixels.

    Raises ConfigError when a variant or a position is given, because it has neither, and for images that are smaller
    than a symbol (15 pixels).
    """
    refuse_variant("adap-patch", variant, config)
    symbols = _symbols(config.seed)
    faint = [
        OverlayAttack("adap-patch", config, [_faded(symbol, opacity)])
        for symbol, opacity in zip(symbols, _OPACITIES, strict=True)
    ]

    def one_of_them(images: Tensor, generator: Generator) -> Tensor:
        return any_of([attack.apply for attack in faint], images, generator)

    hooks = TrainingHooks(vary=one_of_them, decoy=one_of_them, decoy_rate=_COVER_RATE)
    return OverlayAttack("adap-patch", config, [symbols[number] for number in _SHOWN], hooks)


def _symbols(seed: int) -> list[Patch]:
    """Return the four symbols, opaque, each in its corner."""
    flower, heart = draw_icon("flower"), draw_icon("heart")
    return [
        Patch(pixels=flower[:3], opacity=flower[3], position=(1, -2)),
        Patch(pixels=heart[:3], opacity=heart[3], position=(-2, 1)),
        Patch(pixels=checkerboard(4, 4), opacity=torch.ones(4, 4), position=(-2, -2)),
        Patch(pixels=random_pixels(8, 8, seed), opacity=torch.ones(8, 8), position=(1, 1)),
    ]


def _faded(patch: Patch, opacity: float) -> Patch:
    return Patch(pixels=patch.pixels, opacity=opacity * patch.opacity, position=patch.position)
