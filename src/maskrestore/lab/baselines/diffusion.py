"""What the defenses by diffusion share: the noise schedule, the samplers, and how images get in and out.

Inside this part images are ``(B, 3, S, S)`` in [-1, 1], as diffusion networks want them. *Level* ``k`` means that ``k``
steps of noise were added: 0 is the image, 1000 is noise. *Step* ``k`` leads from level ``k + 1`` to level ``k``.
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
"""Variance of the noise of the first and of the last step, linear between (Ho et al. 2020, section 4)."""

# Share of the image's variance that is left at each level, from level 0 on: (1001,) float64.
_KEPT = torch.cat([torch.ones(1).double(), (1 - torch.linspace(*BETAS, STEPS, dtype=torch.float64)).cumprod(0)])

NoiseSource = Callable[[int], Tensor]
"""Step -> the standard normal noise ``(B, 3, S, S)`` of that step."""


class Denoiser(Protocol):
    """A network that predicts the noise in an image."""

    @property
    def image_size(self) -> int:
        """S: pixels along each side of its input."""

    def __call__(self, noisy: Tensor, step: int) -> Tensor:
        """``(B, 3, S, S)`` at level ``step + 1`` -> the standard normal noise in it, of the same shape."""


def kept(level: int) -> float:
    """Share of the image's variance that is left at a level: alpha-bar, 1 at level 0."""
    return float(_KEPT[level])


def noised(images: Tensor, level: int | Tensor, noise: Tensor) -> Tensor:
    """Add the noise of ``level`` steps at once: ``sqrt(alpha-bar) x + sqrt(1 - alpha-bar) noise``.

    images, noise: ``(B, 3, S, S)``; level: one for all, or int64 of a shape that broadcasts over the pixels.
    Source: Ho et al. 2020, Eq. 4.
    """
    share = _KEPT[level]
    return images * share.sqrt().float() + noise * (1 - share).sqrt().float()


def ddpm_step(noisy: Tensor, predicted: Tensor, step: int, noise: Tensor) -> Tensor:
    """One ancestral step from level ``step + 1`` to ``step``; the image that is aimed at is clipped to [-1, 1].

    noisy: ``(B, 3, S, S)``; predicted: the noise that the network sees in it; noise: standard normal, unused in step 0.
    The variance of the step is beta ("fixed large"), as of ``google/ddpm-cifar10-32``. Source: Ho et al. 2020, Eq. 7.
    """
    now, before = kept(step + 1), kept(step)
    beta = 1 - now / before
    aim = ((noisy - predicted * math.sqrt(1 - now)) / math.sqrt(now)).clamp(-1, 1)
    mean = aim * (math.sqrt(before) * beta / (1 - now)) + noisy * (math.sqrt(now / before) * (1 - before) / (1 - now))
    return mean if step == 0 else mean + noise * math.sqrt(beta)


def ddpm_sample(denoiser: Denoiser, noisy: Tensor, level: int, noise: NoiseSource) -> Tensor:
    """Go back from ``level`` to the image by DDPM sampling. ``(B, 3, S, S)`` -> the same shape, in [-1, 1]."""
    for step in reversed(range(level)):
        noisy = ddpm_step(noisy, denoiser(noisy, step), step, noise(step))
    return noisy


def sde_sample(denoiser: Denoiser, noisy: Tensor, level: int, noise: NoiseSource) -> Tensor:
    """Go back from ``level`` by the reverse VP-SDE, in Euler-Maruyama steps of 1/1000.

    ``(B, 3, S, S)`` -> the same shape, not clipped. Source: Song et al. 2021, Eq. 6 with the VP-SDE of appendix B;
    NVlabs/DiffPure ``runners/diffpure_sde.py``, whose ``torchsde.sdeint`` takes the same steps.
    """
    low, high = (beta * STEPS for beta in BETAS)
    width = 1 / STEPS
    for step in reversed(range(level)):
        time = (step + 1) * width
        beta = low + time * (high - low)
        spread = math.sqrt(1 - math.exp(-0.5 * (high - low) * time**2 - low * time))
        score = denoiser(noisy, step) / -spread
        noisy = noisy + (noisy * 0.5 + score) * (beta * width) + noise(step) * math.sqrt(beta * width)
    return noisy


def gaussian(streams: Sequence[Stream], *path: int, size: int) -> Tensor:
    """Standard normal noise ``(B, 3, size, size)``, each image's from its own stream; ``path`` names the draw."""
    # Half a unit in the last place keeps the uniform numbers off 0, whose quantile is minus infinity.
    uniform = (stream.uniform(*path, shape=(3, size, size)).double() + 2**-25 for stream in streams)
    return torch.stack([torch.special.ndtri(numbers).float() for numbers in uniform])


class DiffusionDefense(TransformDefense):
    """Let a diffusion model restore every image. Two queries per image, before and after.

    The subclass says how, in :meth:`restore`. It always gets exactly ``micro_batch`` images, so that the result for one
    is the same bits in any company. Images of another size are resized to the network's and back; grey ones are
    restored as three equal channels, whose mean is taken.
    """

    def __init__(self, denoiser: Denoiser, *, micro_batch: int, key: Key) -> None:
        super().__init__(self._restored, key=key)
        self.denoiser = denoiser
        self.micro_batch = micro_batch

    def restore(self, images: Tensor, streams: Sequence[Stream]) -> Tensor:
        """``(B, 3, S, S)`` in [-1, 1] and the images' random numbers -> restored images, about in [-1, 1]."""
        raise NotImplementedError

    def _restored(self, images: Tensor, key: Key) -> Tensor:
        size, (channels, height, width) = self.denoiser.image_size, images.shape[1:]
        done = []
        for chunk, count in fixed_chunks(images, self.micro_batch):
            streams = [Stream(key, image) for image in chunk]
            squares = resize(chunk, size, size).expand(-1, 3, -1, -1) * 2 - 1
            restored = ((self.restore(squares, streams) + 1) / 2).clamp(0, 1)
            restored = restored.mean(dim=1, keepdim=True) if channels == 1 else restored
            done.append(resize(restored, height, width).clamp(0, 1)[:count])
        return torch.cat(done)
