"""The defenses that tables compare, as rows, and what must be said of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from maskrestore.lab.paper.cells import Variant
from maskrestore.lab.paper.layouts import Row

__all__ = [
    "BASES",
    "BLACK_BOX",
    "CAMS",
    "COMPARED",
    "FEBRUUS_EACH",
    "FILTERS",
    "HEATS",
    "LATER",
    "LATER_NOTE",
    "LAYER_NOTE",
    "NONE",
    "OURS",
    "PATCHCLEANSER",
    "TRANSFORMS",
    "WHITE_BOX_NOTE",
    "februus",
    "row",
    "variant",
]


def variant(defense: str, settings: Mapping[str, Any] | None = None) -> Variant:
    """A defense with some settings changed."""
    return Variant(defense=defense, settings=tuple((settings or {}).items()))


def row(label: str, defense: str, settings: Mapping[str, Any] | None = None, *, paper: str | None = None) -> Row:
    """A row of one variant. paper: the key of the paper's numbers."""
    return Row(label=label, variants=(variant(defense, settings),), paper=paper)


_LATER_STAGES = ("all_to_all", "necessity", "moved", "whole_image", "fragile")
NONE = row("No defense", "none", paper="No defense")
OURS = (
    row("BDMAE, as in the paper", "bdmae-paper", paper="Ours (Base)"),
    row("BDMAE, regions only", "bdmae", dict.fromkeys(_LATER_STAGES), paper="Ours (Base)"),
    row("BDMAE, default", "bdmae", paper="Ours (Base)"),
)
"""The row "regions only" is the default as it was before it looked for triggers over the whole image. It goes when all
tables have the default."""
PATCHCLEANSER = (
    row("PatchCleanser (Vanilla)", "patchcleanser", paper="PatchCleanser (Vanilla)"),
    row("PatchCleanser (Variant)", "patchcleanser-variant", paper="PatchCleanser (Variant)"),
    row("PatchCleanser (second round)", "patchcleanser-second-round", paper="PatchCleanser (Variant)"),
)
"""The paper's description of its variant is ambiguous, so both readings are measured: see
``PatchCleanserConfig.fallback``. The second one matches the paper's numbers and will replace the first one when all
tables have it."""
TRANSFORMS = (
    row("Blur (Weak)", "blur-weak", paper="Blur (Weak)"),
    row("Blur (Strong)", "blur-strong", paper="Blur (Strong)"),
    row("ShrinkPad (Weak)", "shrinkpad-weak", paper="ShrinkPad (Weak)"),
    row("ShrinkPad (Strong)", "shrinkpad-strong", paper="ShrinkPad (Strong)"),
)
FILTERS = (row("JPEG", "jpeg"), row("Median filter", "median"), row("Gaussian noise (weak)", "noise-weak"))
CAMS = {"Februus XGradCAM": "februus-xgradcam", "Februus GradCAM++": "februus-gradcam++"}
HEATS = (0.6, 0.7, 0.8)
_LAYERS: tuple[dict[str, str], ...] = ({}, {"layer": "stages.3"})
"""Layers of a residual network: ``stages.2``, the default, which finds small triggers on CIFAR-10, and ``stages.3``,
which finds them on GTSRB."""


def februus(label: str, *heats: float, layers: Iterable[dict[str, str]] = _LAYERS) -> Row:
    """A row of Februus with the best of some thresholds and layers. label: a key of ``CAMS``."""
    variants = [variant(CAMS[label], {"threshold": heat, **layer}) for heat in heats for layer in layers]
    # Tables of the paper with a row for each threshold have it in the row's name.
    name = f"{label} ({heats[0]})" if len(heats) == 1 else label
    return Row(label=f"{name}*", variants=tuple(variants), paper=name)


_FEBRUUS_BEST = tuple(februus(label, *HEATS) for label in CAMS)
FEBRUUS_EACH = tuple(februus(label, heat) for label in CAMS for heat in HEATS)
BLACK_BOX = (NONE, *PATCHCLEANSER, *TRANSFORMS)
LATER = (row("Lite-BD (bicubic)", "lite-bd"), row("Majority vote", "majority-vote"))
LABELS_ONLY = (*BLACK_BOX, *FILTERS, *LATER, *OURS)
"""Defenses that need labels only."""
LATER_NOTE = (
    "Lite-BD downscales to three quarters and upscales bicubically, not with its super-resolution network. It does not "
    "know the attacker's target."
)
COMPARED = (NONE, *_FEBRUUS_BEST, *PATCHCLEANSER, *TRANSFORMS, *LATER, *OURS)
_AS_IN_PAPER = "BDMAE, as in the paper"
BASES = (
    row(f"{_AS_IN_PAPER}, S_i only (Base-i)", "bdmae-paper", {"scores.label_weight": 0.0}, paper="Ours (Base-i)"),
    row(f"{_AS_IN_PAPER}, S_l only (Base-l)", "bdmae-paper", {"scores.label_weight": 1.0}, paper="Ours (Base-l)"),
)
WHITE_BOX_NOTE = (
    "*: white box. Unless a row names a threshold, the one of 0.6, 0.7 and 0.8 with the best CA + BA is taken for each "
    "case, as in the paper."
)
LAYER_NOTE = (
    "Februus uses the layer `stages.2` or `stages.3`: of the measured ones, the one with the best CA + BA for each "
    "case. The paper chooses one for each architecture."
)
