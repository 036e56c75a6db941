"""The files of one result: the purified image as PNG and its score maps as NPZ."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from maskrestore.imaging.codec import read_image, write_png
from maskrestore.types import Purification

__all__ = ["load_purification", "save_purification"]

_MAPS = (
    "hidden",
    "scores",
    "image_scores",
    "label_scores",
    "initial_image_scores",
    "initial_label_scores",
)
"""Fields of a Purification that are saved beside the purified image."""


def save_purification(folder: Path, name: str, result: Purification) -> dict[str, Any]:
    """Write the files of a batch of one image and return the fields of its record that describe them.

    folder: of the results. name: of the files below ``images/`` and ``maps/``, without suffix, with forward slashes.
    """
    image, maps = Path("images", name + ".png"), Path("maps", name + ".npz")
    for path in (image, maps):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
    write_png(folder / image, result.images[0])
    tensors = {field: value[0].numpy() for field in _MAPS if (value := getattr(result, field)) is not None}
    np.savez_compressed(folder / maps, **tensors)
    return {
        "output": image.as_posix(),
        "maps": maps.as_posix(),
        "original_label": int(result.original_labels[0]),
        "label": int(result.labels[0]),
        "queries": int(result.queries[0]),
        "restored": None if result.hidden is None else round(float(result.hidden[0].float().mean()), 6),
    }


def load_purification(folder: Path, record: Mapping[str, Any], *, keep_grey: bool = False) -> Purification:
    """Read back a batch of one image. Its pixels are rounded to the 8 bits of the PNG.

    Raises ImageFileError or OSError if a file is missing or damaged.
    """
    with np.load(folder / record["maps"]) as arrays:
        maps = {field: torch.from_numpy(arrays[field])[None] for field in _MAPS if field in arrays}
    return Purification(
        images=read_image(folder / record["output"], keep_grey=keep_grey)[None],
        labels=torch.tensor([record["label"]]),
        original_labels=torch.tensor([record["original_label"]]),
        queries=torch.tensor([record["queries"]]),
        **maps,
    )
