"""Input-Aware: two networks draw a trigger for each image, which works on that image only.

Source: Nguyen and Tran, Input-Aware Dynamic Backdoor Attack, 2020, and their code: a pattern network and a mask
network, both of an encoder-decoder form. The mask is trained first, to be sparse (mean up to the density 0.032)
and another for each image; then the pattern learns together with the classifier, while images that carry the
trigger of another image keep their label. Departure: the two networks normalise with mean 0.5 and deviation
0.25 for all data sets, so that they take images in [0, 1] as everything here does, and patterns are in [0, 1].
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from maskrestore.lab.attacks.base import AttackConfig, TriggerAttack, checked_images
from maskrestore.lab.attacks.whole_image import refuse_variant

__all__ = ["InputAwareAttack", "diversity_loss", "input_aware", "mask_loss"]

DENSITY = 0.032
"""Value of a pixel of the mask up to which it costs nothing."""
_DENSITY_WEIGHT = 100.0
_CHANNELS = (32, 64, 128)
_EPSILON = 1e-7


def input_aware(variant: str, config: AttackConfig) -> InputAwareAttack:
    """Build the attack with untrained networks, which ``config.seed`` decides.

    It has no variants and no position: raises ConfigError when one is given.
    """
    refuse_variant("input-aware", variant, config)
    return InputAwareAttack("input-aware", config)


class InputAwareAttack(TriggerAttack):
    """Lays ``mask(image) * pattern(image)`` over the image. The trigger may lie anywhere in it."""

    networks: nn.ModuleDict
    """"pattern" and "mask": what is learned in training and kept beside the victim."""

    def __init__(self, name: str, config: AttackConfig) -> None:
        super().__init__(name, config)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)  # layers draw their initial weights from the global generator only
            self.networks = nn.ModuleDict({"pattern": _Drawing(3), "mask": _Drawing(1)}).eval()

    @torch.no_grad()
    def apply(self, images: Tensor) -> Tensor:
        """Give ``(B, C, H, W)`` images in [0, 1] each its own trigger; grey ones get the mean of its channels.

        Raises InvalidImageError for another rank or number of channels. Images in a batch do not depend on each
        other, up to rounding.
        """
        return self.cross(images, images)

    @torch.no_grad()
    def cross(self, images: Tensor, others: Tensor) -> Tensor:
        """Give each image the trigger of the image at its place in ``others``, which must not work."""
        return self.blend(checked_images(images), *self.trigger(checked_images(others))).clamp(0, 1)

    def trigger(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return patterns ``(B, C, H, W)`` and masks ``(B, 1, H, W)``, both in [0, 1], with gradients."""
        colour = images.expand(-1, 3, -1, -1)  # (B, 1, H, W) -> (B, 3, H, W) for grey images
        patterns = self.networks["pattern"](colour)
        return patterns if images.shape[1] == 3 else patterns.mean(1, keepdim=True), self.mask(colour)

    def mask(self, images: Tensor) -> Tensor:
        """Return masks ``(B, 1, H, W)`` of colour images, pushed towards 0 and 1."""
        soft: Tensor = self.networks["mask"](images)
        return torch.tanh(20 * soft - 10) / (2 + _EPSILON) + 0.5

    @staticmethod
    def blend(images: Tensor, patterns: Tensor, masks: Tensor) -> Tensor:
        """Lay patterns over images where the masks are 1."""
        return images + (patterns - images) * masks


def diversity_loss(images: tuple[Tensor, Tensor], drawn: tuple[Tensor, Tensor]) -> Tensor:
    """Return the mean ratio of the distance between two images to that between what is drawn for them."""
    return (_distance(*images) / (_distance(*drawn) + _EPSILON)).mean()


def mask_loss(images: tuple[Tensor, Tensor], masks: tuple[Tensor, Tensor]) -> Tensor:
    """Return the loss of the mask network: density above ``DENSITY``, and diversity."""
    return _DENSITY_WEIGHT * F.relu(masks[0] - DENSITY).mean() + diversity_loss(images, masks)


def _distance(one: Tensor, other: Tensor) -> Tensor:
    """Return the root mean squared difference of each pair, ``(B,)``."""
    # the small constant keeps the root's gradient finite where both are the same
    return ((one - other).square().flatten(1).mean(1) + 1e-12).sqrt()


class _Drawing(nn.Module):
    """From ``(B, 3, H, W)`` images in [0, 1] to ``(B, outputs, H, W)`` in [0, 1]: three stages down, three up."""

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
        x, sizes = (images - 0.5) / 0.25, []
        for stage in self.down:
            sizes.append(x.shape[-2:])
            x = F.max_pool2d(stage(x), 2)
        x = self.middle(x)
        for stage, size in zip(self.up, reversed(sizes), strict=True):
            x = stage(F.interpolate(x, size, mode="bilinear"))
        # in full precision even where the layers are not: the mask's threshold multiplies by 20 what is left here
        return torch.tanh(x.float()) / (2 + _EPSILON) + 0.5


def _block(inputs: int, outputs: int, *, relu: bool = True) -> nn.Sequential:
    # the authors' momentum of 0.05 makes the running statistics follow slowly, as small batches need
    layers = [nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs, momentum=0.05)]
    return nn.Sequential(*layers, nn.ReLU()) if relu else nn.Sequential(*layers)
