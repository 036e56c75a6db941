"""S_l as a contrast of flip rates, which removes the offset of an imperfect restorer. Not in the paper."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["contrast_scores"]


def contrast_scores(flipped: Tensor, hidden: Tensor, windows: Sequence[int] = (1,)) -> Tensor:
    """S_l as a contrast: ``P(flip | window hidden) - P(flip | window not wholly hidden)``, at least 0.

    With an imperfect restorer the label of a clean image flips under many masks, wherever they are. That raises the
    paper's S_l everywhere. The contrast removes this offset and needs no further query. Windows are squares of
    ``k x k`` tokens for each ``k`` in ``windows``. Larger windows matter for a trigger that works as long as one of its
    tokens is visible: only hiding all of them together changes the label. The score of a token is the highest contrast
    of the windows that contain it, or 0 if every window was always, or never, hidden. Windows larger than the grid are
    left out.

    Shapes as :func:`flip_scores`. Departure: not in the paper.
    """
    best = torch.zeros_like(hidden[:, 0], dtype=torch.float32)
    for size in (size for size in windows if size <= hidden.shape[-1]):
        # A window is hidden if none of its tokens is visible. (B, M, g, g) -> (B, M, g - k + 1, g - k + 1)
        gone = F.max_pool2d((~hidden).float(), size, stride=1) == 0
        changed = flipped[:, :, None, None]
        gone_count, seen_count = gone.sum(dim=1), (~gone).sum(dim=1)
        rate_gone = (gone & changed).sum(dim=1) / gone_count.clamp(min=1)
        rate_seen = (~gone & changed).sum(dim=1) / seen_count.clamp(min=1)
        known = (gone_count > 0) & (seen_count > 0)
        contrast = torch.where(known, rate_gone - rate_seen, 0.0).clamp(min=0)
        # Give each token the best of its windows. (B, g - k + 1, g - k + 1) -> (B, g, g)
        spread = F.max_pool2d(F.pad(contrast, (size - 1,) * 4).unsqueeze(1), size, stride=1).squeeze(1)
        best = torch.maximum(best, spread)
    return best
