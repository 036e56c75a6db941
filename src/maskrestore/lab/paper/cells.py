"""Cases, variants and scales, and the cells that they define."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from maskrestore.errors import ConfigError
from maskrestore.lab.attacks import Mode
from maskrestore.lab.baselines import DETECTORS
from maskrestore.lab.baselines.diffusion_models import DiffusionSettings
from maskrestore.lab.data.specs import dataset_spec
from maskrestore.lab.measure.defenses import (
    DefenseConfig,
    config_for,
    default_config,
    restorer_of,
    settings_in_force,
    with_cam_layer,
)
from maskrestore.lab.victims import VictimConfig
from maskrestore.mae.checkpoints.loading import packaged_digest
from maskrestore.mae.choice import DEFAULT_RESTORER
from maskrestore.runtime.digests import digest_of_json
from maskrestore.runtime.settings import with_settings

__all__ = ["Case", "Cell", "Entry", "Scale", "Variant", "expand"]


@dataclass(frozen=True, kw_only=True)
class Case:
    """An attack scenario: data set, classifier and attack."""

    dataset: str
    attack: str | None = None
    """The attack of the triggered images; ``None`` for clean images only."""
    mode: Mode = "all-to-one"
    architecture: str = ""
    """A key of ``ARCHITECTURES``; empty for the default of the data set."""
    clean_victim: bool = False
    """Whether the victim is clean although the images carry a trigger (paper, appendix E)."""
    restored_rate: float = 0.0
    """As in ``VictimConfig``: an attacker who adapts to a defense by restoration."""
    augmented_trigger: bool = False
    """As in ``VictimConfig``: whether augmentation shifts and mirrors the trigger with the image."""
    first_target: int = 0
    """The target class in the first repeat."""
    from_scratch: bool = False
    """Whether the victim is trained from scratch at every scale, because fine-tuning does not learn the attack."""

    def __post_init__(self) -> None:
        if not self.architecture:
            object.__setattr__(self, "architecture", dataset_spec(self.dataset).architecture)

    @property
    def label(self) -> str:
        """A short name, e.g. for legends."""
        notes = [self.attack or "clean model"]
        notes += [self.architecture] if self.architecture != dataset_spec(self.dataset).architecture else []
        notes += [self.mode] if self.mode != "all-to-one" else []
        notes += ["clean model"] if self.clean_victim else []
        notes += [f"restored {self.restored_rate:g}"] if self.restored_rate else []
        notes += ["moved in training"] if self.augmented_trigger else []
        return f"{self.dataset} {', '.join(notes)}"


@dataclass(frozen=True, kw_only=True)
class Variant:
    """A defense or detector by its name in the registry, with changed settings."""

    defense: str
    settings: tuple[tuple[str, Any], ...] = ()
    """Dotted names and values, as in ``with_settings``."""

    @property
    def detects(self) -> bool:
        """Whether it is a detector. Detectors are measured by AUROC."""
        return self.defense in DETECTORS

    def config(self, architecture: str = "resnet18") -> DefenseConfig | Any:
        """The settings of the defense. Raises UnknownNameError for a name or a setting that does not exist."""
        standard: Any = DETECTORS[self.defense] if self.detects else default_config(self.defense)
        usual = with_cam_layer(standard, architecture)
        # Without stages there is only the last feature map to choose, so rows for several stages share a cell.
        single = getattr(usual, "layer", "") is None
        return with_settings(usual, {name: value for name, value in self.settings if not (single and name == "layer")})


@dataclass(frozen=True, kw_only=True)
class Scale:
    """The size of experiments: images, repeats and training."""

    images: int | None
    """Number of clean test images of a cell, and of triggered ones; ``None`` for all."""
    slow_images: int
    """The same for the defenses in ``slow``."""
    curve_images: int
    """The same for the points of curves."""
    slow: frozenset[str]
    """Names of slow defenses."""
    width: int
    """Width of the victims; 64 is the full network."""
    init: Literal["clean", "scratch"]
    """Whether attacked victims are fine-tuned from a clean one or trained from scratch."""
    images_large: int | None
    """``images`` for photographs."""
    repeats: int
    """Number of repeats, each with another target class, victim and test images (paper, appendix B.1)."""
    repeats_large: int
    """The same for photographs, whose experiments the paper repeats less often (5.1)."""
    most_cases: int | None = None
    """Maximum number of cases per column and of lines per panel; ``None`` for all."""
    epochs: float | None = None
    """Epochs of the victims' training; ``None`` for those of their recipe."""
    shares_restorations: bool = False
    """Whether cells of a victim share cached restorations and labels (``restoration_cache.py``). This changes only the
    measured time and memory."""

    def count(self, defense: str, dataset: str) -> int | None:
        """Return the number of clean test images for ``defense``, and of triggered ones; ``None`` for all."""
        images = self.images_large if dataset_spec(dataset).photographs else self.images
        if defense not in self.slow:
            return images
        return self.slow_images if images is None else min(images, self.slow_images)

    def repeats_of(self, dataset: str) -> int:
        """Return the number of repeats for a data set."""
        return self.repeats_large if dataset_spec(dataset).photographs else self.repeats


