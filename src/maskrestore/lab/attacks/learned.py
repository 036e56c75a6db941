"""Attacks whose trigger is drawn by networks, which are trained with the victim."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from maskrestore.lab.attacks.base import AttackConfig, TriggerAttack

__all__ = ["EncoderDecoder", "LearnedAttack"]

_CHANNELS = (32, 64, 128)
_EPSILON = 1e-7


class LearnedAttack(TriggerAttack):
    """Base class of these attacks. Any pixel may change."""

    networks: nn.ModuleDict
    """Trained and stored with the victim."""

    def __init__(self, name: str, config: AttackConfig, outputs: dict[str, int]) -> None:
        """outputs: channels that each network draws, by its name. ``config.seed`` determines the initial weights."""
        super().__init__(name, config)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)  # layers initialise from the global generator; fork_rng restores it
            self.networks = nn.ModuleDict({key: EncoderDecoder(count) for key, count in outputs.items()}).eval()


class EncoderDecoder(nn.Module):
    """Maps ``(B, 3, H, W)`` images in [0, 1] to ``(B, outputs, H, W)`` in [0, 1]; three stages down, three up."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        inputs, down = 3, []
        for channels in _CHANNELS:
            down.append(nn.Sequential(_block(inputs, channels), _block(channels, channels)))
            inputs = channels
        self.down = nn.ModuleList(down)
        self.middle = _block(inputs, inputs)
        up = []
        for channels in (*_CHANNELS[-2::-1], outputs):
            up.append(nn.Sequential(_block(inputs, inputs), _block(inputs, channels, relu=channels != outputs)))
            inputs = channels
        self.up = nn.ModuleList(up)

    def forward(self, images: Tensor) -> Tensor:
        """Draw ``(B, outputs, H, W)`` for ``(B, 3, H, W)`` images."""
        x, sizes = (images - 0.5) / 0.25, []
        for stage in self.down:
            sizes.append(x.shape[-2:])
            x = F.max_pool2d(stage(x), 2)
        x = self.middle(x)
        for stage, size in zip(self.up, reversed(sizes), strict=True):
            x = stage(F.interpolate(x, size, mode="bilinear"))
        # float32 even under autocast: `mask` multiplies by 20, which would amplify rounding errors
        return torch.tanh(x.float()) / (2 + _EPSILON) + 0.5


def _block(inputs: int, outputs: int, *, relu: bool = True) -> nn.Sequential:
    # momentum 0.05 as in the authors' code: running statistics change slowly, which suits small batches
    layers = [nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs, momentum=0.05)]
    return nn.Sequential(*layers, nn.ReLU()) if relu else nn.Sequential(*layers)
