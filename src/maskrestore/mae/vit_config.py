"""Shapes of the vision transformer masked autoencoder: the configuration and the usual sizes."""

from __future__ import annotations

from dataclasses import dataclass

from maskrestore.errors import ConfigError

__all__ = ["IMAGENET_MEAN", "IMAGENET_STD", "VIT_PRESETS", "ViTMAEConfig"]

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
_STACK = ("width", "depth", "heads")


@dataclass(frozen=True, kw_only=True)
class ViTMAEConfig:
    """Shape of a :class:`ViTMAE`. The defaults are those of ``VIT_PRESETS["tiny-32"]``.

    Raises ConfigError unless sizes and counts are at least 1, ``image_size`` is a multiple of ``patch_size``, both
    widths are multiples of 4 and of their number of heads, ``mlp_ratio`` is positive, ``norm_eps`` is not negative, and
    ``mean`` and ``std`` have 3 numbers each, those of ``std`` positive.
    """

    image_size: int = 32
    """Side of the square input in pixels."""
    patch_size: int = 2
    """Side of a patch, which becomes one token, in pixels."""
    width: int = 192
    depth: int = 8
    heads: int = 3
    decoder_width: int = 128
    decoder_depth: int = 3
    decoder_heads: int = 4
    mlp_ratio: float = 4.0
    """Width inside an MLP over the width of the stream."""
    norm_eps: float = 1e-6
    """Epsilon of LayerNorm: 1e-6 in the official code, 1e-12 in Hugging Face's configurations."""
    normalized_pixel_targets: bool = False
    """Whether the network was trained to predict pixels normalised by the mean and variance of their patch
    (``norm_pix_loss``). Such a network learns better features but cannot restore images, because the mean and variance
    of a hidden patch are unknown."""
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    """Mean that is subtracted from pixels in [0, 1], for each channel."""
    std: tuple[float, float, float] = (0.25, 0.25, 0.25)
    """Standard deviation that they are divided by, for each channel."""

    def __post_init__(self) -> None:
        for name in ("image_size", "patch_size", *(f"{p}{n}" for p in ("", "decoder_") for n in _STACK)):
            value = getattr(self, name)
            if not isinstance(value, int) or value < 1:
                raise ConfigError(f"{name} must be a whole number of at least 1, got {value!r}")
        if self.image_size % self.patch_size:
            raise ConfigError(f"image_size {self.image_size} must be a multiple of patch_size {self.patch_size}")
        for prefix in ("", "decoder_"):
            width, heads = getattr(self, f"{prefix}width"), getattr(self, f"{prefix}heads")
            if width % heads or width % 4:
                raise ConfigError(f"{prefix}width {width} must be a multiple of 4 and of {prefix}heads {heads}")
        if self.mlp_ratio <= 0 or self.norm_eps < 0:
            raise ConfigError(
                f"mlp_ratio must be positive and norm_eps not negative, got {self.mlp_ratio} and {self.norm_eps}"
            )
        if len(self.mean) != 3 or len(self.std) != 3 or min(self.std) <= 0:
            raise ConfigError(f"mean and std need 3 numbers each, std positive; got {self.mean} and {self.std}")

    @property
    def grid(self) -> int:
        """Tokens along each side."""
        return self.image_size // self.patch_size


def _official(*, width: int, depth: int, heads: int, patch_size: int = 16) -> ViTMAEConfig:
    return ViTMAEConfig(
        image_size=224,
        patch_size=patch_size,
        width=width,
        depth=depth,
        heads=heads,
        decoder_width=512,
        decoder_depth=8,
        decoder_heads=16,
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
    )


VIT_PRESETS: dict[str, ViTMAEConfig] = {
    "base": _official(width=768, depth=12, heads=12),
    "large": _official(width=1024, depth=24, heads=16),
    "huge": _official(width=1280, depth=32, heads=16, patch_size=14),
    "tiny-32": ViTMAEConfig(),
}
