"""The vocabulary that all parts share: protocols and the result of a defense.

Shapes: ``B`` images in a batch, ``C`` channels (1 or 3), ``H x W`` pixels, ``g x g`` tokens.
Images are float32 in [0, 1]; labels are int64; ``hidden`` is a boolean token mask, True where a token is hidden
from the masked autoencoder and restored by it.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

__all__ = [
    "Classifier",
    "Defense",
    "PreparingRestorer",
    "Progress",
    "Purification",
    "Restorer",
    "RestorerChoice",
    "StreamItem",
    "StreamResult",
    "StreamingClassifier",
    "doubt_of",
]

Classifier = Callable[[Tensor], Tensor]
"""The black box: ``(B, C, H, W)`` float32 in [0, 1] -> ``(B,)`` int64 hard labels."""


@runtime_checkable
class StreamingClassifier(Protocol):
    """A classifier that answers pictures one by one, so that no answer is lost when another picture fails."""

    def __call__(self, images: Tensor) -> Tensor:
        """As any classifier."""

    def answers(self, pictures: Iterable[Tensor]) -> Iterator[tuple[int, Tensor | Exception]]:
        """Ask about pictures ``(1, C, H, W)``, several at a time, and yield answers in any order.

        A picture is taken from ``pictures`` when it is sent. Yields the place of each, from 0 on, with its label
        ``(1,)`` int64 or the error: :class:`maskrestore.errors.RetryLater` if it may be asked again.
        """


@runtime_checkable
class Restorer(Protocol):
    """A masked autoencoder that restores hidden tokens (paper, Eq. 1).

    One that has an attribute ``device`` gets images there, and masks on the CPU; any other gets both on the CPU.
    """

    @property
    def grid(self) -> int:
        """Tokens along each side of an image."""

    def restore(self, images: Tensor, hidden: Tensor) -> Tensor:
        """Restore the hidden tokens of each image and keep every other pixel bit for bit.

        images: ``(B, C, H, W)`` in [0, 1], any ``H`` and ``W``. hidden: ``(B, g, g)`` bool, or ``(B, M, g, g)`` for M
        masks of each image. Returns ``(B, C, H, W)``, or ``(B, M, C, H, W)``, in [0, 1], where the images are.
        """


@runtime_checkable
class RestorerChoice(Protocol):
    """Chooses a restorer for each picture by its size."""

    @property
    def device(self) -> torch.device:
        """Of all its restorers."""

    def for_size(self, height: int, width: int) -> Restorer:
        """The restorer for pictures of this size in pixels; always the same for the same size."""


class PreparingRestorer(Restorer, Protocol):
    """A restorer that can do once what all masks of an image share.

    A class that defines ``prepare_images`` may be given what that returned, or rows of it, where ``restore`` takes
    images; it must take plain images, too.
    """

    def prepare_images(self, images: Tensor) -> Any:
        """What to work on in place of ``(B, C, H, W)``; ``prepared[rows]`` must be that of some of the images.

        rows: ``(R,)`` int64 on the CPU; there may be none, and some twice.
        """


class Progress(Protocol):
    """Is told how far a job is."""

    def __call__(self, done: int, total: int, note: str = "") -> None:
        """done: steps finished so far, of ``total``. note: shown beside the numbers."""


@dataclass(frozen=True, kw_only=True)
class Purification:
    """What a defense did to a batch of images. Every tensor has the batch as its first dimension.

    The maps are ``None`` for defenses that have no such thing.
    """

    images: Tensor
    """``(B, C, H, W)``: the purified images, float32 in [0, 1]."""
    labels: Tensor
    """``(B,)`` int64: the classifier's labels of the purified images, the defense's answer."""
    original_labels: Tensor
    """``(B,)`` int64: the classifier's labels of the images as they came; with a single query for each image, which is
    spent on what was restored, the same as ``labels``."""
    queries: Tensor
    """``(B,)`` int64: how often the classifier was asked about each image."""
    hidden: Tensor | None = None
    """``(B, g, g)`` bool: the tokens that were restored in the purified image, or filtered; all if it was mirrored."""
    scores: Tensor | None = None
    """``(B, g, g)`` in [0, 1] before refinement, any real after: the combined trigger score S. Zero, as the maps below,
    where the profile ``fast`` settled an image without it."""
    image_scores: Tensor | None = None
    """``(B, g, g)``: S_i, from structural similarity, after refinement."""
    label_scores: Tensor | None = None
    """``(B, g, g)``: S_l, from label flips, after refinement."""
    initial_image_scores: Tensor | None = None
    """``(B, g, g)``: S_i before refinement."""
    initial_label_scores: Tensor | None = None
    """``(B, g, g)``: S_l before refinement."""

    suspicion: Tensor | None = None
    """``(B,)`` in [0, 1]: how likely the image carries a trigger, if half of all images did. ``None`` for defenses that
    do not estimate it, and with a single query for each image."""

    @property
    def doubt(self) -> Tensor | None:
        """``(B,)`` in [0, 1]: how badly the answer fits the suspicion. ``None`` without one.

        An image that looks as if it carried a trigger should not keep its label, and one that does not should.
        """
        if self.suspicion is None:
            return None
        return doubt_of(self.suspicion, kept=self.labels == self.original_labels)

    def doubtful(self, limit: float) -> Tensor:
        """Whether the answer is in doubt, ``(B,)`` bool: its doubt is above ``limit``. Never without a suspicion."""
        doubt = self.doubt
        return torch.zeros_like(self.labels, dtype=torch.bool) if doubt is None else doubt > limit

    def select(self, rows: Tensor | slice) -> Purification:
        """The results of some of the images. rows: a slice, or ``(R,)`` int64 or ``(B,)`` bool."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        chosen = {name: None if value is None else value[rows] for name, value in values.items()}
        return Purification(**chosen)  # type: ignore[arg-type]

    @classmethod
    def concatenate(cls, parts: Sequence[Purification]) -> Purification:
        """Join the results of consecutive batches into one."""
        if not parts:
            raise ValueError("concatenate needs at least one Purification")

        def joined(name: str) -> Tensor | None:
            values = [getattr(part, name) for part in parts]
            return None if values[0] is None else torch.cat(values)

        return cls(**{field.name: joined(field.name) for field in fields(cls)})  # type: ignore[arg-type]


def doubt_of(suspicion: Tensor, *, kept: Tensor) -> Tensor:
    """How badly answers fit a suspicion, ``(B,)`` in [0, 1]. kept: ``(B,)`` bool, whether the label stayed."""
    return torch.where(kept, suspicion, 1 - suspicion)


@dataclass(frozen=True, kw_only=True)
class StreamItem:
    """One image of a stream."""

    id: Hashable
    """Given back with the result: a file name, a row number, or a request."""
    image: object
    """Whatever :func:`maskrestore.imaging.inputs.as_batch` takes for a single image, of any size."""


@dataclass(frozen=True, kw_only=True)
class StreamResult:
    """What became of one image of a stream: a result or an error."""

    id: Hashable
    """Of the item."""
    result: Purification | None = None
    """Of a batch of one image."""
    error: Exception | None = None
    """Why there is no result."""
    seconds: float = 0.0
    """Its share of the time that the images took that were purified together."""


@runtime_checkable
class Defense(Protocol):
    """A test-time defense: purify images so that the classifier answers as it would without a trigger."""

    def purify(self, images: Tensor, classifier: Classifier) -> Purification:
        """Purify ``(B, C, H, W)`` images, each on its own, with hard labels of ``classifier`` only."""
