"""The entries of a report, one per image, and the columns of pictures that are drawn for each."""

from __future__ import annotations

import codecs
import dataclasses
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from maskrestore.errors import ConfigError
from maskrestore.reporting.pictures import Picture, colourise, difference, mark_hidden, thumbnail
from maskrestore.types import Purification

__all__ = [
    "COLUMNS",
    "Column",
    "Evidence",
    "ReportEntry",
    "class_label",
    "columns_for",
    "entries_from",
    "printable",
    "read_class_names",
]

_BYTE_ORDER_MARKS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",  # before UTF-16, whose mark it begins with
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}

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
    queries: int | None = None
    restored: float | None = None
    """Share of the tokens that were hidden and restored, in [0, 1]."""
    true_label: int | None = None
    note: str = ""
    """A short remark, for example "triggered"."""
    evidence: Evidence | None = None
    """``None`` if there are no pictures. The image is then listed in the table only."""

    @property
    def changed(self) -> bool:
        """Whether the defense is known to have changed the label."""
        return self.original_label not in (None, self.label)


def entries_from(
    images: Tensor,
    purification: Purification,
    *,
    names: Sequence[str],
    true_labels: Tensor | Sequence[int] | None = None,
    notes: Sequence[str] | None = None,
) -> list[ReportEntry]:
    """Cut a purified batch into the entries of a report. Nothing refers to the batch's tensors afterwards.

    Args:
        images: ``(B, C, H, W)`` in [0, 1], the original images.
        purification: the results of the defense for them.
        names: one name per image.
        true_labels: ``(B,)``, where known.
        notes: one remark per image, for example "triggered".

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
    return [
        ReportEntry(
            name=names[i],
            original_label=int(purification.original_labels[i]),
            label=int(purification.labels[i]),
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


def printable(text: str) -> str:
    """Return the text with control characters, undecodable bytes and text-direction marks as escape sequences."""
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)


def class_label(label: int, class_names: Sequence[str] | None) -> str:
    """Return the name of a class, or "class 7", and that it has no name where others have one."""
    if class_names is None:
        return f"class {label}"
    name = class_names[label] if 0 <= label < len(class_names) else ""
    return printable(name) if name else f"class {label} (no name)"


def read_class_names(path: Path) -> list[str]:
    """Read the names of the classes from a text file, one on each line, in the order of the labels.

    The file is UTF-8 or UTF-16, with or without a byte-order mark, and lines end as on any system. White space around a
    name and blank lines at the end are dropped. A blank line elsewhere is a class without a name.

    Raises ConfigError if it cannot be read as such, or holds no name.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"cannot read class names from {path}: {error.strerror or error}") from error
    try:
        text = data.decode(_encoding(data))
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"cannot read class names from {path}: it is neither UTF-8 nor UTF-16 text ({error}); save it as UTF-8"
        ) from error
    # Only these end a line: str.splitlines would also divide a name at a form feed or at U+2028.
    names = [name.strip() for name in re.split("\r\n|\n|\r", text)]
    while names and not names[-1]:
        names.pop()
    if not names:
        raise ConfigError(f"{path} holds no class names; expected one on each line")
    if "\0" in text:
        raise ConfigError(f"cannot read class names from {path}: it holds zero bytes; expected text, a name a line")
    return names


def _encoding(data: bytes) -> str:
    """By the byte-order mark; without one, by where the zero bytes of the first characters are."""
    for mark, encoding in _BYTE_ORDER_MARKS.items():
        if data.startswith(mark):
            return encoding
    even, odd = data[0:200:2], data[1:200:2]
    if len(data) % 2 == 0 and odd.count(0) != even.count(0) and max(odd.count(0), even.count(0)) > len(even) // 3:
        return "utf-16-le" if odd.count(0) > even.count(0) else "utf-16-be"
    return "utf-8"


