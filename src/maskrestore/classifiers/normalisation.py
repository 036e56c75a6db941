"""Normalise, arrange and chunk images for the adapters of models."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor

from maskrestore.errors import ConfigError, InvalidImageError

__all__ = [
    "BAKED_IN",
    "LAYOUTS",
    "MAX_SIDE",
    "ChannelOrder",
    "Channelwise",
    "Layout",
    "Normalisation",
    "arranged",
    "checked_layout",
    "checked_size",
    "default_micro_batch",
    "fixed_chunks",
]

BAKED_IN = (
    "{what} fails with {count} images at a time and works with one, so it gets one at a time from now on; "
    "micro_batch=1 (--micro-batch 1) says so"
)
"""A warning."""

MAX_SIDE = 8192
"""The largest height or width that images are resized to for a model: more is a mistake, and would fill the memory."""

Channelwise = float | Sequence[float]
"""One number for all channels, or a sequence with one for each."""


ChannelOrder = Literal["rgb", "bgr"]
Layout = Literal["chw", "hwc", "flat", "flat-hwc"]
"""Order of the axes of an image: channels first or last, or one row of numbers in either order."""

LAYOUTS: tuple[Layout, ...] = get_args(Layout)


@dataclass(frozen=True)
class Normalisation:
    """What becomes of [0, 1] pixels: ``(x - mean) / std`` per channel, then ``low + (high - low) * x``."""

    mean: tuple[float, ...]
    std: tuple[float, ...]
    pixel_range: tuple[float, float] = (0.0, 1.0)
    """What 0 and 1 become: ``(0, 255)`` or ``(-1, 1)``, for example."""
    channel_order: ChannelOrder = "rgb"
    """Order of the channels of the result; ``mean`` and ``std`` are for red, green and blue in any case."""

    @classmethod
    def of(
        cls,
        mean: Channelwise,
        std: Channelwise,
        pixel_range: Sequence[float] = (0.0, 1.0),
        channel_order: ChannelOrder = "rgb",
    ) -> Normalisation:
        """Make a normalisation from numbers, or from sequences of 1 or 3 numbers.

        Raises ConfigError for other lengths, unequal lengths of 3 and 2, a number that is not finite, a std of 0 or
        less, a mean outside [-1, 1], a range that is empty, and a range that does not begin at 0 together with a mean
        or std, which say the same in two ways.
        """
        means, stds = (tuple(np.asarray(value, np.float64).ravel().tolist()) for value in (mean, std))
        length = max(len(means), len(stds))
        if length not in (1, 3) or {len(means), len(stds)} - {1, length}:
            raise ConfigError(f"mean and std need 1 or 3 values each, got {len(means)} and {len(stds)}")
        if not all(math.isfinite(value) for value in means + stds) or min(stds) <= 0:
            raise ConfigError(f"expected finite numbers for mean and positive ones for std, got {means} and {stds}")
        if max(map(abs, means)) > 1:
            raise ConfigError(
                f"expected mean and std in units of [0, 1] pixels, got a mean of {means}; divide both by 255"
            )
        bounds = tuple(map(float, pixel_range))
        if len(bounds) != 2 or not all(map(math.isfinite, bounds)) or bounds[0] >= bounds[1]:
            raise ConfigError(f"pixel_range must be two numbers, the lower one first, got {tuple(pixel_range)}")
        if bounds[0] and (set(means) != {0.0} or set(stds) != {1.0}):
            raise ConfigError(
                f"mean {means} and std {stds} shift the pixels, and so does the pixel range "
                f"{bounds[0]:g}..{bounds[1]:g}; give mean and std, or the range"
            )
        if channel_order not in get_args(ChannelOrder):
            raise ConfigError(
                f"channel_order must be one of {', '.join(get_args(ChannelOrder))}, got {channel_order!r}"
            )
        return cls(means, stds, bounds, channel_order)

    def __call__(self, images: Tensor) -> Tensor:
        """Normalise ``(B, C, H, W)`` into a new tensor. Raises InvalidImageError for another number of channels."""
        length, channels = max(len(self.mean), len(self.std)), images.shape[1]
        if length not in (1, channels):
            raise InvalidImageError(f"mean and std are for {length} channels, got images with {channels}")
        mean, std = (_constants(values, images.device) for values in (self.mean, self.std))
        normalised = (images - mean) / std
        low, high = self.pixel_range
        if (low, high) != (0, 1):
            normalised = normalised * (high - low) + low
        return normalised.flip(1) if self.channel_order == "bgr" else normalised

    def undo(self, values: Tensor) -> Tensor:
        """The pixels that were normalised, ``(B, C, H, W)``: what arrives at a model -> [0, 1], but for rounding.

        Raises InvalidImageError for another number of channels.
        """
        length, channels = max(len(self.mean), len(self.std)), values.shape[1]
        if length not in (1, channels):
            raise InvalidImageError(f"mean and std are for {length} channels, got images with {channels}")
        pixels = values.flip(1) if self.channel_order == "bgr" else values
        low, high = self.pixel_range
        if (low, high) != (0, 1):
            pixels = (pixels - low) / (high - low)
        if set(self.mean) == {0.0} and set(self.std) == {1.0}:
            return pixels
        mean, std = (_constants(one, values.device) for one in (self.mean, self.std))
        return pixels * std + mean


def arranged(images: Tensor, layout: Layout) -> Tensor:
    """``(B, C, H, W)`` with the axes in the order of a layout: ``(B, H, W, C)`` for ``hwc``, ``(B, C * H * W)`` for
    ``flat``, ``(B, H * W * C)`` for ``flat-hwc``.
    """
    last = images.permute(0, 2, 3, 1) if layout in ("hwc", "flat-hwc") else images
    return last.flatten(1) if layout in ("flat", "flat-hwc") else last


def checked_size(size: int | Sequence[int] | None) -> tuple[int, int] | None:
    """``(H, W)`` of the pictures that a model takes, from one number or two. Raises ConfigError for anything else."""
    if size is None:
        return None
    pair = (size, size) if isinstance(size, int) else tuple(size)
    if len(pair) != 2 or min(pair) < 1 or max(pair) > MAX_SIDE:
        raise ConfigError(f"input_size must be (H, W) or one number, at least 1 and at most {MAX_SIDE}, got {size}")
    return pair[0], pair[1]


def checked_layout(layout: str | None) -> Layout | None:
    """The layout itself. Raises ConfigError for a name that is none."""
    if layout is not None and layout not in LAYOUTS:
        raise ConfigError(f"layout must be one of {', '.join(LAYOUTS)}, got {layout!r}")
    return layout


@functools.cache
@torch.inference_mode(False)  # the cached tensor is also used by callers that need gradients
def _constants(values: tuple[float, ...], device: torch.device) -> Tensor:
    """``(C, 1, 1)``, for broadcasting; cached, because each copy to a GPU makes the host wait."""
    return torch.tensor(values, device=device)[:, None, None]


def default_micro_batch(*, on_cpu: bool) -> int:
    """Default number of images that a model gets at a time: 8 on a CPU, 32 on other devices.

    Each call is padded to a multiple of it, so a single image costs a whole micro-batch. On one core, a half-width
    ResNet-18 at 32 x 32 classifies one image in 0.05 s with micro-batches of 8 and in 0.15 s with 32; a ResNet-50 at
    224 x 224 in 1.2 s and in 4.2 s. For many images at once, the throughput with 8 is lower than with 32: by about 11 %
    for the ResNet-18 and by 8 % for the ResNet-50.
    """
    return 8 if on_cpu else 32


def fixed_chunks(images: Tensor, size: int) -> Iterator[tuple[Tensor, int]]:
    """Split images into consecutive chunks of exactly ``size``; yields each with the number of images that count.

    The last chunk is padded with copies of its first image. Kernels may round differently for different batch shapes;
    with a single shape, the answer for an image does not depend on the size of its batch.
    """
    for start in range(0, len(images), size):
        chunk = images[start : start + size]
        count = len(chunk)
        padding = chunk[:1].expand(size - count, *chunk.shape[1:])
        yield (torch.cat([chunk, padding]) if count < size else chunk), count
