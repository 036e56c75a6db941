"""Make a :class:`~maskrestore.types.Restorer` of a masked autoencoder, for images of any size and 1 or 3 channels."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from maskrestore.errors import ConfigError, InvalidImageError
from maskrestore.imaging.patches import tokens_to_pixels
from maskrestore.imaging.resize import resize
from maskrestore.imaging.sizes import is_photograph
from maskrestore.mae.checkpoints.weight_files import weights_digest
from maskrestore.mae.fast.cuda_graphs import CudaGraphs
from maskrestore.mae.micro_batches import MicroBatching, padded
from maskrestore.mae.network import MaskedAutoencoder
from maskrestore.runtime.devices import to_device
from maskrestore.runtime.precision import Precision, autocast, deterministic_convolutions, resolve_precision
from maskrestore.runtime.threads import map_on_cores

__all__ = ["MAERestorer", "PreparedImages", "RestorerPrecision"]

RestorerPrecision = Precision | Literal["int8"]
_GREY_SPREAD = 3 / 255
"""The most that the channels of a grey pixel differ by. JPEG files are a little inexact."""
_GREY_SHARE = 0.75
"""Share of grey pixels that makes a photograph grey: a trigger may be coloured."""
_PASTE_PIXELS = 2**22
"""Pixels of restorations that are enlarged at a time. For large images they take more memory than the network."""


@dataclass(frozen=True)
class PreparedImages:
    """Images with the work that all of their masks share, for the restorer that made it.

    ``prepared[rows]`` selects images by ``(R,)`` int64 indices, in any order and possibly repeated, or by a bool mask.
    It copies no pixels.
    """

    images: Tensor
    """``(B, C, H, W)`` in [0, 1]: the images as given, on their device."""
    inputs: Tensor
    """``(B, 3, S, S)``: the images resized for the network, on its device."""
    tokens: Tensor
    """``(B, ...)``: the network's ``embed`` of ``inputs``, on its device."""
    grey: Tensor
    """``(B,)`` bool, on its device: photographs of three channels that are restored without colour."""
    rows: Tensor
    """``(R,)`` int64, on the CPU: the selected images."""

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, rows: Tensor) -> PreparedImages:
        return replace(self, rows=self.rows[rows])

    @classmethod
    def concatenate(cls, parts: Sequence[PreparedImages]) -> PreparedImages:
        """Join prepared images of one size, so that they share a call of the restorer."""
        starts = torch.tensor([0, *(len(part.images) for part in parts[:-1])]).cumsum(0).tolist()
        return cls(
            torch.cat([part.images for part in parts]),
            torch.cat([part.inputs for part in parts]),
            torch.cat([part.tokens for part in parts]),
            torch.cat([part.grey for part in parts]),
            torch.cat([part.rows + start for part, start in zip(parts, starts, strict=True)]),
        )


