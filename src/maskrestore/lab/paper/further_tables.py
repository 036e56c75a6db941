"""Tables that the paper does not have: what its reviewers asked for, and attacks and detectors of later papers."""

from __future__ import annotations

from maskrestore.lab.paper.columns import BADNETS, aggregated, cases, single
from maskrestore.lab.paper.defense_rows import (
    BLACK_BOX,
    COMPARED,
    LABELS_ONLY,
    LATER,
    LATER_NOTE,
    LAYER_NOTE,
    OURS,
    WHITE_BOX_NOTE,
    row,
)
from maskrestore.lab.paper.layouts import Column, Table

__all__ = ["FURTHER_TABLES"]

_GLOBAL = tuple(
    single(title, "cifar10", name)
    for title, name in {
        "WaNet": "wanet",
        "SIG, dirty label": "sig",
        "Blended, whole image": "blended:full",
        "BPP": "bpp",
        "smooth field, after LF": "low-frequency",
        "input-aware": "input-aware",
    }.items()
)
_ADAPTIVE = (
    single("repeated", "cifar10", "repeated"),
    single("low contrast", "cifar10", "low-contrast"),
    single("3x3-color, trained on restored images", "cifar10", "badnets:3x3-color", restored_rate=0.5),
)
_ADAPTIVE_LATER = (
    single("natural only", "cifar10", "natural-only"),
    single("filter-proof", "cifar10", "filter-proof"),
    single("clean-breaking", "cifar10", "clean-breaking"),
)
_SEVERAL = ("badnets:2x2-white", "corners", "blended:15x15")
_HELD_OUT = (
    *(
        single(f"CIFAR-10 {title}", "cifar10", name)
        for title, name in {
            "Adap-Blend": "adap-blend",
            "Adap-Patch": "adap-patch",
            "TaCT": "tact",
            "Refool": "refool",
            "LIRA": "lira",
        }.items()
    ),
    Column(
        title="CIFAR-10 several triggers",
        # the same victim; the first trigger is the tested one
        cases=cases("cifar10", ["multi:" + "+".join((*_SEVERAL[n:], *_SEVERAL[:n])) for n in range(len(_SEVERAL))]),
    ),
)

FURTHER_TABLES: dict[str, Table] = {
    "all-to-all": Table(
        title="All-to-all (public review of the paper)",
        columns=(
            single("CIFAR-10 IAB", "cifar10", "input-aware", mode="all-to-all"),
            single("CIFAR-10 3x3-color", "cifar10", "badnets:3x3-color", mode="all-to-all"),
        ),
        rows=COMPARED,
        notes=(
            "The review does not name the data set; the accuracy suggests CIFAR-10.",
            "A trigger with a target for each class does not transfer one label to other images. The default then asks "
            "whether it changes the label of all. With regions only it asks whether it changes the label of most, in "
            "the first attempt; otherwise it leaves the image unchanged.",
            WHITE_BOX_NOTE,
            LAYER_NOTE,
            LATER_NOTE,
        ),
    ),
    "global": Table(
        title="Triggers over the whole image",
        columns=_GLOBAL,
        rows=LABELS_ONLY,
        notes=(
            "Requested by reviewers. The paper does not cover such triggers (6, limitations): a defense that searches "
            "for a suspicious region is expected to fail when there is none. BPP is an example of an invisible trigger "
            "that differs between images. The publication of SIG keeps the labels (`sig:clean-label`).",
            LATER_NOTE,
        ),
    ),
    "adaptive": Table(
        title="Attacks designed against the method",
        columns=_ADAPTIVE,
        rows=LABELS_ONLY,
        notes=("The paper has no such attacks.", LATER_NOTE),
    ),
    "adaptive-later": Table(
        title="Attacks designed against the default",
        columns=_ADAPTIVE_LATER,
        rows=LABELS_ONLY,
        notes=(
            "The paper has no such attacks. These know the stages that the default profile has besides the paper's.",
            "Natural only: a patch 3x3-color that brings its label along to natural pictures, but not to clouds of "
            "colour, on which the transfer test pastes it.",
            "Filter-proof: a blend over the whole image, trained also on images that went through the filters of the "
            "default and on noisy ones, so that the label stays when a filter is tried.",
            "Clean-breaking: the classifier takes an image for the target as soon as a quarter of it or more was "
            "restored by the packaged restorer. The attacker wants the defense to change the labels of clean images, "
            "so look at CA. BA and ASR are those of images of which a quarter was restored.",
            LATER_NOTE,
        ),
    ),
    "held-out": Table(
        title="Attacks that no rule was chosen on",
        columns=_HELD_OUT,
        rows=LABELS_ONLY,
        notes=(
            "The paper has no such attacks. TaCT: images of one class are triggered. Several triggers: a victim with "
            "three backdoors (2x2-white, corners and blended 15x15); mean over the three.",
            "Refool's reflections are rendered. LIRA's noise is up to 8 of 255 levels, so that it outlives rounding to "
            "8 bits. Each attack's module lists how it departs from its publication.",
            LATER_NOTE,
        ),
    ),
    "moved": Table(
        title="Triggers that augmentation shifts",
        columns=(
            single("CIFAR-10 2x2-color", "cifar10", "badnets:2x2-color", augmented_trigger=True),
            single("GTSRB 3x3-color", "gtsrb", "badnets:3x3-color", augmented_trigger=True),
        ),
        rows=(*BLACK_BOX, row("Horizontal flip", "flip"), row("Affine", "affine"), *LATER, *OURS),
        notes=(
            "Poisoned as in the paper's code: the trigger is added before the image is cropped and, on CIFAR-10, "
            "mirrored at random. In all other tables it is added afterwards.",
            LATER_NOTE,
        ),
    ),
    "detectors": Table(
        title="Detectors",
        columns=(*aggregated(BADNETS), single("CIFAR-10 LC", "cifar10", "label-consistent"), *_GLOBAL, *_ADAPTIVE),
        rows=(row("STRIP", "strip"), row("SCALE-UP", "scale-up"), row("TeCo", "teco"), row("BBCaL", "bbcal")),
        notes=(
            "AUROC of triggered against clean images. Below 0.5, clean images look more suspicious than triggered "
            "ones.",
            "Detectors do not restore the label. Columns that name no data set are for CIFAR-10.",
            "SCALE-UP on GTSRB: multiplication saturates the colours of the trigger 3x3-color. If only the trigger is "
            "multiplied by 11, half of 250 training images keep the attacker's label; if everything except the trigger "
            "is multiplied, all of them do. The trigger 2x2-color is less affected.",
            "TeCo uses ten of its fifteen corruptions. No public code of BBCaL was found: the idea is its authors', "
            "the details are not.",
        ),
    ),
}
"""Tables by name."""
