"""Rendered street signs: a data set that needs no download and no licence.

Image ``i`` of a split depends on the seed, the split and ``i`` only. So the first images do not depend on ``count``,
and the splits use different random streams. Pixels are reproducible with the same versions of Pillow and NumPy.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from maskrestore.errors import ConfigError, UnknownNameError
from maskrestore.imaging.sizes import is_photograph
from maskrestore.lab.data.dataset import ImageDataset
from maskrestore.lab.data.sign_backgrounds import background
from maskrestore.lab.data.sign_canvas import Canvas
from maskrestore.lab.data.sign_scenes import develop, illuminate, place, weather
from maskrestore.lab.data.sign_shapes import FACE_SIZE, SIGN_NAMES, VARIANTS, sign_face
from maskrestore.lab.data.stored import StoredImages

__all__ = ["SIGN_COUNTS", "SIGN_SIZE", "load_signs", "render_sign"]

SIGN_SIZE = 32
"""Side of the images in pixels."""
SIGN_COUNTS: dict[str, int] = {"train": 12_000, "test": 1_200}
"""Default number of images of each split."""

_SMALLEST = 16
_CANVAS = Canvas(SIGN_SIZE)
_IMAGE_STREAM, _LABEL_STREAM = 0, 1


def load_signs(split: str, *, count: int | None = None, seed: int = 0, size: int = SIGN_SIZE) -> ImageDataset:
    """Render a split of the street-sign data set.

    Args:
        split: "train" or "test".
        count: number of images; the default is 12,000 for "train" and 1,200 for "test". Each block of
            ``len(SIGN_NAMES)`` images contains every class once.
        seed: seed of the random streams, 0 or more.
        size: side of the images in pixels, 16 or more. The labels do not depend on it.

    Returns:
        The data set, called "signs" at the size 32 and else "signs-SIZE", with images ``(count, 3, size, size)`` uint8.
        An image of 32 pixels takes about two milliseconds, one of 224 pixels 15. Images larger than 64 pixels are
        rendered when they are first indexed.

    Raises:
        UnknownNameError: the split is unknown.
        ConfigError: the count or the seed is below zero, or the size below 16.
    """
    if split not in SIGN_COUNTS:
        raise UnknownNameError("split of the street-sign data set", split, SIGN_COUNTS)
    count = SIGN_COUNTS[split] if count is None else count
    for name, value in (("count", count), ("seed", seed)):
        if value < 0:
            raise ConfigError(f"{name} is {value}; expected zero or more")
    if size < _SMALLEST:
        raise ConfigError(f"size is {size}; expected {_SMALLEST} or more pixels")
    labels = torch.from_numpy(_labels(split, count, seed))
    images = StoredImages(_Renderings(split, labels.tolist(), seed, Canvas(size)), size)
    return ImageDataset(
        name="signs" if size == SIGN_SIZE else f"signs-{size}",
        images=images if is_photograph(size, size) else images[:],
        labels=labels,
        class_names=SIGN_NAMES,
    )


class _Renderings:
    """The pictures of a split. Each is rendered once, when it is first used."""

    def __init__(self, split: str, labels: list[int], seed: int, canvas: Canvas) -> None:
        self._split, self._labels, self._seed, self._canvas = split, labels, seed, canvas
        self._rendered: dict[int, torch.Tensor] = {}

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, str]:
        if index not in self._rendered:
            rng = _generator(self._seed, self._split, _IMAGE_STREAM, index)
            self._rendered[index] = torch.from_numpy(render_sign(self._labels[index], rng, self._canvas))
        return self._rendered[index], f"sign {index}"

    def paths(self) -> list[str]:
        """Return an empty path for each: there are no files."""
        return [""] * len(self)


def render_sign(label: int, rng: np.random.Generator, canvas: Canvas = _CANVAS) -> npt.NDArray[np.uint8]:
    """Render one ``(3, size, size)`` uint8 image of the class ``label``, an index into ``SIGN_NAMES``."""
    face = sign_face(label, int(rng.integers(VARIANTS)), canvas.pixels(FACE_SIZE))
    scene, opacity = place(canvas, face, background(canvas, rng), rng)
    return develop(canvas, illuminate(canvas, weather(canvas, scene, opacity, rng), rng), rng)


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
