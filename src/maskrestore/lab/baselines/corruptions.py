"""Corruptions of images at five levels, such as noise, blur and compression.

Source: Hendrycks and Dietterich, Benchmarking Neural Network Robustness to Common Corruptions and Perturbations, ICLR
2019, with the strengths of github.com/bethgelab/imagecorruptions. Here are ten of the fifteen; left out are those that
need pictures of frost or a loop over pixels: glass blur, snow, frost, fog and elastic transformation. Departures: shot
noise is normal with the variance of Poisson noise; the disc of defocus blur is not smoothed; borders are mirrored or
repeated. Strengths are in pixels of the image, whatever its size, as in that code.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from maskrestore.defense.streams import Stream, gaussian_noise
from maskrestore.imaging.filters import mirrored
from maskrestore.imaging.resize import resize
from maskrestore.lab.baselines.first_change import Corruption
from maskrestore.lab.baselines.transformations import jpeg

__all__ = ["CORRUPTIONS", "LEVELS"]

LEVELS = 5


def _noise(image: Tensor, stream: Stream, level: int) -> Tensor:
    std = (0.08, 0.12, 0.18, 0.26, 0.38)[level]
    return (image + std * gaussian_noise(stream, 0, level, shape=tuple(image.shape))).clamp(0, 1)


def _shot_noise(image: Tensor, stream: Stream, level: int) -> Tensor:
    photons = (60, 25, 12, 5, 3)[level]
    return (image + (image / photons).sqrt() * gaussian_noise(stream, 1, level, shape=tuple(image.shape))).clamp(0, 1)


def _impulse_noise(image: Tensor, stream: Stream, level: int) -> Tensor:
    share = (0.03, 0.06, 0.09, 0.17, 0.27)[level]
    number = stream.uniform(2, level, shape=tuple(image.shape))
    return torch.where(number < share, (number < share / 2).float(), image)


def _defocus_blur(image: Tensor, _: Stream, level: int) -> Tensor:
    radius = (3, 4, 6, 8, 10)[level]
    offsets = torch.arange(-radius, radius + 1)
    disc = (offsets.square() + offsets.square().unsqueeze(1) <= radius**2).float()
    rows, columns = (mirrored(torch.arange(-radius, side + radius), side) for side in image.shape[-2:])
    padded = image[:, rows][..., columns]
    return F.conv2d(padded.unsqueeze(1), (disc / disc.sum())[None, None]).squeeze(1).clamp(0, 1)


def _motion_blur(image: Tensor, stream: Stream, level: int) -> Tensor:
    radius, sigma = ((10, 3), (15, 5), (15, 8), (15, 12), (20, 15))[level]
    angle = math.radians(90 * stream.uniform(3, level, shape=(1,)).item() - 45)
    height, width = image.shape[-2:]
    weights = [math.exp(-(step**2) / (2 * sigma**2)) for step in range(2 * radius + 1)]
    out = torch.zeros_like(image)
    for step, weight in enumerate(weights):
        down, right = round(step * math.sin(angle)), round(step * math.cos(angle))
        rows = (torch.arange(height) + down).clamp(0, height - 1)
        columns = (torch.arange(width) + right).clamp(0, width - 1)
        out += weight / sum(weights) * image[:, rows][..., columns]
    return out.clamp(0, 1)


def _zoom_blur(image: Tensor, _: Stream, level: int) -> Tensor:
    step, zooms = ((0.01, 11), (0.01, 16), (0.02, 11), (0.02, 13), (0.03, 11))[level]
    height, width = image.shape[-2:]
    copies = [image]
    for zoom in (1 + step * number for number in range(zooms)):
        rows, columns = math.ceil(height / zoom), math.ceil(width / zoom)
        top, left = (height - rows) // 2, (width - columns) // 2
        copies.append(resize(image[None, :, top : top + rows, left : left + columns], height, width)[0])
    return torch.stack(copies).mean(0).clamp(0, 1)


def _brightness(image: Tensor, _: Stream, level: int) -> Tensor:
    """Raise the value of each pixel's hue, saturation and value. Black becomes grey."""
    more = (0.1, 0.2, 0.3, 0.4, 0.5)[level]
    value = image.amax(0, keepdim=True)
    raised = (value + more).clamp(max=1)
    return torch.where(value > 0, image * (raised / value.clamp(min=1e-6)), raised).clamp(0, 1)


def _contrast(image: Tensor, _: Stream, level: int) -> Tensor:
    factor = (0.4, 0.3, 0.2, 0.1, 0.05)[level]
    mean = image.mean((1, 2), keepdim=True)
    return ((image - mean) * factor + mean).clamp(0, 1)


def _pixelate(image: Tensor, _: Stream, level: int) -> Tensor:
    share = (0.6, 0.5, 0.4, 0.3, 0.25)[level]
    height, width = image.shape[-2:]
    small = F.adaptive_avg_pool2d(image[None], (max(1, int(height * share)), max(1, int(width * share))))
    return F.interpolate(small, (height, width), mode="nearest")[0].clamp(0, 1)


def _jpeg(image: Tensor, _: Stream, level: int) -> Tensor:
    return jpeg(image, (25, 18, 15, 10, 7)[level])


CORRUPTIONS: dict[str, Corruption] = {
    "gaussian-noise": _noise,
    "shot-noise": _shot_noise,
    "impulse-noise": _impulse_noise,
    "defocus-blur": _defocus_blur,
    "motion-blur": _motion_blur,
    "zoom-blur": _zoom_blur,
    "brightness": _brightness,
    "contrast": _contrast,
    "pixelate": _pixelate,
    "jpeg": _jpeg,
}
"""Corruptions by name, each with the levels 0 to 4."""
