"""SampDetox: weak noise everywhere, strong noise where that changed the structure of the image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from maskrestore.defense.streams import Key, Stream
from maskrestore.imaging.ssim import ssim_map
from maskrestore.lab.baselines.base import check
from maskrestore.lab.baselines.diffusion import (
    STEPS,
    Denoiser,
    DiffusionDefense,
    NoiseSource,
    ddpm_sample,
    ddpm_step,
    gaussian,
    noised,
)
from maskrestore.lab.baselines.diffusion_models import DiffusionSettings

__all__ = ["SampDetox", "SampDetoxConfig", "local_levels", "local_sample"]


@dataclass(frozen=True, kw_only=True)
class SampDetoxConfig(DiffusionSettings):
    """Settings of :class:`SampDetox`."""

    global_level: int = 20
    """t1: steps of noise over the whole image, against triggers of low visibility."""
    local_level: int = 120
    """t2: steps of noise where the structure changed most, against visible triggers."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("global_level", "local_level"):
            check(1 <= getattr(self, name) <= STEPS, name, f"between 1 and {STEPS}", getattr(self, name))

    def build(self, key: Key = 0) -> SampDetox:
        """Load the network and build the defense. Raises as ``diffusion_models.load_denoiser`` does."""
        return SampDetox(self.load(), self, key=key)


def local_levels(images: Tensor, detoxified: Tensor, highest: int) -> Tensor:
    """How much noise each pixel gets: 0 where the two images resemble each other most, ``highest`` where least.

    images, detoxified: ``(B, 3, S, S)`` in [-1, 1]. Returns ``(B, 1, S, S)`` int64; 0 everywhere for equal images.
    """
    similarity = ssim_map((images + 1) / 2, ((detoxified + 1) / 2).clamp(0, 1))
    low, high = similarity.amin((1, 2), keepdim=True), similarity.amax((1, 2), keepdim=True)
    unlike = torch.where(high > low, (high - similarity) / (high - low), 0.0)
    return (unlike * highest).long().unsqueeze(1)  # (B, S, S) -> (B, 1, S, S)


def local_sample(denoiser: Denoiser, noisy: Tensor, levels: Tensor, highest: int, noise: NoiseSource) -> Tensor:
    """DDPM sampling of pixels at different levels: each waits, as it is, until the noise has come down to its level.

    noisy: ``(B, 3, S, S)``; levels: ``(B, 1, S, S)`` int64, at most ``highest``. Pixels at level 0 stay bit-identical.
    """
    for step in reversed(range(highest)):
        fewer = ddpm_step(noisy, denoiser(noisy, step), step, noise(step))
        noisy = torch.where(levels > step, fewer, noisy)
    return noisy


class SampDetox(DiffusionDefense):
    """Purify globally with weak noise, then locally with strong noise. Two queries per image: before and after.

    Source: Yang et al., SampDetox: Black-box Backdoor Defense via Perturbation-based Sample Detoxification, 2024,
    Algorithm 1; github.com/easywood0204/SampDetox ``SampDetox.py``.

    Departures from that code: SSIM with the data range of the images (1; there 255 for images in [0, 1], which levels
    the map) and the mean of the channels instead of a weighted one; fresh noise in the second stage instead of the
    first stage's; t1 is the 20 that the paper suggests (the code has 120); pixels at level 0 get no noise (there that
    of one step, which is never removed).
    """

    def __init__(self, denoiser: Denoiser, config: SampDetoxConfig | None = None, *, key: Key = 0) -> None:
        self.config = SampDetoxConfig() if config is None else config
        super().__init__(denoiser, micro_batch=self.config.at_a_time, key=key)

    def restore(self, images: Tensor, streams: Sequence[Stream]) -> Tensor:
        """``(B, 3, S, S)`` in [-1, 1] and the images' random numbers -> restored images."""
        size, config = self.denoiser.image_size, self.config
        noisy = noised(images, config.global_level, gaussian(streams, 0, size=size))
        detoxified = ddpm_sample(
            self.denoiser, noisy, config.global_level, lambda step: gaussian(streams, 1, step, size=size)
        )
        levels = local_levels(images, detoxified, config.local_level)
        noisy = noised(detoxified, levels, gaussian(streams, 2, size=size))
        return local_sample(
            self.denoiser,
            noisy,
            levels,
            config.local_level,
            lambda step: gaussian(streams, 3, step, size=size),
        )
