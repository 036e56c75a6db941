"""Convert images of many forms to one checked form: float32 batches in [0, 1]."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from maskrestore.errors import InvalidImageError

__all__ = ["as_batch", "check_pixels", "unchecked_batch"]

_SHAPES = "(H, W), (C, H, W) or (B, C, H, W) with C = 1 or 3"
_CHANNELS = (1, 3)
_LEVELS_16_BIT = 65535
_PLAIN_MODES = ("RGB", "RGBX", "P", "CMYK", "YCbCr")


def as_batch(images: object, *, to_cpu: bool = True) -> Tensor:
    """Convert images to a batch ``(B, C, H, W)``: float32 in [0, 1], ``C`` 1 or 3, contiguous, on the CPU.

    images: one of

    - a ``torch.Tensor`` of shape ``(H, W)``, ``(C, H, W)`` or ``(B, C, H, W)``; ``(3, H, W)`` is one RGB image, not
      three grey images;
    - a NumPy array of one of these shapes, or with the channels last: ``(H, W, C)`` or ``(B, H, W, C)``;
    - a ``PIL.Image``: grey modes give one channel, all other modes three. Transparent images are composited over white,
      16-bit grey keeps its precision, EXIF orientation is not applied (``codec.read_image`` applies it);
    - a list or tuple of the above, all of the same shape.

    to_cpu: ``False`` keeps tensors on their device.

    uint8 values are divided by 255; floating-point values must be in [0, 1] already. A contiguous float32 tensor is
    not copied: the batch shares its memory.

    Raises InvalidImageError for any other type, dtype or shape, for values outside [0, 1], NaN or infinity, for an
    empty batch, and for a NumPy shape whose channels could be the first or the last axis.
    """
    pixels, extremes = unchecked_batch(images, to_cpu=to_cpu)
    check_pixels(pixels, extremes)
    return pixels


def unchecked_batch(images: object, *, to_cpu: bool = True) -> tuple[Tensor, Tensor]:
    """Do the same as :func:`as_batch`, but leave the check of the values to a later call of :func:`check_pixels`.

    Reading a value from a GPU makes the host wait for all work queued there; this function reads none.

    Returns the batch, and its minimum and maximum as a tensor ``(2,)`` on the same device, for :func:`check_pixels`.
    """
    many = images if isinstance(images, list | tuple) else [images]
    parts = [_batch(image, to_cpu=to_cpu) for image in many]
    if not parts:
        raise InvalidImageError("expected at least one image, got an empty list")
    shapes = sorted({tuple(part.shape[1:]) for part in parts})
    if len(shapes) > 1:
        found = ", ".join(map(str, shapes))
        raise InvalidImageError(f"images of one batch must have one shape, got {found}; pass them one by one")
    pixels = torch.cat(parts) if len(parts) > 1 else parts[0]
    return pixels, torch.stack(pixels.aminmax())


def check_pixels(pixels: Tensor, extremes: Tensor) -> None:
    """Raise InvalidImageError unless all values lie in [0, 1]. The arguments are the results of ``unchecked_batch``."""
    low, high = extremes.tolist()
    if not (math.isfinite(low) and math.isfinite(high)):
        count = int((~pixels.isfinite()).sum())
        raise InvalidImageError(f"expected finite pixels in [0, 1], got NaN or infinity in {count} values")
    if 1 < high < 1.1:
        raise InvalidImageError(
            f"expected floating-point pixels in [0, 1], got values up to {high!r}, as after resizing; clamp them: "
            "images.clamp(0, 1)"
        )
    if high > 1:
        raise InvalidImageError(
            f"expected floating-point pixels in [0, 1], got values from {low:g} to {high:g}; "
            "pass uint8, or divide by 255 if they count from 0 to 255"
        )
    if low < 0:
        raise InvalidImageError(
            f"expected floating-point pixels in [0, 1], got values from {low:g} to {high:g}; "
            "normalisation by mean and std belongs to the classifier's adapter"
        )


def _batch(image: object, *, to_cpu: bool) -> Tensor:
    """Convert one image or one array of images to a batch ``(B, C, H, W)``; values are not checked."""
    if isinstance(image, Image.Image):
        image = _pil_pixels(image)
    if isinstance(image, np.ndarray):
        tensor = _from_numpy(image)
    elif isinstance(image, Tensor):
        tensor = image.detach()
    else:
        raise InvalidImageError(
            f"expected a torch.Tensor, a numpy.ndarray, a PIL.Image or a list of them, got {type(image).__name__}"
        )
    return _float_pixels(_with_all_axes(tensor.cpu() if to_cpu else tensor))


def _with_all_axes(tensor: Tensor) -> Tensor:
    """Check the shape and add the missing batch and channel axes: ``(B, C, H, W)``."""
    shape = tuple(tensor.shape)
    if tensor.ndim not in (2, 3, 4):
        raise InvalidImageError(f"expected {_SHAPES}, got {len(shape)} axes: shape {shape}")
    if 0 in shape:
        raise InvalidImageError(f"expected at least one image with at least one pixel, got shape {shape}")
    if tensor.ndim == 2:
        return tensor[None, None]  # (H, W) -> (1, 1, H, W)
    if shape[-3] not in _CHANNELS:
        raise InvalidImageError(f"expected {_SHAPES}, got shape {shape}{_channel_hint(shape)}")
    return tensor.unsqueeze(0) if tensor.ndim == 3 else tensor  # (C, H, W) -> (1, C, H, W)


def _channel_hint(shape: tuple[int, ...]) -> str:
    if 4 in (shape[-3], shape[-1]):
        return "; drop or composite the alpha channel first"
    if shape[-1] in _CHANNELS:
        return "; the channels seem to be last: permute them to the front"
    if len(shape) == 3:
        return "; for a batch of grey images add the channel axis: images[:, None]"
    return ""


def _float_pixels(tensor: Tensor) -> Tensor:
    """Contiguous float32; uint8 is divided by 255."""
    if tensor.dtype == torch.uint8:
        return tensor.contiguous().float().div_(255)
    if not tensor.is_floating_point():
        raise InvalidImageError(
            f"expected uint8 in 0..255 or floating point in [0, 1], got {tensor.dtype}{_range_hint(tensor)}"
        )
    return tensor.to(torch.float32).contiguous()


def _range_hint(values: npt.NDArray[np.generic] | Tensor) -> str:
    """What to do about values of another type, by their type and by how large they are."""
    array = values.cpu().numpy() if isinstance(values, Tensor) else values
    if array.dtype.kind not in "biu" or not array.size:
        return ", which are no pixels" if array.dtype.kind not in "biu" else ""
    if array.dtype.kind == "b":
        return "; convert it to float"
    low, high = int(array.min()), int(array.max())
    found = f" with values from {low} to {high}; "
    if low < 0:
        return found + "shift and divide them so that black is 0 and white is 1"
    if array.dtype != np.uint16 and high <= 255:
        return found + "convert it to uint8 if white is 255"
    if high <= _LEVELS_16_BIT:
        return found + f"divide it by {_LEVELS_16_BIT}, or by the level of white if that is less"
    return found + "divide it by the level of white"


def _from_numpy(array: npt.NDArray[np.generic]) -> Tensor:
    """Convert an array with the channels first or last to a tensor with the channels first."""
    if array.dtype.kind == "f":
        array = array.astype(np.float32, copy=False)  # also converts other byte orders and long doubles
    elif array.dtype != np.uint8:
        raise InvalidImageError(
            f"expected uint8 in 0..255 or floating point in [0, 1], got {array.dtype}{_range_hint(array)}"
        )
    if array.ndim in (3, 4) and array.shape[-1] in _CHANNELS:
        if array.shape[-3] in _CHANNELS:
            raise InvalidImageError(
                f"shape {array.shape} is ambiguous: the channels could be the first or the last axis; "
                "pass a torch.Tensor, whose channels are always first"
            )
        array = np.moveaxis(array, -1, -3)  # (..., H, W, C) -> (..., C, H, W)
    array = np.ascontiguousarray(array)
    return torch.from_numpy(array if array.flags.writeable else array.copy())


def _pil_pixels(image: Image.Image) -> Tensor:
    """``(H, W)`` for grey modes, else ``(3, H, W)``: uint8, or float32 in [0, 1] for 16-bit grey."""
    try:
        pixels = np.array(_plain(image))
    except InvalidImageError:
        raise
    except Exception as error:  # Pillow decodes only now, and raises many kinds of exceptions for corrupt files
        raise InvalidImageError(f"the image cannot be decoded: {error}") from error
    if pixels.ndim == 2 and pixels.dtype != np.uint8:
        if pixels.size and (pixels.min() < 0 or pixels.max() > _LEVELS_16_BIT):
            raise InvalidImageError(
                f"expected grey levels in 0..{_LEVELS_16_BIT}, got {pixels.min()} to {pixels.max()}"
            )
        transparent = image.info.get("transparency")  # of a PNG: a level, not converted by Pillow
        if transparent is not None:
            pixels = np.where(pixels == transparent, _LEVELS_16_BIT, pixels)
        pixels = np.divide(pixels, _LEVELS_16_BIT, dtype=np.float32)
    tensor = torch.from_numpy(pixels)
    return tensor if tensor.ndim == 2 else tensor.permute(2, 0, 1)  # (H, W, 3) -> (3, H, W)


def _plain(image: Image.Image) -> Image.Image:
    """Convert an image to mode L or RGB; 16-bit grey stays as it is.

    Transparent images are composited over white, as most viewers show them.
    """
    if image.mode.startswith("I"):
        return image
    if image.has_transparency_data:
        over = image.convert("RGBA")
        flat = Image.alpha_composite(Image.new("RGBA", over.size, "white"), over)
        return flat.convert("L" if image.mode in ("L", "LA", "1") else "RGB")
    if image.mode in ("L", "1"):
        return image.convert("L")
    if image.mode in _PLAIN_MODES:
        return image.convert("RGB")
    raise InvalidImageError(f"expected a grey, RGB, palette or CMYK image, got Pillow mode {image.mode}; convert it")
