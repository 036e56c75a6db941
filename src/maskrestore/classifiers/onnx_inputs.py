"""What an ONNX file says about the pictures that it takes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from maskrestore.classifiers.normalisation import ChannelOrder, Channelwise, Layout, Normalisation, arranged
from maskrestore.errors import ClassifierError, ConfigError

__all__ = ["FLOATS", "INTEGERS", "OnnxInput", "packed", "picture_input", "pixel_rules"]

FLOATS: dict[str, np.dtype[Any]] = {
    "tensor(float)": np.dtype("float32"),
    "tensor(float16)": np.dtype("float16"),
    "tensor(double)": np.dtype("float64"),
    "tensor(bfloat16)": np.dtype("float32"),  # NumPy has none: the adapter converts
}
INTEGERS: dict[str, np.dtype[Any]] = {
    f"tensor({name})": np.dtype(name)
    for name in ("uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64")
}
_MOST_VALUES = 2**28
"""Numbers in one input: a gigabyte of float32. More is a mistake, or an attack on the memory."""

_CHANNEL_NAMES = ("c", "channel", "channels", "num_channels", "in_channels", "n_channels")


@dataclass(frozen=True, kw_only=True)
class OnnxInput:
    """The input that takes the pictures; None stands for what the file leaves free."""

    name: str
    kind: str
    """ONNX Runtime's name of the type, such as ``tensor(float)``."""
    dtype: np.dtype[Any]
    layouts: tuple[Layout, ...]
    """The orders of axes that fit. With several, the first pictures decide."""
    has_batch: bool
    """Whether there is an axis of images; without, the model takes one at a time."""
    has_channels: bool
    """Whether there is an axis of channels; without, the pictures are grey."""
    batch: int | None
    channels: int | None
    size: tuple[int, int] | None


def picture_input(
    session: Any, path: Path | str, layout: Layout | None, input_size: tuple[int, int] | None
) -> OnnxInput:
    """What the only input takes.

    path: of the file, or the address, for messages. layout, input_size: as wanted by the caller. Raises ClassifierError
    if the model takes something else than pictures, ConfigError if a wish does not fit, or if something is unclear that
    must be wished for.
    """
    inputs = session.get_inputs()
    if len(inputs) != 1:
        listed = "; ".join(f"{one.name}: {one.type} of shape {one.shape}" for one in inputs) or "none"
        raise ClassifierError(
            f"{path}: expected a model with one input, the images; it has {len(inputs)}: {listed}; export it with one, "
            "or write a function that fills the others in and give its name as package.module:function"
        )
    entry = inputs[0]
    found = f"{path}: the input {entry.name!r} is {entry.type} of shape {entry.shape}"
    dtype = FLOATS.get(entry.type) or INTEGERS.get(entry.type)
    if dtype is None:
        raise ClassifierError(
            f"{found}; expected numbers; if the model decodes files or text itself, export the part after that, or "
            "write a function that calls it and give its name as package.module:function"
        )
    # ONNX Runtime says [] where the number of axes is not known.
    names = list(entry.shape) or ["", "", "", ""]
    axes = [axis if isinstance(axis, int) and axis > 0 else None for axis in names]
    known = {"name": entry.name, "kind": entry.type, "dtype": dtype}
    match len(axes):
        case 4:
            taken = _of_four_axes(axes, names, layout, found, known)
        case 3:
            taken = _of_three_axes(axes, layout, found, known)
        case 2:
            taken = _flat(axes, layout, input_size, found, known)
        case _:
            raise ClassifierError(f"{found}; expected 4 axes (images, channels, height, width), 3, or 2 for rows")
    sides = axes[1:3] if taken.layouts == ("hwc",) else axes[-2:]
    if len(axes) == 4 and len(taken.layouts) == 1 and None in sides and sides != [None, None] and input_size is None:
        raise ConfigError(
            f"{found}: its height or width is free; say both with input_size=(H, W) (--input-size "
            f"{'x'.join(str(side or letter) for side, letter in zip(sides, 'HW', strict=True))})"
        )
    if taken.channels not in (None, 1, 3):
        raise ClassifierError(f"{found}; it takes {taken.channels} channels, pictures have 1 or 3")
    if input_size is not None and taken.size not in (None, input_size):
        raise ConfigError(
            f"input_size {input_size} does not fit the model, which takes {taken.size} only; leave it out"
        )
    if math.prod(axis or 1 for axis in axes) > _MOST_VALUES:
        raise ClassifierError(f"{found}: more than {_MOST_VALUES} numbers at a time, which is no model of pictures")
    return taken


