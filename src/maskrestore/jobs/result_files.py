"""The files of one result: the purified image as PNG and its score maps as NPZ."""

from __future__ import annotations

import os
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from maskrestore.errors import ConfigError, ImageFileError
from maskrestore.imaging.codec import is_grey, read_image, write_png
from maskrestore.runtime.files import replaced_atomically
from maskrestore.types import Purification

__all__ = [
    "RESULT_FILES",
    "RESULT_FOLDERS",
    "SUSPICION_DIGITS",
    "answer",
    "check_results_folder",
    "load_purification",
    "make_result_folders",
    "purified_label",
    "save_purification",
    "suspicion_of",
]

RESULT_FOLDERS = ("images", "maps", "full")
RESULT_FILES = ("records.jsonl", "report.html", "classes.json", "answers.sqlite", "answers.sqlite-journal")
"""What a job writes into its folder; into ``full`` only pictures in full size, if they are wanted."""

_MAPS = (
    "hidden",
    "scores",
    "image_scores",
    "label_scores",
    "initial_image_scores",
    "initial_label_scores",
)
"""Fields of a Purification that are saved beside the purified image."""

SUSPICION_DIGITS = 4
"""Decimals of a suspicion in a record."""

_PROBE_BYTES = 2**16
"""Written to try whether a folder takes files: a disk may be so full that it takes empty ones only."""

_WRITTEN_WITH_8_BITS = "restored in colour, written with 8 bits"


def _folders(*, full_size: bool) -> tuple[str, ...]:
    return RESULT_FOLDERS if full_size else RESULT_FOLDERS[:-1]


def check_results_folder(folder: Path, *, full_size: bool = False) -> None:
    """Create the folder of a job's results and try whether it takes files.

    Raises ConfigError that says what is in the way.
    """
    place = folder
    try:
        for place in (folder, *(folder / name for name in _folders(full_size=full_size))):
            place.mkdir(parents=True, exist_ok=True)
            probe = place / f".{os.getpid()}.part"
            try:
                probe.write_bytes(bytes(_PROBE_BYTES))
            finally:
                probe.unlink(missing_ok=True)
        for place in (folder / name for name in RESULT_FILES):
            if place.is_dir():
                raise IsADirectoryError(0, "it is a folder, expected a file or nothing")
            if place.exists():
                place.open("ab").close()
    except OSError as error:
        reason = "it is a file, expected a folder or nothing" if place.is_file() else error.strerror or error
        raise ConfigError(
            f"results cannot be written into {folder}: {place}: {reason}; nothing was asked yet; choose another folder"
        ) from error


def make_result_folders(folder: Path, name: str, *, full_size: bool = False) -> None:
    """Create the folders of the files of a result, ``name`` as for :func:`save_purification`. Raises OSError."""
    for kind in _folders(full_size=full_size):
        (folder / kind / name).parent.mkdir(parents=True, exist_ok=True)


def save_purification(
    folder: Path, name: str, result: Purification, *, bits: int = 8, single_query: bool = False
) -> dict[str, Any]:
    """Write the files of a batch of one image and return the fields of its record that describe them.

    folder: of the results. name: of the files below ``images/`` and ``maps/``, without suffix, with forward slashes.
    bits: as for :func:`~maskrestore.imaging.codec.write_png`; a colour image is written with 8, and ``notes`` says so.
    single_query: whether the label of the original image is not known.

    Raises ImageFileError or OSError.
    """
    image, maps = Path("images", name + ".png"), Path("maps", name + ".npz")
    make_result_folders(folder, name)
    pixels = result.images[0]
    too_deep = bits > 8 and not is_grey(pixels)
    write_png(folder / image, pixels, bits=8 if too_deep else bits)
    tensors = {field: value[0].numpy() for field in _MAPS if (value := getattr(result, field)) is not None}
    with replaced_atomically(folder / maps) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, **tensors)
    return {
        "output": image.as_posix(),
        "maps": maps.as_posix(),
        **answer(result, single_query=single_query),
        "restored": None if result.hidden is None else round(float(result.hidden[0].float().mean()), 6),
        "notes": [_WRITTEN_WITH_8_BITS] if too_deep else [],
    }


def answer(result: Purification, *, single_query: bool) -> dict[str, Any]:
    """The fields of the record of a batch of one image that were paid for."""
    return {
        "original_label": None if single_query else int(result.original_labels[0]),
        "label": int(result.labels[0]),
        "queries": int(result.queries[0]),
    }


def suspicion_of(result: Purification) -> float | None:
    """The suspicion of a batch of one image, rounded as in its record; ``None`` if it is not known."""
    return None if result.suspicion is None else round(float(result.suspicion[0]), SUSPICION_DIGITS)


def purified_label(record: Mapping[str, Any]) -> int:
    """The label of the purified image. Records of earlier versions have only ``label``, which is the same."""
    label: int = record.get("purified_label", record["label"])
    return label


def load_purification(folder: Path, record: Mapping[str, Any], *, keep_grey: bool = False) -> Purification:
    """Read back a batch of one image. Its pixels are rounded to the 8 or 16 bits of the PNG.

    Raises ImageFileError or OSError if a file is missing or damaged.
    """
    path = folder / record["maps"]
    try:
        with np.load(path) as arrays:
            maps = {field: torch.from_numpy(arrays[field])[None] for field in _MAPS if field in arrays}
    except (ValueError, EOFError, TypeError, AttributeError, zipfile.BadZipFile, zlib.error) as error:
        raise ImageFileError(f"{path}: damaged: {error}") from error
    label, suspicion = purified_label(record), record.get("suspicion")
    original = label if record["original_label"] is None else record["original_label"]
    return Purification(
        images=read_image(folder / record["output"], keep_grey=keep_grey)[None],
        labels=_one(label),
        original_labels=_one(original),
        queries=_one(record["queries"]),
        suspicion=None if suspicion is None else torch.tensor([suspicion]),
        **maps,
    )


def _one(number: int) -> Tensor:
    return torch.tensor([number])
