"""Save and load masked autoencoders.

:func:`load_network` reads maskrestore's safetensors files, official ``.pth`` files (``official.py``) and Hugging Face's
folders (``hugging_face.py``). No file can run code: pickles are read with ``weights_only=True`` or refused.

Mask polarity: 1 means *removed* in the official code and True means *hidden* here, so no format needs to be inverted.
"""

from __future__ import annotations

import functools
import json
import logging
import re
from collections.abc import Mapping
from dataclasses import asdict
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from maskrestore.errors import CheckpointError, ConfigError, UnknownNameError
from maskrestore.mae.checkpoints.hugging_face import download, read_hugging_face
from maskrestore.mae.checkpoints.official import read_official
from maskrestore.mae.checkpoints.weight_files import read_safetensors, weights_digest
from maskrestore.mae.conv import ConvMAE, ConvMAEConfig
from maskrestore.mae.vit import ViTMAE
from maskrestore.mae.vit_config import ViTMAEConfig

__all__ = ["FAMILIES", "build_network", "load_network", "packaged_digest", "packaged_names", "save_network"]

FAMILIES: dict[str, tuple[Any, type[ViTMAE] | type[ConvMAE]]] = {
    "vit": (ViTMAEConfig, ViTMAE),
    "conv": (ConvMAEConfig, ConvMAE),
}
"""The configuration and network class of each family, by the name in the metadata of our files."""

_RESERVED = ("family", "config", "format")


def build_network(family: str, fields: Mapping[str, Any]) -> ViTMAE | ConvMAE:
    """Build a network with random weights from PyTorch's global generator.

    family: ``vit`` or ``conv``. fields: fields of the family's configuration class that differ from the defaults; lists
    are converted to tuples. Raises UnknownNameError for an unknown family, ConfigError for unknown or invalid fields.
    """
    if family not in FAMILIES:
        raise UnknownNameError("family of masked autoencoders", family, FAMILIES)
    config_class, network_class = FAMILIES[family]
    frozen = {name: tuple(value) if isinstance(value, list) else value for name, value in fields.items()}
    try:
        config = config_class(**frozen)
    except TypeError as error:
        raise ConfigError(f"not a configuration of the {family!r} family: {error}") from error
    return network_class(config)


def save_network(
    path: Path | str,
    network: nn.Module,
    card: Mapping[str, str] | None = None,
    *,
    dtype: torch.dtype = torch.float16,
) -> None:
    """Write a network as a safetensors file: learned weights in ``dtype``, fixed tables in float32.

    card: facts for the metadata of the file, such as the command that trained the weights; the names ``family``,
    ``config`` and ``format`` are reserved. An existing file is replaced only when the new one is complete.

    Raises ConfigError for a network of an unknown family or a reserved name in the card, and CheckpointError for
    weights that are not finite in ``dtype``.
    """
    family = next((name for name, (_, kind) in FAMILIES.items() if isinstance(network, kind)), None)
    if family is None:
        raise ConfigError(
            f"cannot save a {type(network).__name__}; expected a network of a family: {', '.join(FAMILIES)}"
        )
    clashing = sorted(set(card or {}) & set(_RESERVED))
    if clashing:
        raise ConfigError(f"the card must not use the reserved names {clashing}; rename them")
    learned = dict(network.named_parameters())
    tensors: dict[str, Tensor] = {}
    for name, tensor in network.state_dict().items():
        stored = tensor.detach().to("cpu", dtype if name in learned else torch.float32).contiguous()
        if not stored.isfinite().all():
            raise CheckpointError(
                f"{name} is not finite in {dtype}; check whether the training diverged, or save in float32"
            )
        tensors[name] = stored
    config = json.dumps(asdict(network.config))  # type: ignore[call-overload]
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".part")
    save_file(tensors, temporary, {**(card or {}), "family": family, "config": config, "format": "pt"})
    temporary.replace(path)


