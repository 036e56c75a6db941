"""Configuration of a victim."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Literal

from maskrestore.errors import ConfigError, UnknownNameError
from maskrestore.lab.attacks import Poisoning, default_poisoning, same_training
from maskrestore.lab.data.specs import DatasetSpec, dataset_spec
from maskrestore.lab.victims.architectures import ARCHITECTURES
from maskrestore.lab.victims.pretrained import PretrainedNetwork, backbone_identity
from maskrestore.lab.victims.recipe import Recipe, default_recipe
from maskrestore.runtime.digests import sha256_of_json

__all__ = ["VictimConfig"]


@dataclass(frozen=True, kw_only=True)
class VictimConfig:
    """A classifier, clean or with a backdoor, and everything that determines its training.

    Raises UnknownNameError for an unknown data set or architecture and ConfigError for a setting out of range.
    """

    dataset: str
    """A key of ``maskrestore.lab.data.DATASETS``."""
    architecture: str = ""
    """A key of ``maskrestore.lab.victims.ARCHITECTURES``; empty for the default of the data set."""
    width: int = 64
    """Scale of all channels: 64 is the full network, 32 the half-width one. Pretrained networks have no scale; it is 64
    for them."""
    backbone: str | None = None
    """Pretrained weights of an architecture that starts from them: a file, a folder or a name on the hub. ``None`` uses
    its default. The digest has the content of a file or folder, not its path."""
    attack: str | None = None
    """The attack, e.g. "badnets:3x3-color"; ``None`` trains a clean classifier."""
    mode: Literal["all-to-one", "all-to-all"] = "all-to-one"
    target: int = 0
    """The target class, from 0, in the mode "all-to-one"."""
    position: tuple[int, int] | None = None
    """Row and column of a patch, as in ``AttackConfig``; ``None`` uses the attack's default."""
    poison_rate: float | None = None
    """Share of the training images that carry the trigger, in (0, 1); for a clean-label attack, share of the target
    class. ``None`` uses the attack's default, nearly always 0.1 (paper, appendix B.1: 10 %)."""
    poison_repeats: int | None = None
    """How many times each poisoned image appears in an epoch. ``None`` uses the attack's default, nearly always 3, for
    fine-tuning, and 1 from scratch or for a pretrained network. The set of poisoned images does not depend on it.
    Reason: two epochs of fine-tuning do not learn a trigger of one pixel when each poisoned image appears once per
    epoch."""
    restored_rate: float = 0.0
    """Share of the images of each batch, triggered or not, that a masked autoencoder restores from a random quarter of
    their tokens: an attacker who adapts to a defense by restoration. A value above 0 needs ``restorer_weights`` and
    the argument ``restoration`` of ``train_victim``."""
    restorer_weights: str | None = None
    """Digest of the autoencoder's weights: ``MAERestorer.weights_digest``."""
    augmented_trigger: bool = False
    """Whether the trigger is added before augmentation, which then shifts and mirrors it with the image, as in the
    BDMAE paper's code. By default it is added after augmentation, at the same position as at test time."""
    seed: int = 0
    init: Literal["clean", "scratch"] = "clean"
    """Initial weights of an attacked victim. "clean": fine-tune the clean victim of the same data set, architecture
    and width. "scratch": as in the paper; takes many times as long. Clean victims always start from scratch."""
    recipe: Recipe | None = None
    """``None`` uses ``default_recipe``; for fine-tuning, its epochs are multiplied by ``Poisoning.epochs``."""

    def __post_init__(self) -> None:
        spec = self.spec
        if not self.architecture:
            object.__setattr__(self, "architecture", spec.architecture)
        if self.architecture not in ARCHITECTURES:
            raise UnknownNameError("architecture", self.architecture, ARCHITECTURES)
        if self.pretrained:
            object.__setattr__(self, "width", 64)
        elif self.backbone is not None:
            raise ConfigError(f"{self.architecture} has no pretrained weights, got the backbone {self.backbone}")
        if not 0 <= self.target < len(spec.class_names):
            raise ConfigError(f"target must be 0 to {len(spec.class_names) - 1}, got {self.target}")
        poisoning = self.poisoning
        if not 0 < poisoning.rate < 1:
            raise ConfigError(f"poison_rate must be in (0, 1), got {poisoning.rate}")
        if not 0 <= self.restored_rate <= 1:
            raise ConfigError(f"restored_rate must be in [0, 1], got {self.restored_rate}")
        for name in ("width", "poison_repeats"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"{name} must be at least 1, got {value}")

    @property
    def spec(self) -> DatasetSpec:
        """Specification of the data set."""
        return dataset_spec(self.dataset)

    @property
    def pretrained(self) -> bool:
        """Whether the network starts from pretrained weights, clean or not."""
        return issubclass(ARCHITECTURES[self.architecture], PretrainedNetwork)

    @property
    def fine_tuned(self) -> bool:
        """Whether training starts from the clean victim."""
        return self.attack is not None and self.init == "clean"

    @property
    def needs_clean(self) -> bool:
        """Whether training needs the clean victim, as initial weights or to perturb images against."""
        return self.fine_tuned or self.poisoning.against_clean

    @property
    def training(self) -> Recipe:
        """The effective recipe: ``recipe``, or the default one."""
        if self.recipe is not None:
            return self.recipe
        recipe = default_recipe(
            self.dataset,
            fine_tuned=self.fine_tuned,
            architecture=self.architecture,
            small_trigger=default_poisoning(self.attack or "").small_trigger,
        )
        return replace(recipe, epochs=recipe.epochs * self.poisoning.epochs) if self.fine_tuned else recipe

    @property
    def poisoning(self) -> Poisoning:
        """The effective poisoning: the attack's defaults, overridden by ``poison_rate`` and ``poison_repeats``."""
        defaults = default_poisoning(self.attack or "")
        return replace(
            defaults,
            rate=defaults.rate if self.poison_rate is None else self.poison_rate,
            repeats=self.poison_repeats or self._default_repeats(defaults),
        )

    def _default_repeats(self, defaults: Poisoning) -> int:
        if not self.fine_tuned:
            return 1
        if defaults.small_trigger and (self.pretrained or self.spec.photographs):
            # In photographs a patch of 3 x 3 pixels is learned late: a pretrained network had ASR 1 % after four epochs
            # without repeats, and 99 % after six with five of them. A small one at 128 x 128 learned four of them in
            # two epochs with five repeats (99 %), and not in one with three (26 %); a single one in neither (32 %).
            return 5
        # An icon is learned without repeats, which cost a pretrained network 1.6 points of clean accuracy.
        return 1 if self.pretrained else defaults.repeats

    def clean(self) -> VictimConfig:
        """Return the configuration of the clean victim that this one starts from or perturbs images against.

        It has the seed 0, so that all attacked victims of a data set share it. Its recipe is the default one for a
        fine-tuned victim, else this victim's recipe.
        """
        recipe = None if self.fine_tuned else self.recipe
        return VictimConfig(
            dataset=self.dataset,
            architecture=self.architecture,
            width=self.width,
            backbone=self.backbone,
            recipe=recipe,
        )

    def canonical(self) -> dict[str, object]:
        """Return everything that determines the weights as a JSON dictionary: the input of :meth:`digest`.

        It contains every effective setting and, under "start", the digest of the clean victim where it is used.
        """
        poisoning = self.poisoning
        effective = replace(self, recipe=self.training, poison_rate=poisoning.rate, poison_repeats=poisoning.repeats)
        values = asdict(effective) | {"attack": self.attack and same_training(self.attack)}
        if self.attack is None:
            for name in ("mode", "target", "position", "poison_rate", "poison_repeats", "init", "augmented_trigger"):
                del values[name]
        elif not self.augmented_trigger:
            del values["augmented_trigger"]
        # settings that were added later are included only when used, so that earlier victims keep their digest
        if not self.restored_rate:
            del values["restored_rate"], values["restorer_weights"]
        if self.training.optimizer == "sgd":
            del values["recipe"]["optimizer"]
        if not self.training.ema:
            del values["recipe"]["ema"]
        if not self.training.frozen_blocks:
            del values["recipe"]["frozen_blocks"]
        if self.training.most_images is None:
            del values["recipe"]["most_images"]
        if self.backbone is None:
            del values["backbone"]
        else:
            values["backbone"] = backbone_identity(self.backbone)
        values["start"] = self.clean().digest() if self.needs_clean else None
        return values

    def digest(self) -> str:
        """Return the SHA-256 of the canonical configuration in hexadecimal."""
        return sha256_of_json(self.canonical())
