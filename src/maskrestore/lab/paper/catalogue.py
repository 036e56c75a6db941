"""The tables and figures of ``maskrestore reproduce``, as data. To add one, add an entry to EXPERIMENTS.

Here are those of the paper, and ``further_tables.py`` has those of this project.

Titles of columns and ``Row.paper`` are the keys of the paper's numbers (``published.PAPER``). Columns of the paper
whose data set is not available here are listed as ``unavailable``. Departures: where the paper does not name its
trigger, the notes name the one used here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from maskrestore.defense.profiles import PROFILES
from maskrestore.lab.paper.cells import Case, Variant
from maskrestore.lab.paper.columns import BADNETS, aggregated, cases, single
from maskrestore.lab.paper.defense_rows import (
    BASES,
    CAMS,
    COMPARED,
    FEBRUUS_EACH,
    FILTERS,
    HEATS,
    LATER,
    LATER_NOTE,
    LAYER_NOTE,
    NONE,
    OURS,
    PATCHCLEANSER,
    TRANSFORMS,
    WHITE_BOX_NOTE,
    februus,
    row,
    variant,
)
from maskrestore.lab.paper.further_tables import FURTHER_TABLES
from maskrestore.lab.paper.layouts import Column, Curves, Experiment, Panel, Pictures, Table
from maskrestore.lab.paper.sweeps import refinement_steps, sizes, sweeps, threshold_sets, thresholds

__all__ = ["EXPERIMENTS"]


_LARGE_SETS = ("VGGFace2", "ImageNet10", "ImageNet50", "ImageNet100")


def _triggers(dataset: str) -> tuple[Column, ...]:
    """Return a column for each BadNets trigger."""
    return tuple(single(attack.removeprefix("badnets:"), dataset, attack) for attack in BADNETS)


_ICONS = tuple(f"badnets:icon-{name}" for name in ("flower", "heart", "phone"))
_PATCHES = tuple(f"badnets:{side}x{side}-color" for side in (1, 2, 3))


_STAND_INS = (
    Column(title="LFW-62", cases=cases("lfw62", _ICONS)),
    Column(title="Imagenette", cases=cases("imagenette", (*_PATCHES, *_ICONS))),
)
"""Columns of data sets that stand in for VGGFace2 and ImageNet10 where those are not available."""
_STAND_IN_NOTE = (
    "LFW-62 stands in for VGGFace2 and Imagenette for ImageNet10: means over three icons, on Imagenette also over "
    "three patches. The restorer there is `mae-photo-224`."
)


def _photographs(number: int, title: str, sets: Mapping[str, str], attacks: Iterable[str], note: str = "") -> Table:
    """Return a table of triggers on photographs. sets: what precedes the trigger in a title -> data set."""
    columns = tuple(
        single(f"{prefix}{attack.removeprefix('badnets:')}", name, attack)
        for prefix, name in sets.items()
        for attack in attacks
    )
    # the paper has no rows of Februus there
    cams = (replace(februus(label, *HEATS, layers=[{}]), paper=None) for label in CAMS)
    return Table(
        title=f"Table A.{number}: triggers on {title}",
        columns=columns,
        rows=(NONE, *cams, *PATCHCLEANSER, *TRANSFORMS, *LATER, *FILTERS, *OURS),
        notes=(
            *((note,) if note else ()),
            WHITE_BOX_NOTE,
            "Februus uses the last feature map.",
            LATER_NOTE,
            "The paper does not show its icons; those here are drawn.",
            "The first blocks of victims of icons keep their pretrained weights.",
        ),
    )


_TWO_PIXELS = Case(dataset="cifar10", attack="badnets:2x2-color")
_CORNERS = Case(dataset="cifar10", attack="label-consistent")
_SIGN = Case(dataset="gtsrb", attack="badnets:3x3-color")
_TASKS = (_TWO_PIXELS, _CORNERS, _SIGN)
_SIGN_CORNERS = Case(dataset="gtsrb", attack="label-consistent", first_target=2, from_scratch=True)
"""A clean-label attack poisons images of the target class only, and the first class of GTSRB has 105 training images.
Fine-tuning does not learn the trigger, because the clean classifier already recognises these images: ASR 1 %."""
_HARD = (
    Case(dataset="cifar10", attack="input-aware"),
    _CORNERS,
    Case(dataset="gtsrb", attack="input-aware"),
    _SIGN_CORNERS,
)


_ROUNDS, _STEPS = (1, 2, 3, 5, 8), (0, 2, 5, 10, 15, 20)
_FIXED_TASKS = (_TWO_PIXELS, _CORNERS)

EXPERIMENTS: dict[str, Experiment] = {
    "table1": Table(
        title="Table 1: diffusion models",
        columns=aggregated(BADNETS),
        rows=(
            NONE,
            row("DiffPure (DDPM)", "diffpure-ddpm", paper="DiffPure (DDPM)"),
            row("DiffPure (SDE)", "diffpure-sde", paper="DiffPure (SDE)"),
            row("ZIP", "zip"),
            row("SampDetox", "sampdetox"),
            *OURS,
        ),
        unavailable=_LARGE_SETS,
        notes=(
            "Mean over six BadNets triggers. The paper uses OpenAI's diffusion model for 256 x 256 pixels. The model "
            "of the records in `benchmarks/results/local` is small and was trained for seven minutes (see "
            "`diffusion-model.md` there). These records do not show what a good model would reach.",
        ),
        most_images=500,
    ),
    "table2": Table(
        title="Table 2: BadNets",
        columns=(*aggregated(BADNETS), *_STAND_INS),
        rows=COMPARED,
        unavailable=_LARGE_SETS,
        notes=("Mean over six BadNets triggers.", _STAND_IN_NOTE, WHITE_BOX_NOTE, LAYER_NOTE, LATER_NOTE),
    ),
    "table3": Table(
        title="Table 3: harder local attacks",
        columns=(
            single("CIFAR-10 IAB", "cifar10", "input-aware"),
            single("GTSRB IAB", "gtsrb", "input-aware"),
            single("CIFAR-10 LC", "cifar10", "label-consistent"),
            Column(title="GTSRB LC", cases=(_SIGN_CORNERS,)),
            single("CIFAR-10 Blended", "cifar10", "blended:15x15"),
            single("CIFAR-10 four corners", "cifar10", "corners"),
            single("Imagenette Blended", "imagenette", "blended:105x105"),
        ),
        rows=COMPARED,
        unavailable=("VGGFace2 Blended", "ImageNet10 Blended"),
        notes=(
            WHITE_BOX_NOTE,
            LAYER_NOTE,
            LATER_NOTE,
            "At the scale `local` the victims of IAB (input-aware) are fine-tuned for six epochs, and their attack "
            "success rate is lower than in the paper: compare the rows without a defense.",
            "Imagenette stands in for ImageNet10. Its trigger has 105 x 105 random pixels, as large a share of the "
            "picture.",
            "The paper shows Blended on large images only, and does not show the four corners as a separate attack.",
            "GTSRB LC: the target is the third class (speed limit 50), because the first class has too few images to "
            "poison. The victim is trained from scratch, because fine-tuning does not learn the trigger.",
        ),
    ),
    "tableA1": Table(
        title="Table A.1: architectures",
        columns=tuple(
            single(title, "cifar10", "badnets:3x3-white", architecture=name)
            for title, name in {
                "ResNet-18": "resnet18",
                "6 Conv + 2 Dense": "conv6",
                "VGG-16": "vgg16",
                "ResNet-50": "resnet50",
                "ViT (small)": "vit-small",
            }.items()
        ),
        rows=(
            NONE,
            *(februus(label, *HEATS, layers=[{}]) for label in CAMS),  # not all networks have `stages.3`
            *PATCHCLEANSER,
            *TRANSFORMS,
            *OURS,
        ),
        unavailable=("VGGFace2",),
        notes=(
            "The paper does not name the trigger; here it is 3x3-white on CIFAR-10.",
            WHITE_BOX_NOTE,
            "Februus uses `stages.2` of convolutional networks; in other tables also `stages.3` of ResNet-18.",
        ),
    ),
    "tableA2": Table(
        title="Table A.2: clean models",
        columns=aggregated(("badnets:1x1-color", "badnets:2x2-white", "badnets:3x3-color"), clean_victim=True),
        rows=(NONE, *OURS),
        unavailable=_LARGE_SETS,
        notes=("BA: accuracy of the clean model on images with a trigger; mean over three triggers.",),
    ),
    "tableA3": Table(
        title="Table A.3: triggers on CIFAR-10",
        columns=_triggers("cifar10"),
        rows=(NONE, *FEBRUUS_EACH, *PATCHCLEANSER, *TRANSFORMS, *BASES, *OURS),
        notes=(LAYER_NOTE, "*: white box."),
    ),
    "tableA4": Table(
        title="Table A.4: triggers on GTSRB",
        columns=_triggers("gtsrb"),
        rows=(NONE, *FEBRUUS_EACH, *PATCHCLEANSER, *TRANSFORMS, *BASES, *OURS),
        notes=(
            LAYER_NOTE,
            "*: white box. The paper's rows Base-i and Base-l repeat those of Februus, so they are left out.",
        ),
    ),
    "tableA5": _photographs(
        5,
        "VGGFace2",
        {"": "vggface2-170", "LFW-62 ": "lfw62"},
        (*_ICONS, "badnets:icon-smile", "badnets:icon-star"),
        "LFW-62, 62 people of Labeled Faces in the Wild, stands in for VGGFace2 where that is not available.",
    ),
    "tableA6": _photographs(
        6,
        "ImageNet10",
        {"": "imagenet10", "Imagenette ": "imagenette"},
        (*_PATCHES, *_ICONS),
        "Imagenette, ten other classes of ImageNet, stands in for ImageNet10 where that is not available.",
    ),
    "tableA7": _photographs(7, "ImageNet50", {"": "imagenet50"}, (*_PATCHES, *_ICONS)),
    "tableA8": _photographs(8, "ImageNet100", {"": "imagenet100"}, (*_PATCHES, *_ICONS)),
    **FURTHER_TABLES,
    "fig3": Pictures(
        title="Figure 3: the defense at work",
        kind="process",
        cases=(_TWO_PIXELS, _SIGN),
        variants=(Variant(defense="bdmae-paper"),),
        images=2,
    ),
    "fig4": Pictures(
        title="Figure 4: topology-aware refinement of S_i",
        kind="refinement",
        cases=(Case(dataset="cifar10", attack="input-aware"), _SIGN_CORNERS),
        variants=tuple(variant("bdmae-paper", refinement_steps(n)) for n in (0, 2, 4, 6, 8, 10)),
        images=2,
    ),
    "fig5": Curves(
        title="Figure 5: rounds, refinement steps, fixed thresholds",
        panels=(
            sweeps("(a) Base-i", "masks.rounds", _ROUNDS, _TASKS, {"scores.label_weight": 0.0}),
            sweeps("(b) Base-l", "masks.rounds", _ROUNDS, _TASKS, {"scores.label_weight": 1.0}),
            sweeps("(c) Base", "refinement.steps", _STEPS, _TASKS),
            Panel(
                title="(d) one fixed threshold",
                x_label="threshold",
                lines=tuple(thresholds(case, refined=refined) for case in _TASKS for refined in (False, True)),
            ),
        ),
        notes=("The paper's panels partly show other tasks. (d) has no limit on the restored share.",),
    ),
    "figA1": Curves(
        title="Figure A.1: neighbours, rounds, refinement steps",
        panels=(
            sweeps("sampling", "refinement.neighbour_bonus", (0.0, 0.25, 0.5, 0.75, 1.0), _HARD),
            sweeps("rounds", "masks.rounds", _ROUNDS, _FIXED_TASKS),
            sweeps("refinement", "refinement.steps", _STEPS, _FIXED_TASKS),
        ),
        notes=("The paper's centre and right panels show VGGFace2, which is not available here.",),
    ),
    "figA2": Curves(
        title="Figure A.2: size of a checkerboard on CIFAR-10",
        panels=(
            Panel(
                title="CIFAR-10",
                x_label="side of the trigger in pixels",
                lines=tuple(sizes(row) for row in (PATCHCLEANSER[0], *TRANSFORMS[1::2], *BASES, *OURS)),
            ),
        ),
    ),
    "figA3": Pictures(
        title="Figure A.3: scores of triggered and of clean images",
        kind="scores",
        cases=(_TWO_PIXELS, _CORNERS, _SIGN),
        variants=(Variant(defense="bdmae-paper"), Variant(defense="bdmae")),
        images=64,
    ),
    "figA4": Table(
        title="Figure A.4: transformations on CIFAR-10 with the trigger 2x2-color",
        columns=(single("CIFAR-10 2x2-color", "cifar10", "badnets:2x2-color"),),
        rows=(
            NONE,
            row("Gaussian noise (weak)", "noise-weak"),
            row("Gaussian noise (strong)", "noise-strong"),
            row("Gaussian blur (weak)", "blur-weak"),
            row("Gaussian blur (strong)", "blur-strong"),
            row("Random contrast", "contrast"),
            row("Random gamma", "gamma"),
            row("Horizontal flip", "flip"),
            row("Down-scale", "downscale"),
            row("Affine", "affine"),
            row("Median filter", "median"),
            row("JPEG", "jpeg"),
            row("Majority vote", "majority-vote"),
            *OURS,
        ),
        notes=(
            "The paper gives no strengths. A flip moves the trigger away from the position where it was learned and "
            "costs no accuracy if training mirrors images. A trigger that is mirrored in training would survive it.",
        ),
        bars=True,
    ),
    "figA5": Pictures(
        title="Figure A.5: the defense at work, more attacks",
        kind="process",
        cases=(*_HARD, Case(dataset="cifar10", attack="badnets:3x3-white"), _SIGN),
        variants=(Variant(defense="bdmae-paper"),),
        images=2,
    ),
    "figA6": Pictures(
        title="Figures A.6 and A.7: purified images side by side",
        kind="side-by-side",
        cases=(_TWO_PIXELS, Case(dataset="cifar10", attack="input-aware"), _CORNERS, _SIGN),
        variants=tuple(
            Variant(defense=name)
            for name in (
                *("blur-weak", "blur-strong", "shrinkpad-weak", "shrinkpad-strong"),
                *("diffpure-ddpm", "bdmae-paper", "bdmae"),
            )
        ),
        images=2,
    ),
    "settings": Curves(
        title="Settings that the paper fixes without an ablation",
        panels=(
            sweeps("refinement", "refinement.rate", (0.0125, 0.025, 0.05, 0.1, 0.2), _FIXED_TASKS),
            sweeps("masks", "masks.hidden_ratio", (0.5, 0.6, 0.7, 0.75, 0.85), _FIXED_TASKS),
            sweeps("candidates", "refinement.candidate_threshold", (0.05, 0.1, 0.2, 0.3, 0.4), _FIXED_TASKS),
            sweeps("cap", "restoration.max_restored", (0.1, 0.15, 0.25, 0.4, 0.6), _FIXED_TASKS),
            Panel(
                title="thresholds",
                x_label="lowest of five thresholds",
                lines=tuple(threshold_sets(case) for case in _FIXED_TASKS),
                standard=PROFILES["paper"].restoration.thresholds[-1],
            ),
            sweeps("SSIM", "scores.ssim_window", (3, 5, 7, 11, 15), _FIXED_TASKS),
        ),
    ),
}
"""Tables and figures by name."""
