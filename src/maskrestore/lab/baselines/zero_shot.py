"""ZIP, zero-shot image purification: destroy the trigger by a linear transformation, then fill in what was lost."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from maskrestore.defense.streams import Key, Stream
from maskrestore.lab.baselines.base import check
from maskrestore.lab.baselines.diffusion import STEPS, Denoiser, DiffusionDefense, gaussian, kept
from maskrestore.lab.baselines.diffusion_models import DiffusionSettings

__all__ = ["ZIP", "ZIPConfig", "blurred", "greyed"]

Projection = Callable[[Tensor], Tensor]
"""``A+ A``: what a linear transformation A keeps of an image, put back into an image. Twice is the same as once."""


@dataclass(frozen=True, kw_only=True)
class ZIPConfig(DiffusionSettings):
    """Settings of :class:`ZIP`."""

    scale: int = 2
    """Side in pixels of the blocks that are averaged: the default of the authors' code; 4 in their example at 256."""
    grey: bool = True
    """Guide by the grey image, too: the authors do so on CIFAR-10, not on GTSRB and Imagenette."""
    steps: int = 20
    """Steps of sampling, spread over the whole diffusion."""
    guidance: float = 0.98
    """lambda: the guide counts with ``1 - alpha-bar ** lambda``, less and less as the noise fades. That of the authors'
    example at 256; the default of their code is 10."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check(self.scale >= 1, "scale", "at least 1", self.scale)
        check(1 <= self.steps <= STEPS, "steps", f"between 1 and {STEPS}", self.steps)
        check(self.guidance > 0, "guidance", "positive", self.guidance)

    def build(self, key: Key = 0) -> ZIP:
        """Load the network and build the defense. Raises as ``load_denoiser`` does, and ConfigError."""
        return ZIP(self.load(), self, key=key)


def blurred(images: Tensor, scale: int) -> Tensor:
    """Average blocks of ``scale x scale`` pixels. ``(B, C, S, S)`` with ``S`` a multiple -> the same shape."""
    return F.avg_pool2d(images, scale).repeat_interleave(scale, dim=2).repeat_interleave(scale, dim=3)


def greyed(images: Tensor) -> Tensor:
    """Average the channels. ``(B, C, S, S)`` -> the same shape."""
    return images.mean(dim=1, keepdim=True).expand_as(images)


class ZIP(DiffusionDefense):
    """Generate an image whose blur and grey version are the given image's. Two queries per image: before and after.

    Sampling starts from noise; in every step, what the transformation keeps (the range of A+) is taken from the given
    image, the rest (the null space of A) from the diffusion model.

    Source: Shi et al., Black-box Backdoor Defense via Zero-shot Image Purification, 2023, section 4;
    github.com/sycny/ZIP ``preprocess/guided_diffusion/diffusion.py``.

    Departures: the authors lay 64 images of 32 pixels side by side and purify them as one of 256, so that an image's
    result depends on 63 others; here each is purified on its own by a network of its size. Their travelling back and
    forth in time is left out, as in their configuration (length 1, repeated once).
    """

    def __init__(self, denoiser: Denoiser, config: ZIPConfig | None = None, *, key: Key = 0) -> None:
        """Raises ConfigError when the network's image size is not a multiple of ``scale``."""
        self.config = ZIPConfig() if config is None else config
        super().__init__(denoiser, micro_batch=self.config.at_a_time, key=key)
        size, scale = denoiser.image_size, self.config.scale
        check(size % scale == 0, "scale", f"a divisor of the network's {size} pixels", scale)

    def restore(self, images: Tensor, streams: Sequence[Stream]) -> Tensor:
        """``(B, 3, S, S)`` in [-1, 1] and the images' random numbers -> restored images."""
        size, stride = self.denoiser.image_size, STEPS // self.config.steps
        noisy = gaussian(streams, 0, size=size)
        for index in reversed(range(self.config.steps)):
            step = index * stride
            now, after = kept(step + 1), kept(max(step - stride, -1) + 1)
            predicted = self.denoiser(noisy, step)
            guided = self._guided(images, noisy, predicted, now)
            aim = (guided - predicted * math.sqrt(1 - now)) / math.sqrt(now)
            sigma = math.sqrt((1 - after) / (1 - now) * (1 - now / after))
            fresh = gaussian(streams, 1, index, size=size)
            noisy = aim * math.sqrt(after) + predicted * math.sqrt(1 - after - sigma**2) + fresh * sigma
        return noisy

    def _guided(self, images: Tensor, noisy: Tensor, predicted: Tensor, now: float) -> Tensor:
        """Replace what the transformations keep of the noisy image by the given image's, averaged over both."""
        projections: list[Projection] = [lambda x: blurred(x, self.config.scale)]
        if self.config.grey:
            projections.append(greyed)
        # The range part of the given image, noised as the network sees it, in place of the noisy image's own.
        change = images * math.sqrt(now) + predicted * math.sqrt(1 - now) - noisy
        guide: Tensor = torch.stack([project(change) for project in projections]).mean(dim=0)
        strength: float = 1 - now**self.config.guidance
        return noisy + guide * strength
