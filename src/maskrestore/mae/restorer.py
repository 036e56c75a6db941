"""From a masked autoencoder to a :class:`~maskrestore.types.Restorer`: sizes, channels, precision, micro-batches."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, Protocol

import torch
from torch import Tensor

from maskrestore.errors import ConfigError, InvalidImageError
from maskrestore.imaging.patches import tokens_to_pixels
from maskrestore.imaging.resize import resize
from maskrestore.mae.checkpoints.loading import load_network
from maskrestore.mae.checkpoints.weight_files import weights_digest
from maskrestore.mae.fast.recordings import Recordings
from maskrestore.runtime.devices import to_device
from maskrestore.runtime.precision import Precision, autocast, deterministic_convolutions, resolve_precision
from maskrestore.runtime.threads import map_on_cores

__all__ = [
    "DEFAULT_RESTORER",
    "MAERestorer",
    "MaskedAutoencoder",
    "PreparedImages",
    "RestorerPrecision",
    "load_restorer",
]

RestorerPrecision = Precision | Literal["int8"]
DEFAULT_RESTORER = "mae-tiny-32"
_PASTED = 2**22
"""Pixels of restorations that are enlarged at a time: of a large image they take more memory than the network."""
_TOKENS = 256
"""Visible tokens in a micro-batch of a ViT on a CPU: more are hardly faster, and sizes of masks differ."""


class MaskedAutoencoder(Protocol):
    """What a network must be to restore images: ``ViTMAE`` and ``ConvMAE`` are.

    On a GPU its calls are recorded and played again (``recordings.py``): they may neither look at values nor move
    anything to or from the device.
    """

    @property
    def grid(self) -> int:
        """Tokens along each side."""

    @property
    def image_size(self) -> int:
        """Pixels along each side of the square input."""

    @property
    def skips_hidden(self) -> bool:
        """Whether it computes on visible tokens only, so that its matrices are smaller the more is hidden."""

    @property
    def width(self) -> int:
        """Columns of its matrices: narrow ones want large micro-batches."""

    def in_float32(self) -> MaskedAutoencoder:
        """The network that runs in its place where precision is float32; itself, if nothing is faster."""

    def in_bfloat16(self) -> MaskedAutoencoder:
        """The same where precision is bfloat16; it is called under autocast."""

    def in_int8(self) -> MaskedAutoencoder:
        """The same where precision is int8. Raises ConfigError where that is not possible."""

    def embed(self, images: Tensor) -> Tensor:
        """What all masks of an image share: ``(B, 3, S, S)`` in [0, 1] -> ``(B, ...)``."""

    def __call__(self, images: Tensor, hidden: Tensor, *, tokens: Tensor, visible: tuple[int, int]) -> Tensor:
        """``(B, 3, S, S)`` in [0, 1] and ``(B, g, g)`` bool -> ``(B, 3, S, S)`` reconstruction.

        tokens: ``embed`` of the images. visible: the fewest and the most tokens that a mask may leave visible.
        """


@dataclass(frozen=True)
class PreparedImages:
    """Images with what all of their masks share, for the restorer that made it.

    ``prepared[rows]`` are some of them, ``(R,)`` int64 or bool, in any order, also twice; no pixel is copied.
    """

    images: Tensor
    """``(B, C, H, W)`` in [0, 1], as they came."""
    inputs: Tensor
    """``(B, 3, S, S)``: resized for the network, where that is."""
    tokens: Tensor
    """``(B, ...)``: embedded, where the network is."""
    rows: Tensor
    """``(R,)`` int64, on the CPU: which of them are meant."""

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
            torch.cat([part.rows + start for part, start in zip(parts, starts, strict=True)]),
        )


class MAERestorer:
    """Restore hidden tokens of images of any size with a masked autoencoder (Eq. 1).

    The network always sees micro-batches of a fixed shape, for a ViT one for each number of visible tokens (on a GPU
    and for a narrow ViT: for each whole number of quarters of the tokens, and for what lies between two): matrix
    kernels may round differently for different shapes, and a fixed one, computed on one core, makes the result for an
    image the same bits in any company. The price is padding: less than a micro-batch in a call for each shape. On a CPU
    micro-batches run side by side, one on each of ``torch.get_num_threads()`` cores; on a GPU the pass of a shape is
    recorded at its first use, and played from then on (``recordings.py``).
    """

    def __init__(
        self,
        network: MaskedAutoencoder,
        *,
        micro_batch: int | None = None,
        precision: RestorerPrecision = "auto",
        device: str | torch.device = "cpu",
    ) -> None:
        """network: it is put on the device. What runs may be a copy, which later changes to the network do not reach.

        micro_batch: masks at a time. ``None`` is 64 for a ViT and 32 for a convolutional network on a GPU; on a CPU
        8, and for a wide ViT as many as make up to 256 visible tokens: 5 scoring masks of a ViT-B, or a single mask
        that hides little. (With ``mae-tiny-32`` on two cores, many masks took about 10 % longer with 4 at a time, but
        a single one half as long, since all of a micro-batch is computed on one core.)

        precision: ``auto`` is bfloat16 where the hardware multiplies it fast, else float32. ``int8`` is faster still on
        CPUs with VNNI, and less exact; see ``quantized.py``. Raises ConfigError where there is no int8.
        """
        if micro_batch is not None and micro_batch < 1:
            raise ConfigError(f"micro_batch must be at least 1, got {micro_batch}")
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
            self.network = copy.deepcopy(network)  # recordings read weights where they were: nobody else may move them
        self.weights_digest = weights_digest(network)
        """Identifies the weights as they came, in whatever precision they are used; ``None`` for other networks."""
        self._recordings = Recordings()
        on_gpu = self.device.type != "cpu"
        self._mixes = on_gpu or network.width < 512
        self._large = (64 if network.skips_hidden else 32) if on_gpu else 8

    @property
    def grid(self) -> int:
        """Tokens along each side of an image."""
        return self.network.grid

    @torch.inference_mode()
    def prepare_images(self, images: Tensor) -> PreparedImages:
        """Resize and embed images once, for many calls of :meth:`restore` of this restorer.

        images: as :meth:`restore` takes them. Raises InvalidImageError for other shapes.
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
            # One by one, each on one core, so that an image's bits depend neither on the others nor on the number of
            # cores.
            inputs, tokens = map(torch.cat, zip(*map_on_cores(prepare_one, alone), strict=True))
        else:
            # For the same reason as many at a time as ever.
            inputs = torch.cat([resize(image, size, size).expand(-1, 3, -1, -1) for image in alone])
            groups = torch.arange(len(inputs), device=self.device).split(self._large)
            with deterministic_convolutions(self.device):
                parts = [self.network.embed(inputs[_filled(some, self._large)])[: len(some)] for some in groups]
            tokens = torch.cat(parts)
        return PreparedImages(images, inputs, tokens, torch.arange(len(images)))

    @torch.inference_mode()
    def restore(self, images: Tensor | PreparedImages, hidden: Tensor) -> Tensor:
        """Restore the hidden tokens of each image; every other pixel is returned bit for bit.

        images: ``(B, C, H, W)`` float32 in [0, 1] with ``C`` 1 or 3 and any ``H`` and ``W``, or what
        :meth:`prepare_images` returned for them. hidden: ``(B, g, g)`` bool, or ``(B, M, g, g)``: M masks for each
        image, whose common work is then done once. Returns ``(B, C, H, W)``, or ``(B, M, C, H, W)``, in [0, 1], where
        the images are. Raises InvalidImageError for other shapes.

        Grey images are restored as three equal channels, whose mean is taken. Departure: the authors' code shrinks
        the restoration with nearest neighbour, which shifts it by 0.43 pixels at 32 x 32; here it is antialiased.
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
        """owner: ``(N,)`` int64, the image that each mask of ``(N, g, g)`` belongs to. Returns ``(N, C, H, W)``."""
        images, inputs, tokens = prepared.images, prepared.inputs, prepared.tokens
        home, (channels, height, width) = images.device, images.shape[1:]
        hidden = hidden.cpu()
        restored = images.new_empty(len(hidden), channels, height, width)
        untouched = (~hidden.flatten(1).any(dim=1)).nonzero().squeeze(1)
        if len(untouched):
            restored[untouched] = images[owner[untouched]]
        shapes = self._shapes(hidden)
        # Moved once, not for every micro-batch.
        images, masks, owner = images.to(self.device), to_device(hidden, self.device), to_device(owner, self.device)
        together = max(1, _PASTED // (height * width))

        @torch.inference_mode()
        def restore_chunk(chunk: tuple[Tensor, Tensor, tuple[int, int], int]) -> None:
            place, index, visible, count = chunk
            full = _filled(index, count)
            gathered = ((inputs, owner[full]), (masks, full), (tokens, owner[full]))
            output = self._reconstruct(gathered, visible)[: len(index)]
            output = output.mean(dim=1, keepdim=True) if channels == 1 else output
            for where, mask, part in zip(*(each.split(together) for each in (place, index, output)), strict=True):
                pixels = tokens_to_pixels(masks[mask], height, width)
                enlarged = resize(part, height, width).clamp(0, 1)
                restored[where] = torch.where(pixels, enlarged, images[owner[mask]]).to(home)

        chunks = [
            (place, index, visible, count)
            for whole, visible, count in shapes
            for place, index in zip(
                *(to_device(whole, place).split(count) for place in (home, self.device)), strict=True
            )
        ]
        if self.device.type == "cpu":
            # The longest first, so that no core is left with one of them at the end.
            map_on_cores(restore_chunk, sorted(chunks, key=lambda chunk: -chunk[2][1] * chunk[3]))
        else:
            for chunk in chunks:
                restore_chunk(chunk)
        return restored

    def _reconstruct(self, gathered: Sequence[tuple[Tensor, Tensor]], visible: tuple[int, int]) -> Tensor:
        """gathered: images, masks and tokens, each with the rows that make up the micro-batch."""

        def run(images: Tensor, hidden: Tensor, tokens: Tensor) -> Tensor:
            low = autocast(self.device, "float32" if self.precision == "float32" else "bfloat16")
            with low, deterministic_convolutions(self.device):
                return self.network(images, hidden, tokens=tokens, visible=visible).float()

        if self.device.type == "cuda":
            return self._recordings.play((visible, len(gathered[0][1])), run, gathered)
        return run(*(source[rows] for source, rows in gathered))

    def _shapes(self, hidden: Tensor) -> list[tuple[Tensor, tuple[int, int], int]]:
        """Masks that run in one shape: their indices, fewest and most visible tokens, and how many to a micro-batch.

        Masks that hide nothing are in none of them.
        """
        total = self.grid**2
        sizes = 1
        if self.network.skips_hidden:
            # Small matrices want large batches, so sizes are mixed; else padding would cost more than it brings.
            sizes = 4 if self._mixes else total
        step = -(-total // sizes)
        shapes: dict[tuple[int, int], list[int]] = {}
        for mask, count in enumerate((~hidden).flatten(1).sum(dim=1).tolist()):  # of visible tokens
            length = -(-count // step) * step
            # What is a multiple of the step already, as a random mask's quarter is, needs no room for others.
            fewest = length if count == length else length - step + 1
            if count < total:
                shapes.setdefault((fewest, min(length, total)), []).append(mask)
        return [
            (torch.tensor(masks), visible, self.micro_batch or self._fitting(visible[1], alone=step == 1))
            for visible, masks in shapes.items()
        ]

    def _fitting(self, length: int, *, alone: bool) -> int:
        """Masks to a micro-batch of sequences of a length. alone: whether none is of another."""
        return max(1, _TOKENS // (1 + length)) if alone else self._large

    def _check(self, hidden: Tensor, count: int) -> None:
        expected = (count, *hidden.shape[1:-2], self.grid, self.grid)
        if hidden.dtype != torch.bool or hidden.ndim not in (3, 4) or tuple(hidden.shape) != expected:
            raise InvalidImageError(
                f"expected hidden to be bool of shape {expected}, got {hidden.dtype} of shape {tuple(hidden.shape)}"
            )


def load_restorer(
    name_or_path: str | Path = DEFAULT_RESTORER,
    *,
    micro_batch: int | None = None,
    precision: RestorerPrecision = "auto",
    device: str | torch.device = "cpu",
) -> MAERestorer:
    """Load packaged weights by name, a file, a local folder or a hub name; see ``checkpoints.load_network``."""
    return MAERestorer(load_network(name_or_path), micro_batch=micro_batch, precision=precision, device=device)


def _filled(index: Tensor, count: int) -> Tensor:
    """``(n,)`` -> ``(count,)``: the first is repeated."""
    return torch.cat([index, index[:1].expand(count - len(index))]) if len(index) else index
