"""Count the floating-point operations of a ViT masked autoencoder, to compare times with the speed of the hardware.

A multiplication with its addition counts as two operations. Only matrix products count: the embedding, the layers,
attention and the prediction. The rest (LayerNorm, GELU, softmax, moving data) is less than 1 % of the operations, but
more than 1 % of the time.
"""

from __future__ import annotations

from dataclasses import dataclass

from maskrestore.mae.vit_config import ViTMAEConfig

__all__ = ["Cost", "embedding_flop", "full_pass", "restoring_pass"]


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Floating-point operations of one pass for one image."""

    encoder: float
    decoder: float

    @property
    def total(self) -> float:
        """Operations of encoder and decoder."""
        return self.encoder + self.decoder


def embedding_flop(config: ViTMAEConfig) -> float:
    """Operations of the patch embedding of one image."""
    return 2 * config.grid**2 * _patch_values(config) * config.width


def full_pass(config: ViTMAEConfig, visible: int) -> Cost:
    """Operations of a pass of the official network, which embeds, decodes and predicts every token."""
    tokens = 1 + config.grid**2
    decoder = config.decoder_depth * _layer(tokens, tokens, config.decoder_width, config.mlp_ratio)
    prediction = 2 * tokens * config.decoder_width * _patch_values(config)
    return Cost(
        encoder=embedding_flop(config) + _encoder(config, visible),
        decoder=_decoder_embedding(config, visible) + decoder + prediction,
    )


def restoring_pass(config: ViTMAEConfig, visible: int) -> Cost:
    """Operations of ``ViTMAE.forward`` with embedded tokens; the last decoder layer computes hidden tokens only."""
    tokens, hidden = 1 + config.grid**2, config.grid**2 - visible
    body = (config.decoder_depth - 1) * _layer(tokens, tokens, config.decoder_width, config.mlp_ratio)
    last = _layer(tokens, hidden, config.decoder_width, config.mlp_ratio)
    prediction = 2 * hidden * config.decoder_width * _patch_values(config)
    return Cost(
        encoder=_encoder(config, visible),
        decoder=_decoder_embedding(config, visible) + body + last + prediction,
    )


def _encoder(config: ViTMAEConfig, visible: int) -> float:
    return config.depth * _layer(1 + visible, 1 + visible, config.width, config.mlp_ratio)


def _decoder_embedding(config: ViTMAEConfig, visible: int) -> float:
    return 2 * (1 + visible) * config.width * config.decoder_width


def _layer(tokens: int, queries: int, width: int, mlp_ratio: float) -> float:
    """One layer: the projection to queries, keys and values for all tokens, the rest for ``queries`` tokens."""
    attention = 2 * 2 * queries * tokens * width
    return 2 * tokens * width * 3 * width + attention + 2 * queries * width * width * (1 + 2 * mlp_ratio)


def _patch_values(config: ViTMAEConfig) -> int:
    return 3 * config.patch_size**2