Entry = tuple[Case, Variant]
"""An entry of a table or figure. With a scale and a repeat it is a cell."""


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One measurement, with one record: a case, a defense or detector, and a repeat."""

    case: Case
    variant: Variant
    scale: Scale
    repeat: int = 0
    restorer: str = DEFAULT_RESTORER
    """The masked autoencoder of defenses that use one: a packaged name, file, folder or hub name. ``auto`` becomes the
    packaged name for the images of the case."""
    diffusion: str | None = None
    """Digest of the diffusion model, if it replaces the default of the defense. Other defenses ignore it."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "restorer", restorer_of(self.restorer, self.case.dataset))

    @property
    def poisoned(self) -> VictimConfig:
        """The victim that the attack poisons, even if the cell measures a clean one."""
        case, scale = self.case, self.scale
        classes = len(dataset_spec(case.dataset).class_names)
        config = VictimConfig(
            dataset=case.dataset,
            architecture=case.architecture,
            width=scale.width,
            attack=case.attack,
            mode=case.mode,
            # Targets of the repeats are three classes apart, to avoid neighbouring classes. All-to-all has no target.
            target=(case.first_target + 3 * self.repeat) % classes if case.mode == "all-to-one" and case.attack else 0,
            restored_rate=case.restored_rate,
            restorer_weights=packaged_digest(dataset_spec(case.dataset).restorer) if case.restored_rate else None,
            augmented_trigger=case.augmented_trigger,
            seed=self.repeat,
            init="scratch" if case.from_scratch else scale.init,
        )
        return self._shortened(config)

    @property
    def victim(self) -> VictimConfig:
        """The victim that the cell measures."""
        case = self.case
        if case.attack is not None and not case.clean_victim:
            return self.poisoned
        config = VictimConfig(
            dataset=case.dataset, architecture=case.architecture, width=self.scale.width, seed=self.repeat
        )
        return self._shortened(config)

    def _shortened(self, config: VictimConfig) -> VictimConfig:
        if self.scale.epochs is None:
            return config
        return dataclasses.replace(config, recipe=dataclasses.replace(config.training, epochs=self.scale.epochs))

    @property
    def config(self) -> DefenseConfig | Any:
        """Settings of the defense or detector."""
        return config_for(self.variant.config(self.case.architecture), self.case.dataset, self.restorer)

    @property
    def count(self) -> int | None:
        """The number of clean test images, and of triggered ones; ``None`` for all."""
        return self.scale.count(self.variant.defense, self.case.dataset)

    @property
    def diffuses(self) -> bool:
        """Whether the defense needs a diffusion model."""
        return isinstance(self.config, DiffusionSettings)

    @property
    def digest(self) -> str:
        """16 hexadecimal digits that identify the cell: victim, attack, defense, restorer, images."""
        asked: dict[str, Any] = {
            "victim": self.victim.digest(),
            "attack": [self.case.attack, self.case.mode, self.poisoned.target],
            "defense": [self.variant.defense, settings_in_force(self.config)],
            "restorer": self.restorer,
            "images": [self.count, self.repeat],
        }
        if self.diffusion is not None and self.diffuses:
            asked["diffusion"] = self.diffusion
        if self.scale.shares_restorations:
            asked["shares_restorations"] = True  # its time is not comparable, so tables must not use this record
        return digest_of_json(asked)

    @property
    def name(self) -> str:
        """Name of the record."""
        case = self.case
        kind = f"{case.architecture}-w{self.victim.width}{'-clean' if case.clean_victim else ''}"
        words = (case.dataset, case.attack or "clean-model", case.mode, kind, self.variant.defense, f"r{self.repeat}")
        parts = [re.sub(r"[^\w.+-]+", "-", word).strip("-") for word in words if word != "all-to-one"]
        return "_".join([*parts, self.digest[:10]])


def expand(
    entries: Sequence[Entry],
    scale: Scale,
    *,
    repeats: int | None = None,
    restorer: str = DEFAULT_RESTORER,
    diffusion: str | None = None,
) -> list[Cell]:
    """Return the cells of the entries without duplicates, ordered by repeat and grouped by case.

    repeats: overrides the scale's number. restorer, diffusion: see ``Cell``. Raises ConfigError when ``repeats`` is not
    positive.
    """
    if repeats is not None and repeats < 1:
        raise ConfigError(f"repeats must be at least 1, got {repeats}")

    def wanted(case: Case) -> int:
        return scale.repeats_of(case.dataset) if repeats is None else repeats

    cases = list(dict.fromkeys(case for case, _ in entries))
    variants = {case: list(dict.fromkeys(one for other, one in entries if other == case)) for case in cases}
    return [
        Cell(case=case, variant=variant, scale=scale, repeat=repeat, restorer=restorer, diffusion=diffusion)
        for repeat in range(max((wanted(case) for case in cases), default=0))
        for case in cases
        if repeat < wanted(case)
        for variant in variants[case]
    ]
