"""Points of a curve ask for many of the same restorations and labels: here each of them is made once.

Two thresholds differ after all passes of the restorer, ten steps of refinement begin as five do. Neither a restoration
nor a label depends on what else is in the batch, so what is recalled is the same bit for bit.
"""

from __future__ import annotations

import hashlib
from typing import Any

import torch
from torch import Tensor

from maskrestore.imaging.patches import tokens_to_pixels
from maskrestore.types import Classifier, Restorer

__all__ = ["RecallingClassifier", "RecallingRestorer"]

_CAPACITY = 2**30


class RecallingRestorer:
    """A restorer that keeps what it restored, up to ``capacity`` bytes of pixels; then it begins anew."""

    def __init__(self, restorer: Restorer, capacity: int = _CAPACITY) -> None:
        self._restorer = restorer
        self._left = self._capacity = capacity
        self._pixels: dict[bytes, Tensor] = {}
        """``(C, P)``: the hidden pixels of an image under a mask."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._restorer, name)

    @property
    def grid(self) -> int:
        """Tokens along each side of an image."""
        return self._restorer.grid

    def restore(self, images: Tensor, hidden: Tensor) -> Tensor:
        """As the restorer does: see :class:`~maskrestore.types.Restorer` for the shapes."""
        masks = hidden.flatten(1, -3) if hidden.ndim == 4 else hidden.unsqueeze(1)  # (B, M, g, g)
        owner = torch.arange(len(images)).repeat_interleave(masks.shape[1])
        flat = masks.flatten(0, 1)
        names = _names(images[owner], flat)
        missing = torch.tensor([row for row, name in enumerate(names) if name not in self._pixels], dtype=torch.int64)
        restored = images[owner]
        where = tokens_to_pixels(flat, *images.shape[-2:]).squeeze(1).to(images.device)  # (N, H, W)
        kept = {row: self._pixels[name] for row, name in enumerate(names) if name in self._pixels}
        if len(missing):
            fresh = self._restorer.restore(images[owner[missing]], flat[missing])
            kept |= {row: fresh[place][:, where[row]] for place, row in enumerate(missing.tolist())}
        for row, pixels in kept.items():
            restored[row][:, where[row]] = pixels.to(images.device)
            self._keep(names[row], pixels)
        shaped: Tensor = restored.unflatten(0, hidden.shape[:-2])
        return shaped

    def _keep(self, name: bytes, pixels: Tensor) -> None:
        if name in self._pixels:
            return
        size = pixels.numel() * pixels.element_size()
        if size > self._left:
            self._pixels.clear()
            self._left = self._capacity
        self._pixels[name] = pixels.cpu()
        self._left -= size


class RecallingClassifier:
    """A classifier that is asked about each picture once."""

    def __init__(self, classifier: Classifier) -> None:
        self._classifier = classifier
        self._labels: dict[bytes, int] = {}

    def __call__(self, images: Tensor) -> Tensor:
        """``(B, C, H, W)`` in [0, 1] -> ``(B,)`` int64 labels."""
        names = _names(images)
        # Each of the new pictures once, although a batch may hold it twice.
        new = {name: row for row, name in enumerate(names) if name not in self._labels}
        if new:
            labels = self._classifier(images[list(new.values())])
            self._labels |= dict(zip(new, labels.tolist(), strict=True))
        return torch.tensor([self._labels[name] for name in names], dtype=torch.int64)


def _names(*parts: Tensor) -> list[bytes]:
    """A digest for each row of the tensors."""
    rows = [part.detach().cpu().contiguous().numpy() for part in parts]
    return [
        hashlib.blake2b(b"".join(array[row].tobytes() for array in rows), digest_size=16).digest()
        for row in range(len(rows[0]))
    ]
