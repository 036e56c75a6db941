"""Pictures as clients send them: normalised tensors in any layout, and image files."""

from __future__ import annotations

import base64
import binascii
import math

import numpy as np
import torch
from torch import Tensor

from maskrestore.classifiers.normalisation import Normalisation
from maskrestore.classifiers.open_inference_messages import MessageTensor
from maskrestore.errors import InvalidImageError
from maskrestore.gateway.interface import Interface
from maskrestore.imaging.codec import decode_image
from maskrestore.imaging.views import View
from maskrestore.runtime.digests import digest

__all__ = ["content_of", "pictures_of_file", "pictures_of_tensor"]

_OUTSIDE = 2e-3
"""So far outside [0, 1] pixels may be once the normalisation is undone: rounding of 16-bit numbers."""
_NEAR_A_LEVEL = 0.1
"""Pixels that were normalised and are all so near to one of 256 levels were such levels, in units of a level."""


def content_of(picture: Tensor) -> str:
    """Sixteen hex digits that identify a picture ``(C, H, W)``: its shape and all its bits."""
    return digest([repr(tuple(picture.shape)).encode(), picture.contiguous().numpy().tobytes()])


def pictures_of_tensor(
    tensor: MessageTensor, interface: Interface, *, view: View | None, most: int, most_pixels: int
) -> list[Tensor]:
    """The pictures ``(C, H, W)`` float32 in [0, 1] of a tensor, with the normalisation undone.

    A tensor of BYTES holds image files, in JSON as base64. view: how files get the size of the model. most: pictures.
    most_pixels: of each. Raises MessageError and InvalidImageError.
    """
    if tensor.datatype == "BYTES":
        files = tensor.values().ravel().tolist()
        _check_count(len(files), most)
        return [pictures_of_file(_file(one), view=view, most_pixels=most_pixels) for one in files]
    if tensor.datatype != interface.datatype:
        raise InvalidImageError(
            f"the input {tensor.name!r} is {str(tensor.datatype)[:40]}; the model takes {interface.datatype}, or BYTES "
            "with image files"
        )
    count, size = _declared(tensor, interface)
    _check_count(count, most)
    if math.prod(size) > most_pixels:
        raise InvalidImageError(f"a picture of {size[0]} x {size[1]} pixels; expected at most {most_pixels} pixels")
    values = torch.from_numpy(tensor.values().astype(np.float32, copy=False))
    return list(_pixels(_channels_first(values, interface, size), interface.normalise))


def pictures_of_file(data: bytes, *, view: View | None, most_pixels: int) -> Tensor:
    """The picture ``(3, H, W)`` of an image file, as the model sees it. Raises ImageFileError."""
    picture = decode_image(data, max_pixels=most_pixels)
    return picture if view is None else view.show(picture)


def _declared(tensor: MessageTensor, interface: Interface) -> tuple[int, tuple[int, int]]:
    """How many pictures a tensor holds by its shape, and their height and width."""
    taken, shape = interface.input, tensor.shape
    layout = taken.layouts[0]
    flat = layout in ("flat", "flat-hwc")
    wanted = interface.metadata["inputs"][0]["shape"]
    rank = (1 if flat else 2 + taken.has_channels) + taken.has_batch
    found = f"the input {tensor.name!r} has the shape {str(shape)[:80]}; the model takes {wanted}"
    lengths = isinstance(shape, list) and all(isinstance(one, int) and not isinstance(one, bool) for one in shape)
    if not lengths or len(shape) != rank or min(shape, default=0) < 1:
        raise InvalidImageError(found)
    count = shape[0] if taken.has_batch else 1
    if flat:
        height, width = taken.size or (0, 0)
        channels = shape[-1] / (height * width)
    else:
        first = layout == "chw"
        height, width = shape[-2:] if first or not taken.has_channels else shape[-3:-1]
        channels = (shape[-3] if first else shape[-1]) if taken.has_channels else 1
    expected = (1, 3) if taken.channels is None else (taken.channels,)
    if channels not in expected or taken.size not in (None, (height, width)):
        raise InvalidImageError(found)
    return count, (height, width)


def _channels_first(values: Tensor, interface: Interface, size: tuple[int, int]) -> Tensor:
    """-> ``(B, C, H, W)``."""
    taken = interface.input
    batch = values if taken.has_batch else values[None]
    match taken.layouts[0]:
        case "flat":
            return batch.reshape(len(batch), -1, *size)
        case "flat-hwc":
            return batch.reshape(len(batch), *size, -1).permute(0, 3, 1, 2)
        case "hwc" if taken.has_channels:
            return batch.permute(0, 3, 1, 2)
    return batch if taken.has_channels else batch[:, None]


def _pixels(values: Tensor, normalise: Normalisation) -> Tensor:
    """Undo a normalisation. Pixels that were whole levels, as those of most files, are so again, bit for bit."""
    pixels = normalise.undo(values).contiguous()
    low, high = (float(one) for one in pixels.aminmax())
    if not (math.isfinite(low) and math.isfinite(high)):
        raise InvalidImageError("expected finite pixels, got NaN or infinity")
    if low < -_OUTSIDE or high > 1 + _OUTSIDE:
        raise InvalidImageError(
            f"pixels are {low:.3g} to {high:.3g} once mean {list(normalise.mean)}, std {list(normalise.std)} and range "
            f"{list(normalise.pixel_range)} are undone, expected 0 to 1; is the model's normalisation configured right?"
        )
    pixels = pixels.clamp(0, 1)
    if set(normalise.mean) == {0.0} and set(normalise.std) == {1.0}:
        return pixels
    levels = (pixels * 255).round()
    whole = ((pixels * 255 - levels).abs() < _NEAR_A_LEVEL).flatten(1).all(dim=1)
    return torch.where(whole[:, None, None, None], levels / 255, pixels)


def _file(value: object) -> bytes:
    if isinstance(value, bytes):
        return value
    try:
        return base64.b64decode(str(value), validate=True)
    except (binascii.Error, ValueError):
        raise InvalidImageError("expected an image file in base64, as JSON holds no bytes") from None


def _check_count(count: int, most: int) -> None:
    if not 0 < count <= most:
        raise InvalidImageError(f"{count} pictures in a request; expected 1 to {most}")
