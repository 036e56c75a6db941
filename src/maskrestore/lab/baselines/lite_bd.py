"""Lite-BD: downscale and upscale the image; if the label stays the same, remove one band of frequencies."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from maskrestore.defense.streams import Key
from maskrestore.imaging.filters import Upscale, bicubic, rescaled
from maskrestore.lab.baselines.base import check, in_chunks
from maskrestore.types import Classifier, Purification

__all__ = ["LiteBD", "LiteBDConfig", "band_stops", "sharpened", "without_band"]


@dataclass(frozen=True, kw_only=True)
class LiteBDConfig:
    """Settings of :class:`LiteBD`. Raises ConfigError for a setting out of range.

    The defaults are those of the public code's command ``Lite-BD(SW).py``, except for the scale.
    """

    scale: float = 0.75
    """Share of each side after downscaling, in (0, 1). 0.75 is the default of the public code's functions. Its command
    sets 0.5, which suits super-resolution but blurs too much with bicubic upscaling."""
    bands: int = 50
    """Number of bands: rings of equal width from frequency 0 to the highest frequency."""
    transition: float = 0.08
    """Width of the soft edge of a band, as a share of the highest frequency, in (0, 1]."""
    sharpening: float = 0.5
    """Strength of the unsharp mask after the filter; 0 for none."""

    def __post_init__(self) -> None:
        check(0 < self.scale < 1, "scale", "in (0, 1)", self.scale)
        check(self.bands >= 1, "bands", "at least 1", self.bands)
        check(0 < self.transition <= 1, "transition", "in (0, 1]", self.transition)
        check(self.sharpening >= 0, "sharpening", "at least 0", self.sharpening)

    def build(self, key: Key = 0) -> LiteBD:
        """Build the defense with bicubic upscaling. It is deterministic: ``key`` is not used."""
        return LiteBD(self)


class LiteBD:
    """Two stages. The first stage that changes the label decides.

    1. Downscale the image, without antialiasing as in the public code, and upscale it again. If the label changes, the
       new label is the answer.
    2. Otherwise remove one band of frequencies at a time. Of the labels that differ from the original one, take the
       most frequent, and the first band whose removal gives it. Remove this band and sharpen the image. If the label
       still differs, this is the purified image; otherwise the image stays as it is.

    Queries per image: 2 if stage 1 decides, otherwise ``2 + bands``, and 1 more if a band was found.

    Source: Miah and Bi, Lite-BD, arXiv 2602.07197, 2026; github.com/SiSL-URI/Lite-BD ``Lite-BD(SW).py``.
    Departures: stage 2 of the public code looks for labels other than the attacker's target, which a defender does not
    know; here, labels other than the image's original one, so stage 2 can change clean images as well. The publication
    upscales with SwinIR or Real-ESRGAN: pass such a network as ``upscale``. The default is bicubic, because the project
    has no such weights. The public code's random padding is left out: it is cropped again before the classifier.
    """

    def __init__(self, config: LiteBDConfig | None = None, *, upscale: Upscale = bicubic, chunk_size: int = 16) -> None:
        """chunk_size: images processed at a time, to bound memory. Results do not depend on it."""
        self.config = LiteBDConfig() if config is None else config
        self.upscale = upscale
        self.chunk_size = chunk_size

    def purify(self, images: object, classifier: Classifier) -> Purification:
        """Purify each of the ``(B, C, H, W)`` images in [0, 1] independently and label it. Raises InvalidImageError."""
        return in_chunks(images, classifier, self._purify_chunk, chunk_size=self.chunk_size)

    def _purify_chunk(self, images: Tensor, ask: Classifier) -> Purification:
        original = ask(images)
        purified = torch.stack([rescaled(image, self.config.scale, self.upscale) for image in images])
        labels = ask(purified)
        queries = torch.full_like(original, 2)
        for row in (labels == original).nonzero().squeeze(1).tolist():
            purified[row], labels[row], asked = self._without_worst_band(images[row], int(original[row]), ask)
            queries[row] += asked
        return Purification(images=purified, labels=labels, original_labels=original, queries=queries)

    def _without_worst_band(self, image: Tensor, original: int, ask: Classifier) -> tuple[Tensor, int, int]:
        """Stage 2 for one image ``(C, H, W)``. Returns the image, its label and the number of queries."""
        gains = band_stops(*image.shape[-2:], bands=self.config.bands, transition=self.config.transition)
        filtered = without_band(image, gains)
        votes = ask(filtered).tolist()
        flips = [label for label in votes if label != original]
        if not flips:
            return image, original, len(votes)
        wanted = max(flips, key=flips.count)  # of equally frequent labels, the first
        purified = sharpened(filtered[votes.index(wanted)], self.config.sharpening)
        label = int(ask(purified[None]))
        return (image if label == original else purified), label, len(votes) + 1


def band_stops(height: int, width: int, *, bands: int, transition: float) -> Tensor:
    """Return ``(bands, H, W)`` float64 gains in [0, 1], in the order of ``fft2``: filter i removes band i.

    The gain is 0 inside the ring ``[i, i + 1] / bands`` and rises to 1 over ``transition`` on both sides. Frequencies
    are given by their distance from frequency 0; the largest distance is 1.
    """
    rows, columns = (torch.arange(side) - side // 2 for side in (height, width))
    distance = (rows.unsqueeze(1).square() + columns.square()).double().sqrt()  # (H, W)
    distance = distance / distance.max().clamp(min=1)
    low = torch.arange(bands).double().view(-1, 1, 1) / bands
    high = torch.arange(1, bands + 1).double().view(-1, 1, 1) / bands
    outside = torch.maximum(low - distance, distance - high)  # (bands, H, W): distance from the ring
    gains: Tensor = torch.fft.ifftshift((outside / transition).clamp(0, 1), dim=(-2, -1))
    return gains


def without_band(image: Tensor, gains: Tensor) -> Tensor:
    """Multiply the spectrum of ``(C, H, W)`` by gains ``(N, H, W)``. Returns ``(N, C, H, W)`` float32 in [0, 1]."""
    spectrum = torch.fft.fft2(image.double()) * gains.unsqueeze(1)  # (N, C, H, W)
    filtered: Tensor = torch.fft.ifft2(spectrum).real.clamp(0, 1).float()
    return filtered


def sharpened(image: Tensor, amount: float) -> Tensor:
    """Unsharp mask of ``(C, H, W)``: add ``amount`` times the difference from the 3x3 mean, clip to [0, 1].

    Pixels beyond the border count as 0 in the mean.
    """
    return (image + amount * (image - F.avg_pool2d(image[None], 3, stride=1, padding=1)[0])).clamp(0, 1)
