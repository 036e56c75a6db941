"""Cache restorations and labels shared by the points of a parameter sweep.

Settings of a sweep repeat much of the same work: two thresholds differ only after the last pass of the restorer, and
ten steps of refinement start with the same five steps. Results are bit-identical with and without the cache, because
neither a restoration nor a label depends on the rest of the batch.
"""

from __future__ import annotations

import torch
from torch import Tensor

from maskrestore.imaging.patches import tokens_to_pixels
from maskrestore.runtime.digests import raw_digest
from maskrestore.types import Classifier, Restorer

__all__ = ["CachedClassifier", "CachedRestorer"]

_CAPACITY = 2**30
_ENTRY_OVERHEAD = 600
"""Approximate size of an entry without its pixels, in bytes."""


class CachedRestorer:
    """Caches the results of a restorer, up to ``capacity`` bytes. When the cache is full, it is cleared."""

    def __init__(self, restorer: Restorer, capacity: int = _CAPACITY) -> None:
        self._restorer = restorer
        self._capacity = capacity
        self.device = getattr(restorer, "device", "cpu")
        self.precision = getattr(restorer, "precision", None)
        self.weights_digest = getattr(restorer, "weights_digest", None)
        self.forget()

    @property
    def grid(self) -> int:
        """Number of tokens along each side of an image."""
        return self._restorer.grid

    def forget(self) -> None:
        """Clear the cache."""
        self._left = self._capacity
        self._pixels: dict[bytes, Tensor] = {}  # (C, P): the restored pixels of an image under a mask

    def restore(self, images: Tensor, hidden: Tensor) -> Tensor:
        """Restore as the restorer does: see :class:`~maskrestore.types.Restorer` for the shapes."""
        masks = hidden if hidden.ndim == 4 else hidden.unsqueeze(1)  # (B, M, g, g)
        owner, flat = torch.arange(len(images)).repeat_interleave(masks.shape[1]), masks.flatten(0, 1)
        names = _names(images[owner], flat)
        restored = images[owner]
        where = tokens_to_pixels(flat, *images.shape[-2:]).squeeze(1).to(images.device)  # (N, H, W)
        kept = {row: self._pixels[name] for row, name in enumerate(names) if name in self._pixels}
        missing = torch.tensor([row for row in range(len(names)) if row not in kept], dtype=torch.int64)
        if len(missing) == len(names):  # pass all masks of an image together: they share part of the work
            fresh = self._restorer.restore(images, masks).flatten(0, 1)
        else:
            fresh = self._restorer.restore(images[owner[missing]], flat[missing]) if len(missing) else images[:0]
        kept |= {row: fresh[place][:, where[row]] for place, row in enumerate(missing.tolist())}
        for row, pixels in kept.items():
            restored[row][:, where[row]] = pixels.to(images.device)
            self._keep(names[row], pixels)
        shaped: Tensor = restored.unflatten(0, hidden.shape[:-2])
        return shaped

    def _keep(self, name: bytes, pixels: Tensor) -> None:
        if name in self._pixels:
            return
        size = _ENTRY_OVERHEAD + pixels.numel() * pixels.element_size()
        if size > self._left:
            self.forget()
        self._pixels[name] = pixels.cpu()
        self._left -= size


class CachedClassifier:
    """Caches the labels of a classifier. It is queried once for each distinct image."""

    def __init__(self, classifier: Classifier) -> None:
        self._classifier = classifier
        self._labels: dict[bytes, int] = {}

    def __call__(self, images: Tensor) -> Tensor:
        """Return ``(B,)`` int64 labels of ``(B, C, H, W)`` images in [0, 1]."""
        names = _names(images)
        # A batch may contain an image twice; query it once.
        new = {name: row for row, name in enumerate(names) if name not in self._labels}
        if new:
            labels = self._classifier(images[list(new.values())])
            self._labels |= dict(zip(new, labels.tolist(), strict=True))
        return torch.tensor([self._labels[name] for name in names], dtype=torch.int64)


def _names(*parts: Tensor) -> list[bytes]:
    """Return a digest for each row of the tensors, of its shapes and values."""
    rows = [part.detach().cpu().contiguous().numpy() for part in parts]
    shapes = repr([part.shape[1:] for part in parts]).encode()
    return [raw_digest([shapes, *(array[row].tobytes() for array in rows)], size=16) for row in range(len(rows[0]))]
