"""How many floating-point operations a ViT masked autoencoder takes, so that times can be held against the hardware.

One multiplication with its addition is two operations. Matrix products only: the embedding, the layers, attention, the
prediction. What is left out (LayerNorm, GELU, softmax, moving data) is under 1 % of the operations, though not of the
time.
"""

from __future__ import annotations

from dataclasses import dataclass

from maskrestore.mae.vit import ViTMAEConfig

__all__ = ["Cost", "embedding_flop", "full_pass", "restoring_pass"]


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Operations of one pass for one image."""

    encoder: float
    decoder: float

    @property
    def total(self) -> float:
        """Both together."""
        return self.encoder + self.decoder


def embedding_flop(config: ViTMAEConfig) -> float:
    """The patch embedding of one image: once for all of its masks, or at every pass."""
    return 2 * config.grid**2 * _patch_values(config) * config.width


def full_pass(config: ViTMAEConfig, visible: int) -> Cost:
    """The official network: every token is embedded, decoded and predicted."""
    places = 1 + config.grid**2
    decoder = config.decoder_depth * _layer(places, places, config.decoder_width, config.mlp_ratio)
    prediction = 2 * places * config.decoder_width * _patch_values(config)
    return Cost(
        encoder=embedding_flop(config) + _encoder(config, visible),
        decoder=_handing_over(config, visible) + decoder + prediction,
    )


def restoring_pass(config: ViTMAEConfig, visible: int) -> Cost:
    """``ViTMAE.forward`` with the embedding given: the last layer of the decoder asks for hidden tokens only."""
    places, hidden = 1 + config.grid**2, config.grid**2 - visible
    body = (config.decoder_depth - 1) * _layer(places, places, config.decoder_width, config.mlp_ratio)
    last = _layer(places, hidden, config.decoder_width, config.mlp_ratio)
    prediction = 2 * hidden * config.decoder_width * _patch_values(config)
    return Cost(
        encoder=_encoder(config, visible),
        decoder=_handing_over(config, visible) + body + last + prediction,
    )


def _encoder(config: ViTMAEConfig, visible: int) -> float:
    return config.depth * _layer(1 + visible, 1 + visible, config.width, config.mlp_ratio)


def _handing_over(config: ViTMAEConfig, visible: int) -> float:
    return 2 * (1 + visible) * config.width * config.decoder_width


def _layer(tokens: int, asking: int, width: int, mlp_ratio: float) -> float:
    """One layer: queries, keys and values of all tokens, the rest for those that ask."""
    attention = 2 * 2 * asking * tokens * width
    return 2 * tokens * width * 3 * width + attention + 2 * asking * width * width * (1 + 2 * mlp_ratio)


def _patch_values(config: ViTMAEConfig) -> int:
    return 3 * config.patch_size**2
