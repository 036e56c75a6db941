"""From a masked autoencoder to a :class:`~maskrestore.types.Restorer`: sizes, channels, precision, micro-batches."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from maskrestore.errors import ConfigError, InvalidImageError
from maskrestore.imaging.patches import tokens_to_pixels
from maskrestore.imaging.resize import resize
from maskrestore.mae.checkpoints import load_network

__all__ = ["DEFAULT_RESTORER", "MAERestorer", "MaskedAutoencoder", "Precision", "load_restorer"]

Precision = Literal["auto", "float32", "bfloat16"]
DEFAULT_RESTORER = "mae-tiny-32"


class MaskedAutoencoder(Protocol):
    """What a network must be to restore images: ``ViTMAE`` and ``ConvMAE`` are."""

    @property
    def grid(self) -> int:
        """Tokens along each side."""

    @property
    def image_size(self) -> int:
        """Pixels along each side of the square input."""

    @property
    def skips_hidden(self) -> bool:
        """Whether it computes on visible tokens only, so that its matrices are smaller the more is hidden."""

    def __call__(self, images: Tensor, hidden: Tensor) -> Tensor:
        """``(B, 3, S, S)`` in [0, 1] and ``(B, g, g)`` bool -> ``(B, 3, S, S)`` reconstruction."""


class MAERestorer:
    """Restore hidden tokens of images of any size with a masked autoencoder (Eq. 1).

    The network always sees exactly ``micro_batch`` images (with equally many visible tokens, if it skips hidden ones):
    matrix kernels may round differently for different batch shapes, and a fixed shape makes the result for an image
    the same bits in any company. The price is padding: at most ``micro_batch - 1`` wasted images in a call (for each
    number of visible tokens).
    """

    def __init__(
        self,
        network: MaskedAutoencoder,
        *,
        micro_batch: int | None = None,
        precision: Precision = "auto",
        device: str | torch.device = "cpu",
    ) -> None:
        """micro_batch: ``None`` is 8 for a network that skips hidden tokens, where sizes vary, else 32.

        precision: ``auto`` is bfloat16 where the hardware multiplies it fast, else float32.
        """
        if micro_batch is None:
            micro_batch = 8 if network.skips_hidden else 32
        if micro_batch < 1:
            raise ConfigError(f"micro_batch must be at least 1, got {micro_batch}")
        if precision not in ("auto", "float32", "bfloat16"):
            raise ConfigError(f"precision must be auto, float32 or bfloat16, got {precision!r}")
        self.device = torch.device(device)
        self.micro_batch = micro_batch
        self.precision = _resolve(precision, self.device)
        if isinstance(network, torch.nn.Module):
            network.to(self.device).to(memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
        self.network = network

    @property
    def grid(self) -> int:
        """Tokens along each side of an image."""
        return self.network.grid

    @torch.inference_mode()
    def restore(self, images: Tensor, hidden: Tensor) -> Tensor:
        """Restore the hidden tokens of each image; every other pixel is returned bit for bit.

        images: ``(B, C, H, W)`` float32 in [0, 1] with ``C`` 1 or 3 and any ``H`` and ``W``; hidden: ``(B, g, g)``
        bool. Returns ``(B, C, H, W)`` in [0, 1]. Raises InvalidImageError for other shapes.

        Grey images are restored as three equal channels, whose mean is taken. Departure: the authors' code shrinks
        the restoration with nearest neighbour, which shifts it by 0.43 pixels at 32 x 32; here it is antialiased.
        """
        channels, height, width = self._check(images, hidden)
        size = self.network.image_size
        restored = images.new_empty(len(images), channels, height, width)
        for group in _groups(hidden, by_count=self.network.skips_hidden):
            for index in group.split(self.micro_batch):
                # Repeat the first image to fill the micro-batch.
                padded = F.pad(index, (0, self.micro_batch - len(index)), value=int(index[0]))
                inputs = resize(images[padded], size, size).expand(-1, 3, -1, -1)
                output = self._reconstruct(inputs, hidden[padded])[: len(index)]
                output = output.mean(dim=1, keepdim=True) if channels == 1 else output
                restored[index] = resize(output, height, width).clamp(0, 1)
        return torch.where(tokens_to_pixels(hidden, height, width), restored, images)

    def _reconstruct(self, images: Tensor, hidden: Tensor) -> Tensor:
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bfloat16"):
            output = self.network(images.to(self.device), hidden.to(self.device))
        return output.float().cpu()

    def _check(self, images: Tensor, hidden: Tensor) -> tuple[int, int, int]:
        if images.ndim != 4 or images.shape[1] not in (1, 3):
            raise InvalidImageError(f"expected images of shape (B, 1 or 3, H, W), got {tuple(images.shape)}")
        expected = (len(images), self.grid, self.grid)
        if hidden.dtype != torch.bool or tuple(hidden.shape) != expected:
            raise InvalidImageError(
                f"expected hidden to be bool of shape {expected}, got {hidden.dtype} of shape {tuple(hidden.shape)}"
            )
        return images.shape[1], images.shape[2], images.shape[3]


def load_restorer(
    name_or_path: str | Path = DEFAULT_RESTORER,
    *,
    micro_batch: int | None = None,
    precision: Precision = "auto",
    device: str | torch.device = "cpu",
) -> MAERestorer:
    """Load packaged weights by name, a file, a local folder or a hub name; see ``checkpoints.load_network``."""
    return MAERestorer(load_network(name_or_path), micro_batch=micro_batch, precision=precision, device=device)


def _groups(hidden: Tensor, *, by_count: bool) -> list[Tensor]:
    """Indices of the images in which something is hidden: all at once, or those with equally many hidden tokens."""
    counts = hidden.flatten(1).sum(dim=1)
    wanted = [counts == count for count in counts.unique().tolist() if count > 0] if by_count else [counts > 0]
    return [chosen.nonzero().squeeze(1) for chosen in wanted if chosen.any()]


def _resolve(precision: Precision, device: torch.device) -> Literal["float32", "bfloat16"]:
    if precision != "auto":
        return precision
    if device.type == "cuda":
        return "bfloat16" if torch.cuda.is_bf16_supported() else "float32"
    return "bfloat16" if torch.cpu._is_avx512_bf16_supported() else "float32"