class MAERestorer:
    """Restores hidden tokens of images of any size with a masked autoencoder (Eq. 1).

    The result for an image is bit-identical regardless of batch composition. Matrix kernels may round differently for
    different shapes, so the network always gets micro-batches of a few fixed shapes, each computed on one core of a
    CPU. ``micro_batches.py`` says which masks share a shape. The cost is padding: in each call, less than one
    micro-batch for each shape. On a CPU, micro-batches run in parallel, one on each of ``torch.get_num_threads()``
    cores. On a GPU, one CUDA graph per shape is captured and replayed (``cuda_graphs.py``).
    """

    def __init__(
        self,
        network: MaskedAutoencoder,
        *,
        micro_batch: int | None = None,
        precision: RestorerPrecision = "auto",
        device: str | torch.device = "cpu",
        name: str | None = None,
    ) -> None:
        """Wrap a network.

        network: it is moved to ``device`` and put into evaluation mode. The restorer may run a copy of it, so later
        changes of the network may have no effect.

        micro_batch: masks at a time, at least 1. None: on a GPU 64 for a ViT and 32 for a convolutional network; on a
        CPU 8, but for a wide ViT as many as have at most 256 tokens together: 5 scoring masks of a ViT-B, or a single
        mask that hides few tokens. (With ``mae-tiny-32`` on two cores and 4 masks at a time, many masks took about 10 %
        longer and a single mask half as long, since a micro-batch is computed on one core.)

        precision: ``auto`` is bfloat16 where the hardware multiplies it fast, else float32. ``int8`` is faster still on
        CPUs with VNNI, and less exact; see ``quantized.py``.

        name: of the weights, for records.

        Raises ConfigError for a ``micro_batch`` below 1, an unknown precision (UnknownNameError), and for int8 where it
        is slow or missing.
        """
        if micro_batch is not None and micro_batch < 1:
            raise ConfigError(f"micro_batch must be at least 1, got {micro_batch}")
        self.name = name
        self.device = torch.device(device)
        self.micro_batch = micro_batch
        self.precision = precision if precision == "int8" else resolve_precision(precision, self.device)
        if isinstance(network, torch.nn.Module):
            network.to(self.device).to(memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
        match self.precision:
            case "float32":
                self.network = network.in_float32()
            case "bfloat16":
                self.network = network.in_bfloat16()
            case "int8":
                self.network = network.in_int8()
        if self.device.type == "cuda" and self.network is network:
            self.network = copy.deepcopy(network)  # CUDA graphs need weights that nobody else moves
        self.weights_digest = weights_digest(network)
        """Identifies the weights of the given network, whatever the precision; None if it is no ``torch.nn.Module``."""
        self._graphs = CudaGraphs()
        self._micro_batching = MicroBatching(
            grid=network.grid,
            skips_hidden=network.skips_hidden,
            width=network.width,
            on_gpu=self.device.type != "cpu",
            size=micro_batch,
        )

    @property
    def grid(self) -> int:
        """Tokens along each side of an image."""
        return self.network.grid

    @torch.inference_mode()
    def prepare_images(self, images: Tensor) -> PreparedImages:
        """Resize and embed images once, for many calls of :meth:`restore` of the same restorer.

        images: ``(B, C, H, W)``, as for :meth:`restore`. Raises InvalidImageError for other shapes.
        """
        if images.ndim != 4 or images.shape[1] not in (1, 3):
            raise InvalidImageError(f"expected images of shape (B, 1 or 3, H, W), got {tuple(images.shape)}")
        size = self.network.image_size

        @torch.inference_mode()
        def prepare_one(image: Tensor) -> tuple[Tensor, Tensor]:
            resized = resize(image, size, size).expand(-1, 3, -1, -1)
            return resized, self.network.embed(resized)

        alone = images.to(self.device).split(1)
        if self.device.type == "cpu":
            # Each image on its own, on one core, so that the result is bit-identical regardless of the other images and
            # of the number of cores.
            inputs, tokens = map(torch.cat, zip(*map_on_cores(prepare_one, alone), strict=True))
        else:
            # For the same reason always the same number of images at a time.
            inputs = torch.cat([resize(image, size, size).expand(-1, 3, -1, -1) for image in alone])
            count = self._micro_batching.default_size
            groups = torch.arange(len(inputs), device=self.device).split(count)
            with deterministic_convolutions(self.device):
                parts = [self.network.embed(inputs[padded(group, count)])[: len(group)] for group in groups]
            tokens = torch.cat(parts)
        return PreparedImages(
            images, inputs, tokens, _grey_photographs(images).to(self.device), torch.arange(len(images))
        )

    @torch.inference_mode()
    def restore(self, images: Tensor | PreparedImages, hidden: Tensor) -> Tensor:
        """Restore the hidden tokens of each image; all other pixels are returned bit for bit.

        images: ``(B, C, H, W)`` float32 in [0, 1] with ``C`` 1 or 3 and any ``H`` and ``W``, or what
        :meth:`prepare_images` returned for them. hidden: ``(B, g, g)`` bool, or ``(B, M, g, g)`` for M masks of each
        image, which share the work that does not depend on the mask. Returns ``(B, C, H, W)``, or ``(B, M, C, H, W)``,
        in [0, 1], on the device of the images. Raises InvalidImageError for other shapes.

        A grey image is restored as three equal channels, and their mean is returned; so is the mean for a photograph of
        three channels that is grey but for a few pixels, where any tint would be foreign. Departure: the authors' code
        shrinks the restoration with nearest-neighbour interpolation, which shifts it by 0.43 pixels at 32 x 32; here
        the resizing is antialiased.
        """
        prepared = images if isinstance(images, PreparedImages) else self.prepare_images(images)
        self._check(hidden, len(prepared))
        if hidden.ndim == 3:
            return self._restore(prepared, hidden, prepared.rows)
        masks = hidden.shape[1]
        owner = prepared.rows.repeat_interleave(masks)
        # (B, M, g, g) -> (B M, g, g); (B M, C, H, W) -> (B, M, C, H, W)
        restored: Tensor = self._restore(prepared, hidden.flatten(0, 1), owner).unflatten(0, (-1, masks))
        return restored

    def _restore(self, prepared: PreparedImages, hidden: Tensor, owner: Tensor) -> Tensor:
        """Apply masks ``(N, g, g)``. owner: ``(N,)`` int64, the image of each mask. Returns ``(N, C, H, W)``."""
        images, inputs, tokens = prepared.images, prepared.inputs, prepared.tokens
        image_device, (channels, height, width) = images.device, images.shape[1:]
        grey = prepared.grey if prepared.grey.any() else None
        hidden = hidden.cpu()
        restored = images.new_empty(len(hidden), channels, height, width)
        nothing_hidden = (~hidden.flatten(1).any(dim=1)).nonzero().squeeze(1)
        if len(nothing_hidden):
            restored[nothing_hidden] = images[owner[nothing_hidden]]
        groups = self._micro_batching.groups(hidden)
        # Moved once here, not for every micro-batch.
        images, masks, owner = images.to(self.device), to_device(hidden, self.device), to_device(owner, self.device)
        pasted_at_once = max(1, _PASTE_PIXELS // (height * width))

        @torch.inference_mode()
        def restore_chunk(chunk: tuple[Tensor, Tensor, tuple[int, int], int]) -> None:
            # place and index hold the same masks, on the device of the images and on that of the network.
            place, index, visible, count = chunk
            full = padded(index, count)
            gathered = ((inputs, owner[full]), (masks, full), (tokens, owner[full]))
            output = self._reconstruct(gathered, visible)[: len(index)]
            if channels == 1:
                output = output.mean(dim=1, keepdim=True)
            elif grey is not None:
                without_colour = grey[owner[index]].view(-1, 1, 1, 1)
                output = torch.where(without_colour, output.mean(dim=1, keepdim=True), output)
            for where, mask, part in zip(*(each.split(pasted_at_once) for each in (place, index, output)), strict=True):
                pixels = tokens_to_pixels(masks[mask], height, width)
                enlarged = resize(part, height, width).clamp_(0, 1)
                # A large image comes alone: it is not copied, and the result takes the place of what was enlarged.
                alone = len(mask) == 1 and self.device.type == "cpu"
                given = images[int(owner[mask])].unsqueeze(0) if alone else images[owner[mask]]
                restored[where] = torch.where(pixels, enlarged, given, out=enlarged).to(image_device)

        chunks = [
            (place, index, group.visible, group.micro_batch)
            for group in groups
            for place, index in zip(
                *(to_device(group.masks, device).split(group.micro_batch) for device in (image_device, self.device)),
                strict=True,
            )
        ]
        if self.device.type == "cpu":
            # The longest first, so that the cores finish at about the same time.
            map_on_cores(restore_chunk, sorted(chunks, key=lambda chunk: -chunk[2][1] * chunk[3]))
        else:
            for chunk in chunks:
                restore_chunk(chunk)
        return restored

    def _reconstruct(self, gathered: Sequence[tuple[Tensor, Tensor]], visible: tuple[int, int]) -> Tensor:
        """Run the network on a micro-batch. gathered: images, masks and tokens, each with the rows to take from it."""

        def run(images: Tensor, hidden: Tensor, tokens: Tensor) -> Tensor:
            arithmetic = autocast(self.device, "float32" if self.precision == "float32" else "bfloat16")
            with arithmetic, deterministic_convolutions(self.device):
                return self.network(images, hidden, tokens=tokens, visible=visible).float()

        if self.device.type == "cuda":
            return self._graphs.run((visible, len(gathered[0][1])), run, gathered)
        return run(*(source[rows] for source, rows in gathered))

    def _check(self, hidden: Tensor, count: int) -> None:
        expected = (count, *hidden.shape[1:-2], self.grid, self.grid)
        if hidden.dtype != torch.bool or hidden.ndim not in (3, 4) or tuple(hidden.shape) != expected:
            raise InvalidImageError(
                f"expected hidden to be bool of shape {expected}, got {hidden.dtype} of shape {tuple(hidden.shape)}"
            )


def _grey_photographs(images: Tensor) -> Tensor:
    """Which of ``(B, C, H, W)`` images are photographs without colour, but for a few pixels: ``(B,)`` bool."""
    if images.shape[1] == 1 or not is_photograph(*images.shape[-2:]):
        return torch.zeros(len(images), dtype=torch.bool)
    spread = images.amax(dim=1) - images.amin(dim=1)
    return (spread <= _GREY_SPREAD).flatten(1).double().mean(dim=1) >= _GREY_SHARE
