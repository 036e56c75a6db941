"""Read the checkpoints of the official repository, facebookresearch/mae."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from torch import Tensor

from maskrestore.errors import CheckpointError, ConfigError
from maskrestore.mae.checkpoints.weight_files import as_tensors, read_pickle
from maskrestore.mae.vit_config import IMAGENET_MEAN, IMAGENET_STD, ViTMAEConfig

__all__ = ["read_official"]

HEADS = {192: 3, 384: 6, 768: 12, 1024: 16, 1280: 16}
"""Attention heads by width of the usual ViT sizes; checkpoints do not hold the number of heads."""
DECODER_HEADS = {512: 16}


def read_official(
    path: Path, *, heads: int | None = None, decoder_heads: int | None = None
) -> tuple[ViTMAEConfig, dict[str, Tensor]]:
    """Read a ``.pth`` of facebookresearch/mae, such as ``mae_visualize_vit_base.pth``.

    The configuration is inferred from the shapes of the tensors. They do not tell the number of attention heads.
    heads, decoder_heads: these numbers; None: looked up by width in ``HEADS`` and ``DECODER_HEADS``.

    Returns the configuration and the tensors by name. Raises CheckpointError for a file that runs code, is damaged,
    lacks a part, or has a width that is not in the tables.
    """
    content = read_pickle(path)
    tensors = as_tensors(content.get("model", content), path)
    if any(name.startswith("vit.") for name in tensors):
        raise CheckpointError(f"{path} has Hugging Face's layout; give the folder that also holds its config.json")
    width, channels, patch_size, _ = _shape(tensors, "patch_embed.proj.weight", 4, path)
    if channels != 3:
        raise CheckpointError(f"{path}: patch_embed.proj.weight is for {channels} channels, expected 3")
    decoder_width, _ = _shape(tensors, "decoder_embed.weight", 2, path)
    inner, _ = _shape(tensors, "blocks.0.mlp.fc1.weight", 2, path)
    tokens = _shape(tensors, "pos_embed", 3, path)[1] - 1
    grid = round(max(tokens, 0) ** 0.5)
    if grid * grid != tokens:
        raise CheckpointError(f"{path}: pos_embed is for {tokens} tokens, expected a square number")
    fields: dict[str, Any] = {
        "image_size": grid * patch_size,
        "patch_size": patch_size,
        "width": width,
        "depth": _depth(tensors, "blocks"),
        "heads": heads or _known_heads("heads", width, HEADS, path),
        "decoder_width": decoder_width,
        "decoder_depth": _depth(tensors, "decoder_blocks"),
        "decoder_heads": decoder_heads or _known_heads("decoder_heads", decoder_width, DECODER_HEADS, path),
        "mlp_ratio": inner / width,
        "normalized_pixel_targets": bool(getattr(content.get("args"), "norm_pix_loss", False)),
        "mean": IMAGENET_MEAN,
        "std": IMAGENET_STD,
    }
    try:
        return ViTMAEConfig(**fields), tensors
    except ConfigError as error:
        raise CheckpointError(f"{path} does not hold a masked autoencoder: {error}") from error


def _shape(tensors: dict[str, Tensor], name: str, rank: int, path: Path) -> tuple[int, ...]:
    if name not in tensors:
        raise CheckpointError(
            f"{path} has no {name!r}; expected a whole masked autoencoder with its decoder, such as "
            "mae_visualize_vit_base.pth (files for fine-tuning hold the encoder only)"
        )
    shape = tuple(tensors[name].shape)
    if len(shape) != rank or 0 in shape:
        raise CheckpointError(f"{path}: {name} has shape {shape}, expected {rank} dimensions, none empty")
    return shape


def _depth(tensors: dict[str, Tensor], stack: str) -> int:
    found = (re.match(rf"{stack}\.(\d+)\.", name) for name in tensors)
    return 1 + max((int(match[1]) for match in found if match), default=-1)


def _known_heads(argument: str, width: int, table: dict[int, int], path: Path) -> int:
    if width not in table:
        raise CheckpointError(
            f"{path} is {width} wide, and its number of attention heads is known for {sorted(table)} only; "
            f"pass {argument}=..."
        )
    return table[width]