def _of_four_axes(
    axes: list[int | None], names: list[Any], layout: Layout | None, found: str, known: dict[str, Any]
) -> OnnxInput:
    if layout in ("flat", "flat-hwc"):
        raise ConfigError(f"{found}, which is not flat; layout can be chw or hwc (--layout chw)")
    places: dict[Layout, int] = {"chw": 1, "hwc": 3}
    fits: tuple[Layout, ...] = tuple(one for one, place in places.items() if axes[place] in (None, 1, 3))
    if layout is None and len(fits) == 2:
        # An axis of 1 or 3 is that of the channels; else, one that is called so.
        fits = (
            tuple(one for one in fits if axes[places[one]] is not None)
            or tuple(one for one in fits if str(names[places[one]]).lower() in _CHANNEL_NAMES)
            or fits
        )
        if len(fits) == 2 and axes[1] is not None:
            raise ConfigError(f"{found}: the channels may be axis 1 or 3; say which with layout=chw or hwc (--layout)")
    if layout is not None:
        fits = tuple(one for one in fits if one == layout)
    if not fits:
        raise ClassifierError(
            f"{found}; expected 1 or 3 channels in axis " + (f"{places[layout]}" if layout else "1 or 3")
        )
    channels, height, width = (axes[1], axes[2], axes[3]) if fits == ("chw",) else (axes[3], axes[1], axes[2])
    if len(fits) == 2:
        channels = height = width = None
    return OnnxInput(
        layouts=fits, has_batch=True, has_channels=True, batch=axes[0], channels=channels, size=_size(height, width),
        **known,
    )  # fmt: skip


def _of_three_axes(axes: list[int | None], layout: Layout | None, found: str, known: dict[str, Any]) -> OnnxInput:
    """Grey pictures without an axis of channels, or one picture without an axis of images."""
    if layout in ("flat", "flat-hwc"):
        raise ConfigError(f"{found}, which is not flat; leave the layout out")
    one_picture = layout or (
        "chw" if axes[0] == 3 else "hwc" if axes[2] in (1, 3) and axes[0] not in (None, 1) else None
    )
    if one_picture is None:
        return OnnxInput(
            layouts=("chw",), has_batch=True, has_channels=False, batch=axes[0], channels=1,
            size=_size(axes[1], axes[2]), **known,
        )  # fmt: skip
    channels, height, width = axes if one_picture == "chw" else (axes[2], axes[0], axes[1])
    return OnnxInput(
        layouts=(one_picture,), has_batch=False, has_channels=True, batch=1, channels=channels,
        size=_size(height, width), **known,
    )  # fmt: skip