def load_network(
    name_or_path: str | Path, *, heads: int | None = None, decoder_heads: int | None = None
) -> ViTMAE | ConvMAE:
    """Load a masked autoencoder for restoration, in float32 and evaluation mode.

    name_or_path: one of these, tried in this order:

    - the name of packaged weights, such as ``mae-tiny-32``;
    - a local file: ``.safetensors`` from :func:`save_network`, or an official ``.pth``;
    - a local folder that ``ViTMAEForPreTraining.save_pretrained`` wrote;
    - a name on the Hugging Face hub, such as ``facebook/vit-mae-base``.

    heads, decoder_heads: attention heads of an official checkpoint of unusual width. Loading an official or Hugging
    Face checkpoint logs the licence of the published weights.

    Raises CheckpointError if nothing is found, or if a file is unsafe, is damaged, does not fit its architecture, or
    holds a network for normalised pixels. Raises MissingDependencyError if the hub is needed and huggingface_hub is not
    installed.
    """
    packaged = _packaged().get(name_or_path) if isinstance(name_or_path, str) else None
    if packaged is not None:
        with resources.as_file(packaged) as file:
            return _load_own(file)
    path = Path(name_or_path)
    if path.is_file() and path.suffix == ".safetensors":
        return _load_own(path)
    if path.is_file():
        config, tensors = read_official(path, heads=heads, decoder_heads=decoder_heads)
    elif path.is_dir():
        config, tensors = read_hugging_face(path)
    elif isinstance(name_or_path, str) and _is_hub_name(name_or_path):
        config, tensors = read_hugging_face(download(name_or_path))
    else:
        raise CheckpointError(
            f"no masked autoencoder {str(name_or_path)!r}: expected packaged weights "
            f"({', '.join(packaged_names()) or 'none are installed'}), a file, a folder, "
            "or a hub name like owner/model"
        )
    network = _load(str(name_or_path), "vit", asdict(config), tensors)
    logging.getLogger("maskrestore").warning(
        "%s: the masked autoencoders published by Meta are licensed CC-BY-NC 4.0 (no commercial use).",
        name_or_path,
    )
    return network


def _is_hub_name(name: str) -> bool:
    """Whether ``name`` looks like ``owner/model`` and not like the path of a missing file."""
    is_file_name = Path(name).suffix in (".safetensors", ".pth", ".pt", ".bin")
    return not is_file_name and re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", name) is not None


def packaged_names() -> list[str]:
    """Names of the weights that are packaged with maskrestore, sorted."""
    return sorted(_packaged())


@functools.cache
def packaged_digest(name: str) -> str:
    """The ``weights_digest`` of packaged weights. Raises UnknownNameError for another name."""
    if name not in _packaged():
        raise UnknownNameError("packaged masked autoencoder", name, packaged_names())
    digest = weights_digest(load_network(name))
    assert digest is not None
    return digest


def _packaged() -> dict[str, Traversable]:
    folder = resources.files("maskrestore") / "assets"
    files = folder.iterdir() if folder.is_dir() else ()
    return {
        file.name.removesuffix(".safetensors"): file
        for file in files
        if file.name.startswith("mae-") and file.name.endswith(".safetensors")
    }


def _load_own(path: Path) -> ViTMAE | ConvMAE:
    tensors, metadata = read_safetensors(path)
    if "family" not in metadata or "config" not in metadata:
        raise CheckpointError(
            f"{path} has no 'family' and 'config' in its metadata, so save_network did not write it; "
            "for Hugging Face weights give the folder that holds config.json"
        )
    try:
        fields = json.loads(metadata["config"])
    except ValueError as error:
        raise CheckpointError(f"{path}: the configuration in the metadata is not JSON: {error}") from error
    if not isinstance(fields, dict):
        raise CheckpointError(f"{path}: the configuration in the metadata is {fields!r}, expected an object")
    return _load(str(path), metadata["family"], fields, tensors)


def _load(source: str, family: str, fields: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> ViTMAE | ConvMAE:
    if fields.get("normalized_pixel_targets"):
        raise CheckpointError(
            f"{source} predicts pixels normalised by the statistics of their patch (norm_pix_loss), which "
            "cannot be turned back into pixels for hidden patches; use weights trained without it, such as "
            "mae_visualize_*.pth"
        )
    try:
        # The random initial weights are overwritten; drawing them must not change the state of the global generator.
        with torch.random.fork_rng(devices=[]):
            network = build_network(family, fields)
    except ConfigError as error:
        raise CheckpointError(f"{source}: {error}") from error
    _check_fit(source, network.state_dict(), tensors)
    network.load_state_dict({name: tensor.float() for name, tensor in tensors.items()})
    return network.eval()


def _check_fit(source: str, expected: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> None:
    """Raise CheckpointError if a tensor is missing, has another shape, or is unknown."""
    for name, tensor in expected.items():
        if name not in found:
            raise CheckpointError(f"{source}: {name} of shape {tuple(tensor.shape)} is missing")
        if found[name].shape != tensor.shape:
            raise CheckpointError(
                f"{source}: {name} has shape {tuple(found[name].shape)}, expected {tuple(tensor.shape)}"
            )
    unknown = sorted(set(found) - set(expected))
    if unknown:
        raise CheckpointError(
            f"{source}: {len(unknown)} unknown tensors, the first is {unknown[0]}; is it another architecture?"
        )
