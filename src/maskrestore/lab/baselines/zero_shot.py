"""ZIP, zero-shot image purification: destroy the trigger by a linear transformation, then restore the lost content."""

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
"""``A+ A``: projects an image onto the part that the linear transformation A preserves. Idempotent."""


@dataclass(frozen=True, kw_only=True)
class ZIPConfig(DiffusionSettings):
    """Settings of :class:`ZIP`. Raises ConfigError for a setting out of range."""

    scale: int = 2
    """Side of the averaged blocks in pixels: 2 is the default of the authors' code; their example at 256 pixels has
    4."""
    grey: bool = True
    """Whether the grey image guides as well. The authors do this on CIFAR-10, not on GTSRB and Imagenette."""
    steps: int = 20
    """Number of sampling steps, 1 to 1000, spread over the whole diffusion."""
    guidance: float = 0.98
    """lambda: the guidance has the weight ``1 - alpha-bar ** lambda``, which falls as the noise decreases. 0.98 is the
    value of the authors' example at 256 pixels; the default of their code is 10."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check(self.scale >= 1, "scale", "at least 1", self.scale)
        check(1 <= self.steps <= STEPS, "steps", f"between 1 and {STEPS}", self.steps)
        check(self.guidance > 0, "guidance", "positive", self.guidance)

    def build(self, key: Key = 0) -> ZIP:
        """Load the network and build the defense. Raises what ``load_denoiser`` and :class:`ZIP` raise."""
        return ZIP(self.load(), self, key=key)


def blurred(images: Tensor, scale: int) -> Tensor:
    """Average blocks of ``scale x scale`` pixels. ``(B, C, S, S)``, S a multiple of ``scale`` -> the same shape."""
    return F.avg_pool2d(images, scale).repeat_interleave(scale, dim=2).repeat_interleave(scale, dim=3)


def greyed(images: Tensor) -> Tensor:
    """Average the channels. ``(B, C, S, S)`` -> the same shape."""
    return images.mean(dim=1, keepdim=True).expand_as(images)


class ZIP(DiffusionDefense):
    """Generates an image with the blurred and grey versions of the given one. Two queries per image: before and after.

    Sampling starts from noise. In every step, the part that the transformation preserves (the range of A+) comes from
    the given image, the rest (the null space of A) from the diffusion model.

    Source: Shi et al., Black-box Backdoor Defense via Zero-shot Image Purification, 2023, section 4;
    github.com/sycny/ZIP ``preprocess/guided_diffusion/diffusion.py``.

    Departures: the authors tile 64 images of 32 pixels into one of 256 and purify it, so that the result for an image
    depends on 63 others; here each image is purified independently by a network of its size. The time-travel steps are
    left out; the authors' configuration disables them (length 1, repeated once).
    """

    def __init__(self, denoiser: Denoiser, config: ZIPConfig | None = None, *, key: Key = 0) -> None:
        """Raises ConfigError when the network's image size is not a multiple of ``scale``."""
        self.config = ZIPConfig() if config is None else config
        super().__init__(denoiser, micro_batch=self.config.at_a_time, key=key)
        size, scale = denoiser.image_size, self.config.scale
        check(size % scale == 0, "scale", f"a divisor of the network's {size} pixels", scale)

    def restore(self, images: Tensor, streams: Sequence[Stream]) -> Tensor:
        """Restore ``(B, 3, S, S)`` images in [-1, 1] with one random stream per image. Returns the same shape."""
        size, stride = self.denoiser.image_size, STEPS // self.config.steps
        noisy = gaussian(streams, 0, size=size)
        for index in reversed(range(self.config.steps)):
            step = index * stride
            alpha_bar, next_bar = kept(step + 1), kept(max(step - stride, -1) + 1)
            predicted = self.denoiser(noisy, step)
            guided = self._guided(images, noisy, predicted, alpha_bar)
            clean = (guided - predicted * math.sqrt(1 - alpha_bar)) / math.sqrt(alpha_bar)
            sigma = math.sqrt((1 - next_bar) / (1 - alpha_bar) * (1 - alpha_bar / next_bar))
            noise = gaussian(streams, 1, index, size=size)
            noisy = clean * math.sqrt(next_bar) + predicted * math.sqrt(1 - next_bar - sigma**2) + noise * sigma
        return noisy

    def _guided(self, images: Tensor, noisy: Tensor, predicted: Tensor, alpha_bar: float) -> Tensor:
        """Replace the preserved part of the noisy images by that of the given ones, averaged over transformations.

        Shapes ``(B, 3, S, S)``. The weight of the replacement is ``1 - alpha_bar ** guidance``.
        """
        projections: list[Projection] = [lambda x: blurred(x, self.config.scale)]
        if self.config.grey:
            projections.append(greyed)
        # Difference between the given image with the predicted noise and the current noisy image.
        change = images * math.sqrt(alpha_bar) + predicted * math.sqrt(1 - alpha_bar) - noisy
        guide: Tensor = torch.stack([project(change) for project in projections]).mean(dim=0)
        strength: float = 1 - alpha_bar**self.config.guidance
        return noisy + guide * strength