def _flat(
    axes: list[int | None],
    layout: Layout | None,
    input_size: tuple[int, int] | None,
    found: str,
    known: dict[str, Any],
) -> OnnxInput:
    """Rows of numbers."""
    if layout in ("chw", "hwc"):
        raise ConfigError(f"{found}, which is flat; layout can be flat (channel after channel) or flat-hwc (--layout)")
    length = axes[1]
    if input_size is None:
        sides = {channels: math.isqrt((length or 0) // channels) for channels in (1, 3)}
        guess = [side for channels, side in sides.items() if length and side * side * channels == length]
        raise ConfigError(
            f"{found}: a picture as a row of numbers; say its height and width with input_size=(H, W) (--input-size "
            f"{f'{guess[0]}x{guess[0]}' if guess else 'HxW'})"
        )
    channels = None if length is None else length / math.prod(input_size)
    if channels not in (None, 1, 3):
        raise ConfigError(
            f"{found}; {input_size[0]} x {input_size[1]} pictures with 1 or 3 channels do not fill its row"
        )
    if channels != 1 and layout is None:
        raise ConfigError(
            f"{found}: the rows of colour pictures may hold channel after channel or pixel after pixel; say which with "
            "layout=flat or flat-hwc (--layout flat)"
        )
    return OnnxInput(
        layouts=(layout or "flat",), has_batch=True, has_channels=True, batch=axes[0],
        channels=None if channels is None else int(channels), size=input_size, **known,
    )  # fmt: skip


def _size(height: int | None, width: int | None) -> tuple[int, int] | None:
    return None if height is None or width is None else (height, width)


def packed(values: Tensor, taken: OnnxInput) -> np.ndarray[Any, Any]:
    """What a model takes for a normalised picture ``(1, C, H, W)``, in the order and type of its input.

    A model with a fixed number of images gets the picture so many times.
    """
    laid = arranged(values, taken.layouts[0])
    if taken.dtype.kind in "iu":
        laid = laid.round()
    laid = laid.repeat(taken.batch or 1, *[1] * (laid.ndim - 1))
    if not taken.has_channels:
        laid = laid[:, 0]  # (B, 1, H, W) -> (B, H, W)
    return (laid if taken.has_batch else laid[0]).numpy().astype(taken.dtype)


def pixel_rules(
    taken: OnnxInput,
    what: Path | str,
    metadata: Mapping[str, str],
    *,
    mean: Channelwise = 0.0,
    std: Channelwise = 1.0,
    pixel_range: Sequence[float] | None = None,
    channel_order: ChannelOrder | None = None,
) -> tuple[Normalisation, list[str]]:
    """What becomes of pixels for a model, and what was assumed without being said, in words.

    what: the file or address, for messages. metadata: what the file says of itself. The others are as the user gave
    them. Raises ConfigError if a model takes whole numbers and it is not clear which, or they do not fit its type.
    """
    said_range, said_order = _file_range(metadata), _file_order(metadata)
    notes = []
    if pixel_range is None and said_range is not None:
        notes.append(f"pixels are {said_range[0]:g} to {said_range[1]:g}, as the file says")
    elif pixel_range is None and taken.dtype == np.uint8:
        said_range = (0.0, 255.0)
        notes.append("pixels are 0 to 255, because the model takes uint8")
    if channel_order is None and said_order == "bgr":
        notes.append("channels are blue, green, red, as the file says")
    bounds = pixel_range or said_range or (0.0, 1.0)
    found = Normalisation.of(mean, std, bounds, channel_order or said_order or "rgb")
    if taken.dtype.kind in "iu":
        if pixel_range is None and said_range is None:
            raise ConfigError(
                f"{what} takes {taken.kind}, whole numbers; say which ones black and white are: "
                "pixel_range=(0, 255) (--pixel-range 0..255)"
            )
        limits = np.iinfo(taken.dtype)
        if found.pixel_range[0] < limits.min or found.pixel_range[1] > limits.max:
            raise ConfigError(
                f"{what} takes {taken.kind}, from {limits.min} to {limits.max}; the pixel range "
                f"{found.pixel_range[0]:g}..{found.pixel_range[1]:g} does not fit into that"
            )
        if set(found.mean) != {0.0} or set(found.std) != {1.0}:
            raise ConfigError(f"{what} takes {taken.kind}, pixels as they are; leave mean and std out")
    return found, notes


def _file_range(metadata: Mapping[str, str]) -> tuple[float, float] | None:
    """The range of pixels that a file names, as WinML and Azure Custom Vision do (ONNX's MetadataProps)."""
    ranges = {"NominalRange_0_255": (0.0, 255.0), "Normalized_0_1": (0.0, 1.0), "Normalized_1_1": (-1.0, 1.0)}
    return ranges.get(metadata.get("Image.NominalPixelRange", ""))


def _file_order(metadata: Mapping[str, str]) -> ChannelOrder | None:
    """The order of channels that a file names."""
    pixel_format = metadata.get("Image.BitmapPixelFormat", "").lower()
    return "bgr" if pixel_format.startswith("bgr") else "rgb" if pixel_format.startswith("rgb") else None
