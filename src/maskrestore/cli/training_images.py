"""Read the training images of ``pretrain`` and ``train-diffusion``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import torch
import typer
from torch import Tensor

from maskrestore.cli.terminal import progress, warn
from maskrestore.errors import ConfigError, DataError, ImageFileError
from maskrestore.imaging.codec import read_image
from maskrestore.imaging.views import View
from maskrestore.imaging.walking import find_images
from maskrestore.lab.data import DATASETS, load_dataset

__all__ = ["HeldOutOption", "ImagesArgument", "training_images"]

ImagesArgument = Annotated[
    list[str],
    typer.Argument(
        metavar="IMAGES...",
        help=f"Folders of images, names of data sets ({', '.join(DATASETS)}; some need the extra `lab`), or both.",
    ),
]
HeldOutOption = Annotated[
    int, typer.Option(min=0, help="Number of images to measure the error on instead of training.")
]


def training_images(
    sources: Sequence[str], size: int, data: Path | None, *, held_out: int, seed: int
) -> tuple[Tensor | None, Tensor]:
    """Held-out images, or ``None`` if ``held_out`` is 0, and training images, each ``(N, 3, S, S)`` uint8, shuffled.

    Raises ConfigError if no image is left to train on, DataError if a source does not exist or cannot be read, and
    MissingDependencyError for the name of a data set if the extra ``lab`` is not installed.
    """
    pixels = torch.cat([_load(source, size, data) for source in sources])
    if held_out >= len(pixels):
        raise ConfigError(f"--held-out {held_out} leaves none of {len(pixels)} images to train on; lower it")
    # Shuffled, because folders are sorted by name, and data sets often by class.
    order = torch.randperm(len(pixels), generator=torch.Generator().manual_seed(seed))
    return (pixels[order[:held_out]] if held_out else None), pixels[order[held_out:]]


def _load(source: str, size: int, data: Path | None) -> Tensor:
    """``(N, 3, S, S)`` uint8: the training split of a data set, or the middle squares of the images of a folder."""
    if source in DATASETS:
        return load_dataset(source, "train", folder=data).images[:]
    if not Path(source).exists():
        raise DataError(f"{source!r} is neither a folder nor a data set; known: {', '.join(DATASETS)}")
    files = find_images(source)
    rows = []
    with progress("read") as update:
        for done, file in enumerate(files, start=1):
            try:
                square = View(height=size, width=size).show(read_image(file)).clamp(0, 1)
            except ImageFileError as error:
                warn(f"left out: {error}")
            else:
                rows.append((square * 255).round().byte())
            update(done, len(files))
    if not rows:
        raise DataError(f"none of the {len(files)} image files in {source} can be read")
    return torch.stack(rows)
