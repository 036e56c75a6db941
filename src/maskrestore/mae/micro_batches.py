"""Divide masks into micro-batches of fixed shapes.

Matrix kernels may round differently for different shapes, so a restorer calls its network with a few fixed shapes only.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["MaskGroup", "MicroBatching", "padded"]

_CPU_SEQUENCE_TOKENS = 256
"""Tokens in a micro-batch of a wide ViT on a CPU. More are hardly faster, and need more padding."""
_WIDE = 512
"""From this width on, a ViT on a CPU does not mix masks of different sizes."""


class MaskGroup(NamedTuple):
    """Masks that a network processes in micro-batches of the same shape."""

    masks: Tensor
    """``(n,)`` int64: the indices of the masks."""
    visible: tuple[int, int]
    """Lower and upper bound of the number of visible tokens of each mask."""
    micro_batch: int
    """Masks at a time."""


@dataclass(frozen=True, kw_only=True)
class MicroBatching:
    """How a restorer groups masks, and how many masks of a group it processes at a time."""

    grid: int
    """Tokens along each side of an image."""
    skips_hidden: bool
    """Whether the network computes visible tokens only."""
    width: int
    """Width of the network's matrices."""
    on_gpu: bool
    size: int | None
    """Masks at a time; None: chosen by :meth:`groups`."""

    @property
    def default_size(self) -> int:
        """Masks at a time in groups that mix numbers of visible tokens: 8 on a CPU; 64 for a ViT, else 32 on a GPU."""
        if not self.on_gpu:
            return 8
        return 64 if self.skips_hidden else 32

    def groups(self, hidden: Tensor) -> list[MaskGroup]:
        """Group masks ``(N, g, g)`` bool, on the CPU, by their number of visible tokens.

        A network that does not skip hidden tokens has one group for all masks that hide some tokens but not all. For a
        wide ViT on a CPU each number of visible tokens is a group. For any other ViT the numbers are divided into
        quarters of the grid, to have larger micro-batches: each whole number of quarters is a group, and so is the
        range between two of them. Masks that hide nothing are in no group.
        """
        total = self.grid**2
        step = self._step(total)
        by_range: dict[tuple[int, int], list[int]] = {}
        for mask, count in enumerate((~hidden).flatten(1).sum(dim=1).tolist()):
            most = -(-count // step) * step
            # Masks with exactly a multiple of the step, such as random masks, which leave a quarter, need no padding.
            fewest = most if count == most else most - step + 1
            if count < total:
                by_range.setdefault((fewest, min(most, total)), []).append(mask)
        return [
            MaskGroup(torch.tensor(masks), visible, self.size or self._size(visible[1], step))
            for visible, masks in by_range.items()
        ]

    def _step(self, total: int) -> int:
        """Difference of two neighbouring numbers of visible tokens that have a group of their own."""
        if not self.skips_hidden:
            return total
        # Small matrices are faster in large batches, so masks of different sizes share one; else padding costs more.
        mixes_sizes = self.on_gpu or self.width < _WIDE
        return -(-total // 4) if mixes_sizes else 1

    def _size(self, visible: int, step: int) -> int:
        return max(1, _CPU_SEQUENCE_TOKENS // (1 + visible)) if step == 1 else self.default_size


def padded(index: Tensor, size: int) -> Tensor:
    """Pad indices with copies of the first: ``(n,)`` -> ``(size,)``; an empty tensor stays empty."""
    return torch.cat([index, index[:1].expand(size - len(index))]) if len(index) else index
