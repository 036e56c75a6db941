"""DiffPure: add noise to the image, then remove it with a diffusion model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from maskrestore.defense.streams import Key, Stream
from maskrestore.lab.baselines.base import check
from maskrestore.lab.baselines.diffusion import (
    STEPS,
    Denoiser,
    DiffusionDefense,
    ddpm_sample,
    gaussian,
    noised,
    sde_sample,
)
from maskrestore.lab.baselines.diffusion_models import DiffusionSettings

__all__ = ["DiffPure", "DiffPureConfig"]

SAMPLERS = {"ddpm": ddpm_sample, "sde": sde_sample}
"""Samplers of the reverse diffusion by name."""


@dataclass(frozen=True, kw_only=True)
class DiffPureConfig(DiffusionSettings):
    """Settings of :class:`DiffPure`."""

    sampler: Literal["ddpm", "sde"] = "ddpm"
    """``ddpm``: ancestral sampling; ``sde``: Euler-Maruyama on the reverse VP-SDE. The BDMAE paper reports both."""
    noise_time: float = 0.1
    """t* as a share of the whole diffusion: 0.1 on CIFAR-10, 0.15 on ImageNet (Nie et al. 2022, section 5.1)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check(self.sampler in SAMPLERS, "sampler", f"one of {', '.join(SAMPLERS)}", self.sampler)
        check(1 <= round(self.noise_time * STEPS) <= STEPS, "noise_time", f"in [{1 / STEPS}, 1]", self.noise_time)

    def build(self, key: Key = 0) -> DiffPure:
        """Load the network and build the defense. Raises what ``diffusion_models.load_denoiser`` raises."""
        return DiffPure(self.load(), self, key=key)


class DiffPure(DiffusionDefense):
    """Diffuses the image to t*, then reverses the diffusion. Two queries per image: before and after.

    Source: Nie et al., Diffusion Models for Adversarial Purification, 2022, section 3; github.com/NVlabs/DiffPure.

    Departures: the network may have any image size, so small images are not enlarged to 256 pixels (the BDMAE paper
    enlarges them for OpenAI's network); the variance of a DDPM step is beta, not learned; the SDE ends at time 0, not
    at 1e-5, which is a hundredth of a step earlier.
    """

    def __init__(self, denoiser: Denoiser, config: DiffPureConfig | None = None, *, key: Key = 0) -> None:
        self.config = DiffPureConfig() if config is None else config
        super().__init__(denoiser, micro_batch=self.config.at_a_time, key=key)

    def restore(self, images: Tensor, streams: Sequence[Stream]) -> Tensor:
        """Restore ``(B, 3, S, S)`` images in [-1, 1] with one random stream per image. Returns the same shape."""
        size, level = self.denoiser.image_size, round(self.config.noise_time * STEPS)
        noisy = noised(images, level, gaussian(streams, 0, size=size))
        sample = SAMPLERS[self.config.sampler]
        return sample(self.denoiser, noisy, level, lambda step: gaussian(streams, 1, step, size=size))
