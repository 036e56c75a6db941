"""The entries of a report, one per image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from maskrestore.defense.doubt import ABSTAINED, DOUBT_LIMIT
from maskrestore.reporting.pictures import Picture, thumbnail
from maskrestore.types import Purification

__all__ = ["Evidence", "Map", "ReportEntry", "entries_from"]

Map = npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """The pictures and maps of one image, small enough to keep hundreds of them."""

    original: Picture
    purified: Picture
    size: tuple[int, int]
    """Height and width of the image itself, which the pictures may be smaller than."""
    largest_change: float
    """The largest change of any pixel of the image itself, in [0, 1]."""
    hidden: npt.NDArray[np.bool_] | None = None
    scores: Map | None = None
    image_scores: Map | None = None
    label_scores: Map | None = None
    initial_image_scores: Map | None = None
    initial_label_scores: Map | None = None


@dataclass(frozen=True, kw_only=True)
class ReportEntry:
    """One image of a report."""

    name: str
    """A file name, or any other name; shown as text, whatever it contains."""
    original_label: int | None
    """The classifier's answer for the original image; ``None`` if it was not asked."""
    label: int
    """The classifier's answer for the purified image."""
    answer: int | None = None
    """What was answered in place of ``label``, because that was in doubt: another label, or
    :data:`~maskrestore.defense.doubt.ABSTAINED`. ``None`` if it was ``label``."""
    suspicion: float | None = None
    """How likely the image carries a trigger, in [0, 1]; ``None`` if it is not known."""
    doubtful: bool = False
    """Whether ``label`` is in doubt: it does not fit the suspicion."""
    queries: int | None = None
    restored: float | None = None
    """Share of the tokens that were restored or filtered, in [0, 1]."""
    true_label: int | None = None
    note: str = ""
    """A short remark, for example "triggered"."""
    evidence: Evidence | None = None
    """``None`` if there are no pictures. The image is then listed in the table only."""

    @property
    def changed(self) -> bool:
        """Whether the defense is known to have changed the label."""
        return self.original_label not in (None, self.label)

    @property
    def abstained(self) -> bool:
        """Whether nothing was answered."""
        return self.answer == ABSTAINED


def entries_from(
    images: Tensor,
    purification: Purification,
    *,
    names: Sequence[str],
    true_labels: Tensor | Sequence[int] | None = None,
    notes: Sequence[str] | None = None,
    doubt_limit: float = DOUBT_LIMIT,
) -> list[ReportEntry]:
    """Cut a purified batch into the entries of a report. Nothing refers to the batch's tensors afterwards.

    Args:
        images: ``(B, C, H, W)`` in [0, 1], the original images.
        purification: the results of the defense for them.
        names: one name per image.
        true_labels: ``(B,)``, where known.
        notes: one remark per image, for example "triggered".
        doubt_limit: answers are marked as doubtful above it.

    Raises:
        ValueError: if the numbers of images, results, names, labels or notes differ.
    """
    lengths = {"images": len(images), "results": len(purification.labels), "names": len(names)}
    if true_labels is not None:
        lengths["true_labels"] = len(true_labels)
    if notes is not None:
        lengths["notes"] = len(notes)
    if len(set(lengths.values())) != 1:
        found = ", ".join(f"{count} {name}" for name, count in lengths.items())
        raise ValueError(f"a report needs one of each per image, got {found}")
    doubtful = purification.doubtful(doubt_limit).tolist()
    return [
        ReportEntry(
            name=names[i],
            original_label=int(purification.original_labels[i]),
            label=int(purification.labels[i]),
            suspicion=None if purification.suspicion is None else float(purification.suspicion[i]),
            doubtful=doubtful[i],
            queries=int(purification.queries[i]),
            restored=None if purification.hidden is None else float(purification.hidden[i].float().mean()),
            true_label=None if true_labels is None else int(true_labels[i]),
            note="" if notes is None else notes[i],
            evidence=_evidence(images[i], purification, i),
        )
        for i in range(len(images))
    ]


def _evidence(image: Tensor, purification: Purification, index: int) -> Evidence:
    def cut(values: Tensor | None) -> npt.NDArray[Any] | None:
        return None if values is None else values[index].detach().cpu().numpy().copy()

    return Evidence(
        original=thumbnail(image),
        purified=thumbnail(purification.images[index]),
        size=(int(image.shape[-2]), int(image.shape[-1])),
        largest_change=float((purification.images[index] - image).abs().max()),
        hidden=cut(purification.hidden),
        scores=cut(purification.scores),
        image_scores=cut(purification.image_scores),
        label_scores=cut(purification.label_scores),
        initial_image_scores=cut(purification.initial_image_scores),
        initial_label_scores=cut(purification.initial_label_scores),
    )
