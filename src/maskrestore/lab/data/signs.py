"""Rendered street signs: a data set that needs no download and no licence.

Image ``i`` of a split depends on the seed, the split and ``i`` only. So the first images do not depend on ``count``,
and the splits use different random streams. Pixels are reproducible with the same versions of Pillow and NumPy.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from maskrestore.errors import ConfigError, UnknownNameError
from maskrestore.lab.data.dataset import ImageDataset
from maskrestore.lab.data.sign_backgrounds import background
from maskrestore.lab.data.sign_scenes import develop, illuminate, place, weather
from maskrestore.lab.data.sign_shapes import SIGN_NAMES, VARIANTS, sign_face

__all__ = ["SIGN_COUNTS", "SIGN_SIZE", "load_signs", "render_sign"]

SIGN_SIZE = 32
"""Side of the images in pixels."""
SIGN_COUNTS: dict[str, int] = {"train": 12_000, "test": 1_200}
"""Default number of images of each split."""

_IMAGE_STREAM, _LABEL_STREAM = 0, 1


def load_signs(split: str, *, count: int | None = None, seed: int = 0) -> ImageDataset:
    """Render a split of the street-sign data set.

    Args:
        split: "train" or "test".
        count: number of images; the default is 12,000 for "train" and 1,200 for "test". Each block of
            ``len(SIGN_NAMES)`` images contains every class once.
        seed: seed of the random streams, 0 or more.

    Returns:
        The data set, with images ``(count, 3, 32, 32)`` uint8. Rendering takes about two milliseconds per image.

    Raises:
        UnknownNameError: the split is unknown.
        ConfigError: the count or the seed is below zero.
    """
    if split not in SIGN_COUNTS:
        raise UnknownNameError("split of the street-sign data set", split, SIGN_COUNTS)
    count = SIGN_COUNTS[split] if count is None else count
    for name, value in (("count", count), ("seed", seed)):
        if value < 0:
            raise ConfigError(f"{name} is {value}; expected zero or more")
    labels = _labels(split, count, seed)
    images = np.empty((count, 3, SIGN_SIZE, SIGN_SIZE), np.uint8)
    for index in range(count):
        images[index] = render_sign(int(labels[index]), _generator(seed, split, _IMAGE_STREAM, index))
    return ImageDataset(
        name="signs",
        images=torch.from_numpy(images),
        labels=torch.from_numpy(labels),
        class_names=SIGN_NAMES,
    )


def render_sign(label: int, rng: np.random.Generator) -> npt.NDArray[np.uint8]:
    """Render one ``(3, 32, 32)`` uint8 image of the class ``label``, an index into ``SIGN_NAMES``."""
    face = sign_face(label, int(rng.integers(VARIANTS)))
    scene, opacity = place(face, background(rng), rng)
    return develop(illuminate(weather(scene, opacity, rng), rng), SIGN_SIZE, rng)


def _generator(seed: int, split: str, stream: int, index: int) -> np.random.Generator:
    """Return the counter-based generator of one image or one block of labels."""
    entropy = (seed, list(SIGN_COUNTS).index(split), stream, index)
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(entropy)))


def _labels(split: str, count: int, seed: int) -> npt.NDArray[np.int64]:
    """Return ``(count,)`` labels: random permutations of the classes, concatenated."""
    classes = len(SIGN_NAMES)
    blocks = [
        _generator(seed, split, _LABEL_STREAM, block).permutation(classes) for block in range(-(-count // classes))
    ]
    return np.concatenate([np.empty(0, np.int64), *blocks])[:count].astype(np.int64)
