"""Read Hugging Face's ``ViTMAEForPreTraining`` models from their files, without the library transformers."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from maskrestore.errors import CheckpointError, ConfigError, MissingDependencyError
from maskrestore.mae.checkpoints.weight_files import as_tensors, read_pickle, read_safetensors
from maskrestore.mae.vit_config import IMAGENET_MEAN, IMAGENET_STD, ViTMAEConfig

__all__ = ["download", "read_hugging_face"]

HUB_FILES = ("config.json", "preprocessor_config.json")
HUB_WEIGHTS = ("model.safetensors", "pytorch_model.bin")

_EXPECTED = {"model_type": "vit_mae", "hidden_act": "gelu", "qkv_bias": True, "num_channels": 3}
# Our name: (the name in config.json, the default of transformers for files without it).
_FIELDS: dict[str, tuple[str, Any]] = {
    "image_size": ("image_size", 224),
    "patch_size": ("patch_size", 16),
    "width": ("hidden_size", 768),
    "depth": ("num_hidden_layers", 12),
    "heads": ("num_attention_heads", 12),
    "decoder_width": ("decoder_hidden_size", 512),
    "decoder_depth": ("decoder_num_hidden_layers", 8),
    "decoder_heads": ("decoder_num_attention_heads", 16),
    "norm_eps": ("layer_norm_eps", 1e-12),
    "normalized_pixel_targets": ("norm_pix_loss", False),
}


def read_hugging_face(folder: Path) -> tuple[ViTMAEConfig, dict[str, Tensor]]:
    """Read a folder that ``ViTMAEForPreTraining.save_pretrained`` wrote.

    Weights are read from ``model.safetensors`` or else ``pytorch_model.bin``. Returns the configuration and the tensors
    under their official names. Raises CheckpointError if a file is missing or damaged, or describes another
    architecture.
    """
    config = _read_config(folder)
    safe, pickled = (folder / name for name in HUB_WEIGHTS)
    if safe.is_file():
        tensors = read_safetensors(safe)[0]
    elif pickled.is_file():
        tensors = as_tensors(read_pickle(pickled), pickled)
    else:
        raise CheckpointError(f"{folder} holds neither {HUB_WEIGHTS[0]} nor {HUB_WEIGHTS[1]}, expected one of them")
    return config, _fuse_attention({_official_name(name): tensor for name, tensor in tensors.items()}, folder)


def download(name: str) -> Path:
    """Download a model from the Hugging Face hub, or find it in the local cache; returns its folder.

    Raises MissingDependencyError if huggingface_hub is not installed, and CheckpointError if the hub does not answer or
    does not have the model.
    """
    try:
        from huggingface_hub import snapshot_download  # noqa: PLC0415 - an optional dependency
    except ImportError as error:
        raise MissingDependencyError("huggingface_hub", "hub") from error
    try:
        folder = Path(snapshot_download(name, allow_patterns=[*HUB_FILES, HUB_WEIGHTS[0]]))
        if not (folder / HUB_WEIGHTS[0]).is_file():
            folder = Path(snapshot_download(name, allow_patterns=[*HUB_FILES, HUB_WEIGHTS[1]]))
    except Exception as error:  # their types come from several libraries and differ by version
        raise CheckpointError(
            f"cannot fetch {name!r} from the Hugging Face hub ({type(error).__name__}: {error}); "
            "check the name and the network, or give a local folder that holds its files"
        ) from error
    return folder


def _read_config(folder: Path) -> ViTMAEConfig:
    found = _json(folder / "config.json")
    for name, value in _EXPECTED.items():
        if found.get(name, value) != value:
            raise CheckpointError(f"{folder / 'config.json'}: {name} is {found[name]!r}, expected {value!r}")
    chosen = {ours: _squared(found.get(theirs, default)) for ours, (theirs, default) in _FIELDS.items()}
    try:
        mlp_ratio = found.get("intermediate_size", 3072) / chosen["width"]
        decoder_mlp_ratio = found.get("decoder_intermediate_size", 2048) / chosen["decoder_width"]
        if mlp_ratio != decoder_mlp_ratio:
            raise ConfigError(f"MLP ratios of encoder and decoder must be equal, got {mlp_ratio}, {decoder_mlp_ratio}")
        mean, std = _normalisation(folder)
        return ViTMAEConfig(**chosen, mlp_ratio=mlp_ratio, mean=mean, std=std)
    except (ArithmeticError, TypeError, ValueError) as error:
        raise CheckpointError(f"{folder / 'config.json'} does not describe a masked autoencoder: {error}") from error


def _normalisation(folder: Path) -> tuple[Any, Any]:
    """Mean and standard deviation from ``preprocessor_config.json``; ImageNet's if there is no such file."""
    path = folder / "preprocessor_config.json"
    found = _json(path) if path.is_file() else {}
    if not found.get("do_normalize", True):
        return (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    return tuple(found.get("image_mean", IMAGENET_MEAN)), tuple(found.get("image_std", IMAGENET_STD))


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"cannot read {path}: {error}") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} holds a {type(content).__name__}, expected a JSON object")
    return content


def _squared(size: Any) -> Any:
    """Turn ``[224, 224]`` into ``224``; other values are returned as they are, and ViTMAEConfig checks them."""
    return size[0] if isinstance(size, list) and len(size) == 2 and size[0] == size[1] else size


# Applied in this order. transformers 4 and 5 use different names, and when version 5 writes the layout of version 4, it
# has another name for the layers of the decoder.
_RENAMES = [
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"^vit\.embeddings\.position_embeddings$", "pos_embed"),
        (r"^vit\.embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
        (r"^vit\.embeddings\.", ""),
        (r"^vit\.(encoder\.layer|layers)\.", "blocks."),
        (r"^vit\.layernorm\.", "norm."),
        (r"^decoder\.(decoder_layers|decoder_encoder\.layer)\.", "decoder_blocks."),
        (r"^decoder\.", ""),
        (r"\.layernorm_before\.", ".norm1."),
        (r"\.layernorm_after\.", ".norm2."),
        (r"\.attention\.(attention\.query|q_proj)\.", ".attn.q."),
        (r"\.attention\.(attention\.key|k_proj)\.", ".attn.k."),
        (r"\.attention\.(attention\.value|v_proj)\.", ".attn.v."),
        (r"\.attention\.(output\.dense|o_proj)\.", ".attn.proj."),
        (r"\.intermediate\.dense\.", ".mlp.fc1."),
        (r"\.output\.dense\.", ".mlp.fc2."),
    )
]


def _official_name(name: str) -> str:
    for pattern, replacement in _RENAMES:
        name = pattern.sub(replacement, name)
    return name


def _fuse_attention(tensors: dict[str, Tensor], folder: Path) -> dict[str, Tensor]:
    """Concatenate the separate query, key and value projections to the official ``attn.qkv``."""
    fused = {name: tensor for name, tensor in tensors.items() if not re.search(r"\.attn\.[qkv]\.", name)}
    for name in tensors:
        if ".attn.q." in name:
            parts = [name.replace(".attn.q.", f".attn.{letter}.") for letter in "qkv"]
            shapes = [tuple(tensors[part].shape) if part in tensors else None for part in parts]
            if len(set(shapes)) > 1:
                raise CheckpointError(f"{folder}: {parts} have the shapes {shapes}, expected equal shapes")
            # Three (D, D) -> (3 D, D), or three (D,) -> (3 D,)
            fused[name.replace(".attn.q.", ".attn.qkv.")] = torch.cat([tensors[part] for part in parts])
    return fused
