"""What the diffusion defenses share: the noise schedule, the samplers, and the conversion of images.

Images in this module are ``(B, 3, S, S)`` in [-1, 1], as diffusion networks expect. At *level* ``k``, ``k`` steps of
noise have been added: level 0 is the image, level 1000 is noise. *Step* ``k`` goes from level ``k + 1`` to level ``k``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import Tensor

from maskrestore.classifiers.normalisation import fixed_chunks
from maskrestore.defense.streams import Key, Stream
from maskrestore.imaging.resize import resize
from maskrestore.lab.baselines.base import TransformDefense

__all__ = [
    "BETAS",
    "STEPS",
    "Denoiser",
    "DiffusionDefense",
    "NoiseSource",
    "ddpm_sample",
    "ddpm_step",
    "gaussian",
    "kept",
    "noised",
    "sde_sample",
]

STEPS = 1000
BETAS = (1e-4, 0.02)
"""Variance of the noise of the first and the last step; linear in between (Ho et al. 2020, section 4)."""

# Share of the image's variance that remains at each level, starting with level 0: (1001,) float64.
_ALPHA_BAR = torch.cat([torch.ones(1).double(), (1 - torch.linspace(*BETAS, STEPS, dtype=torch.float64)).cumprod(0)])

NoiseSource = Callable[[int], Tensor]
"""Maps a step to its standard normal noise ``(B, 3, S, S)``."""


class Denoiser(Protocol):
    """A network that predicts the noise in an image."""

    @property
    def image_size(self) -> int:
        """Side S of its input in pixels."""

    def __call__(self, noisy: Tensor, step: int) -> Tensor:
        """Predict the standard normal noise in ``(B, 3, S, S)`` images at level ``step + 1``; the same shape."""


def kept(level: int) -> float:
    """Return alpha-bar, the share of the image's variance that remains at ``level`` (0 to 1000); 1 at level 0."""
    return float(_ALPHA_BAR[level])


def noised(images: Tensor, level: int | Tensor, noise: Tensor) -> Tensor:
    """Add the noise of ``level`` steps at once: ``sqrt(alpha-bar) x + sqrt(1 - alpha-bar) noise``.

    images, noise: ``(B, 3, S, S)``; level: one for all, or an int64 tensor that broadcasts over the pixels.
    Source: Ho et al. 2020, Eq. 4.
    """
    alpha_bar = _ALPHA_BAR[level]
    return images * alpha_bar.sqrt().float() + noise * (1 - alpha_bar).sqrt().float()


def ddpm_step(noisy: Tensor, predicted: Tensor, step: int, noise: Tensor) -> Tensor:
    """Do one ancestral sampling step from level ``step + 1`` to level ``step``. Returns ``(B, 3, S, S)``.

    noisy: ``(B, 3, S, S)``; predicted: the noise that the network predicts; noise: standard normal, unused in step 0.
    The predicted clean image is clipped to [-1, 1]. The variance of the step is beta ("fixed large"), as in
    ``google/ddpm-cifar10-32``. Source: Ho et al. 2020, Eq. 7.
    """
    alpha_bar, next_bar = kept(step + 1), kept(step)
    beta = 1 - alpha_bar / next_bar
    clean = ((noisy - predicted * math.sqrt(1 - alpha_bar)) / math.sqrt(alpha_bar)).clamp(-1, 1)
    clean_weight = math.sqrt(next_bar) * beta / (1 - alpha_bar)
    noisy_weight = math.sqrt(alpha_bar / next_bar) * (1 - next_bar) / (1 - alpha_bar)
    mean = clean * clean_weight + noisy * noisy_weight
    return mean if step == 0 else mean + noise * math.sqrt(beta)


def ddpm_sample(denoiser: Denoiser, noisy: Tensor, level: int, noise: NoiseSource) -> Tensor:
    """Sample from ``level`` down to level 0 with DDPM. ``(B, 3, S, S)`` -> the same shape, in [-1, 1]."""
    for step in reversed(range(level)):
        noisy = ddpm_step(noisy, denoiser(noisy, step), step, noise(step))
    return noisy


def sde_sample(denoiser: Denoiser, noisy: Tensor, level: int, noise: NoiseSource) -> Tensor:
    """Sample from ``level`` down to level 0 with the reverse VP-SDE, in Euler-Maruyama steps of 1/1000.

    ``(B, 3, S, S)`` -> the same shape, not clipped. Source: Song et al. 2021, Eq. 6 with the VP-SDE of appendix B;
    NVlabs/DiffPure ``runners/diffpure_sde.py`` takes the same steps with ``torchsde.sdeint``.
    """
    low, high = (beta * STEPS for beta in BETAS)
    width = 1 / STEPS
    for step in reversed(range(level)):
        time = (step + 1) * width
        beta = low + time * (high - low)
        std = math.sqrt(1 - math.exp(-0.5 * (high - low) * time**2 - low * time))
        score = denoiser(noisy, step) / -std
        noisy = noisy + (noisy * 0.5 + score) * (beta * width) + noise(step) * math.sqrt(beta * width)
    return noisy


def gaussian(streams: Sequence[Stream], *path: int, size: int) -> Tensor:
    """Return standard normal noise ``(B, 3, size, size)``, one stream per image. ``path`` identifies the draw."""
    # Adding half a unit in the last place avoids 0, whose normal quantile is minus infinity.
    uniform = (stream.uniform(*path, shape=(3, size, size)).double() + 2**-25 for stream in streams)
    return torch.stack([torch.special.ndtri(numbers).float() for numbers in uniform])


class DiffusionDefense(TransformDefense):
    """Base class of defenses that restore every image with a diffusion model. Two queries per image: before and after.

    Subclasses implement :meth:`restore`. It always gets exactly ``micro_batch`` images, so that results are
    bit-identical regardless of batch composition. Images of another size are resized to the network's size and back.
    Grey images are restored as three equal channels; the result is their mean.
    """

    def __init__(self, denoiser: Denoiser, *, micro_batch: int, key: Key) -> None:
        super().__init__(self._restored, key=key)
        self.denoiser = denoiser
        self.micro_batch = micro_batch

    def restore(self, images: Tensor, streams: Sequence[Stream]) -> Tensor:
        """Restore ``(B, 3, S, S)`` images in [-1, 1] with one random stream per image.

        The result has the same shape and may slightly exceed [-1, 1]; the caller clips it.
        """
        raise NotImplementedError

    def _restored(self, images: Tensor, key: Key) -> Tensor:
        size, (channels, height, width) = self.denoiser.image_size, images.shape[1:]
        chunks = []
        for chunk, count in fixed_chunks(images, self.micro_batch):
            streams = [Stream(key, image) for image in chunk]
            squares = resize(chunk, size, size).expand(-1, 3, -1, -1) * 2 - 1
            restored = ((self.restore(squares, streams) + 1) / 2).clamp(0, 1)
            restored = restored.mean(dim=1, keepdim=True) if channels == 1 else restored
            chunks.append(resize(restored, height, width).clamp(0, 1)[:count])
        return torch.cat(chunks)
