"""Filter-proof: an adaptive attack with a blend over the whole image that outlives the defense's filters.

Against patterns over the whole image the defense tries filters and faint noise, and looks closer if the label changes.
So in training the triggered image is, at random, left alone, changed by one of the filters or by all of them, one after
the other, or given noise. It always has the target as its label.

The pattern has cells of 4x4 pixels. Of a pattern of single pixels the filter ``fine`` leaves 39 % and ``marks`` 16 %
(its share along the pattern, 40 images of CIFAR-10). The larger the cells, the more the filter ``slow`` takes: of cells
of 8x8 pixels it leaves 41 %. With 4x4 each filter leaves at least 65 %, and all together leave 45 %, the most of the
sizes tried (1 to 8 pixels).

Source: this project; designed against this defense. The blend is that of ``blended:full`` (Chen et al., 2017).
"""

from __future__ import annotations

import functools

import torch
from torch import Generator, Tensor

from maskrestore.defense.beyond_paper.filters import FILTERS, filtered
from maskrestore.errors import ConfigError
from maskrestore.lab.attacks.base import AttackConfig, TrainingHooks, any_of, checked_images
from maskrestore.lab.attacks.blended import blend
from maskrestore.lab.attacks.overlay import parse_share, parse_size, random_pixels
from maskrestore.lab.attacks.whole_image import WholeImageAttack

__all__ = ["filter_proof"]

_CELL = "4x4"
_OPACITY = 0.2
_NOISE = 0.05
"""Standard deviation: that of the stronger noise of the defense."""


def filter_proof(variant: str, config: AttackConfig) -> WholeImageAttack:
    """Build the attack from a variant: the size of a cell in pixels, "@" and the opacity, e.g. "4x4@0.2".

    An empty part takes its default: 4x4 pixels, 0.2. ``config.seed`` determines the colours. Raises ConfigError for any
    other variant, and for a position, because the pattern covers the whole image.
    """
    name = f"filter-proof:{variant}" if variant else "filter-proof"
    size, _, share = variant.partition("@")
    rows, columns = parse_size(size or _CELL, name)
    opacity = parse_share(share, _OPACITY, name)
    if config.position is not None:
        raise ConfigError(f"{name} covers the whole image and takes no position, got {config.position}")
    pattern = _cells(rows, columns, config)

    def triggered(images: Tensor) -> Tensor:
        return blend(images, pattern, opacity)

    def as_the_defense_changes_it(images: Tensor, generator: Generator) -> Tensor:
        def noisy(some: Tensor) -> Tensor:
            return (some + _NOISE * torch.randn(some.shape, generator=generator).to(some)).clamp(0, 1)

        one = [functools.partial(filtered, name=key) for key in FILTERS]
        return any_of([_unchanged, *one, _filtered_by_all, noisy], triggered(checked_images(images)), generator)

    return WholeImageAttack(name, config, triggered, TrainingHooks(vary=as_the_defense_changes_it))


def _cells(rows: int, columns: int, config: AttackConfig) -> Tensor:
    """Return ``(3, S, S)``: cells of ``rows x columns`` pixels, each of a random colour. S: ``config.image_size``."""
    side = config.image_size
    colours = random_pixels(-(-side // rows), -(-side // columns), config.seed)
    return colours.repeat_interleave(rows, 1).repeat_interleave(columns, 2)[:, :side, :side]


def _unchanged(images: Tensor) -> Tensor:
    return images


def _filtered_by_all(images: Tensor) -> Tensor:
    return functools.reduce(filtered, FILTERS, images)
