"""Small images and photographs: where one ends and the other begins."""

from __future__ import annotations

__all__ = ["SMALL_SIDE", "is_photograph"]

SMALL_SIDE = 64
"""Side in pixels of the largest square image that counts as small."""


def is_photograph(height: int, width: int) -> bool:
    """Whether an image has more pixels than a small one."""
    return height * width > SMALL_SIDE**2
