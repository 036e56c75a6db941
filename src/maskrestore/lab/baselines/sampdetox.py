"""SampDetox: diffusion with weak noise everywhere, then strong noise where the first stage changed the structure."""

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
    """Settings of :class:`SampDetox`. Raises ConfigError for a setting out of range."""

    global_level: int = 20
    """t1: steps of noise over the whole image, 1 to 1000, against triggers of low visibility."""
    local_level: int = 120
    """t2: steps of noise where the structure changed most, 1 to 1000, against visible triggers."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("global_level", "local_level"):
            check(1 <= getattr(self, name) <= STEPS, name, f"between 1 and {STEPS}", getattr(self, name))

    def build(self, key: Key = 0) -> SampDetox:
        """Load the network and build the defense. Raises what ``diffusion_models.load_denoiser`` raises."""
        return SampDetox(self.load(), self, key=key)


def local_levels(images: Tensor, detoxified: Tensor, highest: int) -> Tensor:
    """Return the noise level of each pixel: 0 where the SSIM of the two images is highest, ``highest`` where lowest.

    images, detoxified: ``(B, 3, S, S)`` in [-1, 1]. Returns ``(B, 1, S, S)`` int64; 0 everywhere for equal images.
    """
    similarity = ssim_map((images + 1) / 2, ((detoxified + 1) / 2).clamp(0, 1))
    low, high = similarity.amin((1, 2), keepdim=True), similarity.amax((1, 2), keepdim=True)
    dissimilarity = torch.where(high > low, (high - similarity) / (high - low), 0.0)
    return (dissimilarity * highest).long().unsqueeze(1)  # (B, S, S) -> (B, 1, S, S)


def local_sample(denoiser: Denoiser, noisy: Tensor, levels: Tensor, highest: int, noise: NoiseSource) -> Tensor:
    """DDPM sampling of pixels at different levels: a pixel stays unchanged until sampling reaches its level.

    noisy: ``(B, 3, S, S)``; levels: ``(B, 1, S, S)`` int64, 0 to ``highest``. Returns ``(B, 3, S, S)``. Pixels at level
    0 stay bit-identical.
    """
    for step in reversed(range(highest)):
        denoised = ddpm_step(noisy, denoiser(noisy, step), step, noise(step))
        noisy = torch.where(levels > step, denoised, noisy)
    return noisy


class SampDetox(DiffusionDefense):
    """Purifies globally with weak noise, then locally with strong noise. Two queries per image: before and after.

    Source: Yang et al., SampDetox: Black-box Backdoor Defense via Perturbation-based Sample Detoxification, 2024,
    Algorithm 1; github.com/easywood0204/SampDetox ``SampDetox.py``.

    Departures from that code: SSIM has the data range of the images, 1 (there 255 for images in [0, 1], which flattens
    the map), and averages the channels (there a weighted mean); the second stage draws new noise (there it reuses the
    noise of the first stage); t1 is 20 as the paper suggests (there 120); pixels at level 0 get no noise (there the
    noise of one step, which is never removed).
    """

    def __init__(self, denoiser: Denoiser, config: SampDetoxConfig | None = None, *, key: Key = 0) -> None:
        self.config = SampDetoxConfig() if config is None else config
        super().__init__(denoiser, micro_batch=self.config.at_a_time, key=key)

    def restore(self, images: Tensor, streams: Sequence[Stream]) -> Tensor:
        """Restore ``(B, 3, S, S)`` images in [-1, 1] with one random stream per image. Returns the same shape."""
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