@dataclass(frozen=True, kw_only=True)
class Column:
    """A column of pictures: its title, what it shows, and a function that draws it."""

    symbol: str
    """The title, or its main letter."""
    index: str = ""
    """The title's subscript."""
    stage: str = ""
    """"before" or "after", of the refinement."""
    meaning: str
    draw: Callable[[Evidence], tuple[Picture, str] | None]
    """The picture and its caption, or ``None`` where the defense has no such thing."""

    @property
    def title(self) -> str:
        """The title in plain text, for those who do not see the picture."""
        kind = "Score map" if self.symbol == "S" else ""
        return " ".join(filter(None, (kind, self.symbol, self.index, self.stage)))


def _map_column(symbol: str, index: str, stage: str, *, field: str, meaning: str) -> Column:
    def draw(evidence: Evidence) -> tuple[Picture, str] | None:
        scores: Map | None = getattr(evidence, field)
        return None if scores is None else (colourise(scores), f"highest {scores.max():.2f}")

    return Column(symbol=symbol, index=index, stage=stage, meaning=meaning, draw=draw)


def _draw_input(evidence: Evidence) -> tuple[Picture, str]:
    height, width = evidence.size
    return evidence.original, f"{width} × {height} px"


def _draw_hidden(evidence: Evidence) -> tuple[Picture, str] | None:
    if evidence.hidden is None:
        return None
    return mark_hidden(evidence.original, evidence.hidden), f"{evidence.hidden.sum()} of {evidence.hidden.size} tokens"


def _draw_purified(evidence: Evidence) -> tuple[Picture, str]:
    return evidence.purified, "restored" if evidence.largest_change > 0 else "unchanged"


def _draw_removed(evidence: Evidence) -> tuple[Picture, str]:
    return difference(evidence.original, evidence.purified), f"at most {evidence.largest_change:.2f}"


COLUMNS: tuple[Column, ...] = (
    Column(symbol="Input", meaning="The original image.", draw=_draw_input),
    _map_column(
        *("S", "image", "before"),
        field="initial_image_scores",
        meaning="How much each token differs from its restoration by the autoencoder (1 − SSIM).",
    ),
    _map_column(
        *("S", "image", "after"),
        field="image_scores",
        meaning="The same after refinement: higher where hiding connected tokens changed the label.",
    ),
    _map_column(
        *("S", "label", "before"),
        field="initial_label_scores",
        meaning="How often the label changed when the token was hidden.",
    ),
    _map_column(
        *("S", "label", "after"),
        field="label_scores",
        meaning="The same after refinement.",
    ),
    _map_column(*("S", "", ""), field="scores", meaning="Both scores combined. Tokens with a high score are hidden."),
    Column(
        symbol="Hidden",
        meaning="The tokens that were hidden and restored, in amber.",
        draw=_draw_hidden,
    ),
    Column(symbol="Purified", meaning="The restored image. Its label is the answer.", draw=_draw_purified),
    Column(
        symbol="Removed",
        meaning="How much each pixel changed, times two. Black: unchanged.",
        draw=_draw_removed,
    ),
)
"""All columns in their order, from the input to what was removed from it."""


def columns_for(entries: Sequence[ReportEntry]) -> list[Column]:
    """Return the columns that these entries can fill. Where nothing was refined, each score has one column."""
    evidence = [entry.evidence for entry in entries if entry.evidence is not None]
    shown = [column for column in COLUMNS if any(column.draw(one) is not None for one in evidence)]
    if any(_refined(one) for one in evidence):
        return shown
    first = {column.index: column for column in COLUMNS if column.stage == "before"}
    return [
        dataclasses.replace(first[column.index], stage="", draw=column.draw) if column.stage else column
        for column in shown
        if column.stage != "before"
    ]


def _refined(evidence: Evidence) -> bool:
    pairs = (
        (evidence.initial_image_scores, evidence.image_scores),
        (evidence.initial_label_scores, evidence.label_scores),
    )
    return any(a is not None and b is not None and not np.array_equal(a, b) for a, b in pairs)
