"""What a victim is and how it is trained."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from typing import Literal

from maskrestore.errors import ConfigError, UnknownNameError
from maskrestore.lab.attacks import Poisoning, default_poisoning
from maskrestore.lab.data.specs import DatasetSpec, dataset_spec
from maskrestore.lab.victims.architectures import ARCHITECTURES
from maskrestore.lab.victims.augment import Augmentation
from maskrestore.runtime.digests import sha256_of_json

__all__ = ["Recipe", "VictimConfig", "default_recipe"]


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One run of an optimizer with a one-cycle learning rate."""

    epochs: float
    """May be a fraction: 1.5 ends in the middle of the second epoch."""
    learning_rate: float
    """Peak, reached after ``warmup`` of the steps, then lowered to 0 linearly."""
    batch_size: int = 128
    warmup: float = 0.25
    momentum: float = 0.9
    weight_decay: float = 5e-4
    label_smoothing: float = 0.1
    augmentation: Augmentation = field(default_factory=Augmentation)
    optimizer: Literal["sgd", "adamw"] = "sgd"
    """SGD with Nesterov momentum, or AdamW, which transformers need; ``momentum`` is then its first beta."""
    ema: float = 0.0
    """Decay, at each step, of an average of the weights and of the statistics of batch normalisation, which becomes
    the victim in place of the last weights; 0 leaves it out."""

    def __post_init__(self) -> None:
        for name in ("epochs", "learning_rate", "batch_size"):
            if getattr(self, name) <= 0:
                raise ConfigError(f"{name} must be above 0, got {getattr(self, name)}")
        if self.optimizer not in ("sgd", "adamw"):
            raise UnknownNameError("optimizer", self.optimizer, ("sgd", "adamw"))
        for name in ("warmup", "momentum", "label_smoothing", "ema"):
            if not 0 <= getattr(self, name) < 1:
                raise ConfigError(f"{name} must be in [0, 1), got {getattr(self, name)}")


@dataclass(frozen=True, kw_only=True)
class VictimConfig:
    """A classifier, clean or with a backdoor, down to the last bit of its training."""

    dataset: str
    """A key of ``maskrestore.lab.data.DATASETS``."""
    architecture: str = "resnet18"
    width: int = 64
    """Scale of all channels: 64 is the full network, 32 the half-width one."""
    attack: str | None = None
    """What is poisoned in, e.g. "badnets:3x3-color"; ``None`` trains a clean classifier."""
    mode: Literal["all-to-one", "all-to-all"] = "all-to-one"
    target: int = 0
    """The class that triggered images go to, in the mode "all-to-one"."""
    position: tuple[int, int] | None = None
    """Row and column of a patch's upper left pixel; ``None`` is the attack's own place."""
    poison_rate: float | None = None
    """Share of the training images that carry the trigger (of the target class's, for an attack with clean
    labels); ``None`` is the attack's own, nearly always 0.1 (paper, appendix B.1: 10 %)."""
    poison_repeats: int | None = None
    """How often a poisoned image comes up in an epoch; ``None`` is the attack's own for a fine-tune, nearly always 3,
    and 1 from scratch. One pixel is not learned in two epochs of a fine-tune when its images come up once; the set of
    poisoned images stays the same."""
    restored_rate: float = 0.0
    """Share of the images of each batch that are shown as a masked autoencoder restores them from a random quarter
    of their tokens, triggered or not: an attacker who prepares for a defense by restoration. Above 0 it needs
    ``restorer_weights``, and the argument ``restoration`` of ``train_victim``."""
    restorer_weights: str | None = None
    """Digest of that autoencoder's weights, as ``MAERestorer.weights_digest`` has it."""
    augmented_trigger: bool = False
    """Whether the trigger is put in before augmentation, which then moves and mirrors it with the image, as in the
    BDMAE paper's code; else after it, so that the trigger lies where it does at test time."""
    seed: int = 0
    init: Literal["clean", "scratch"] = "clean"
    """Where an attacked victim starts: "clean" fine-tunes the clean victim of the same data set, architecture
    and width; "scratch", as in the paper, takes many times as long. Clean victims start from scratch."""
    recipe: Recipe | None = None
    """``None`` is ``default_recipe`` for the data set and the start."""

    def __post_init__(self) -> None:
        spec = self.spec
        if self.architecture not in ARCHITECTURES:
            raise UnknownNameError("architecture", self.architecture, ARCHITECTURES)
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
        """What is known of the data set."""
        return dataset_spec(self.dataset)

    @property
    def fine_tuned(self) -> bool:
        """Whether training starts from the clean victim."""
        return self.attack is not None and self.init == "clean"

    @property
    def needs_clean(self) -> bool:
        """Whether training needs the clean victim: to start from, or to perturb images against."""
        return self.fine_tuned or self.poisoning.against_clean

    @property
    def training(self) -> Recipe:
        """The recipe in force."""
        if self.recipe is not None:
            return self.recipe
        recipe = default_recipe(self.dataset, fine_tuned=self.fine_tuned, architecture=self.architecture)
        return replace(recipe, epochs=recipe.epochs * self.poisoning.epochs) if self.fine_tuned else recipe

    @property
    def poisoning(self) -> Poisoning:
        """How much of the training is poisoned: the attack's defaults, and what is set here in their place."""
        own = default_poisoning(self.attack or "")
        return replace(
            own,
            rate=own.rate if self.poison_rate is None else self.poison_rate,
            repeats=self.poison_repeats or (own.repeats if self.fine_tuned else 1),
        )

    def clean(self) -> VictimConfig:
        """Return the configuration of the clean victim that this one starts from, or perturbs images against.

        It has seed 0, so that all attacked victims of a data set share it, and the default recipe; that of a victim
        from scratch is its own.
        """
        recipe = None if self.fine_tuned else self.recipe
        return VictimConfig(dataset=self.dataset, architecture=self.architecture, width=self.width, recipe=recipe)

    def canonical(self) -> dict[str, object]:
        """Return what decides the weights: every field in force, and of the clean victim, where it counts."""
        poisoning = self.poisoning
        in_force = replace(self, recipe=self.training, poison_rate=poisoning.rate, poison_repeats=poisoning.repeats)
        values = asdict(in_force)
        if self.attack is None:
            for name in ("mode", "target", "position", "poison_rate", "poison_repeats", "init", "augmented_trigger"):
                del values[name]
        elif not self.augmented_trigger:
            del values["augmented_trigger"]
        # later settings count only where they are used, so that the digests of earlier victims stay the same
        if not self.restored_rate:
            del values["restored_rate"], values["restorer_weights"]
        if self.training.optimizer == "sgd":
            del values["recipe"]["optimizer"]
        if not self.training.ema:
            del values["recipe"]["ema"]
        values["start"] = self.clean().digest() if self.needs_clean else None
        return values

    def digest(self) -> str:
        """Return the SHA-256 of the canonical configuration, in hex."""
        return sha256_of_json(self.canonical())


def default_recipe(dataset: str, *, fine_tuned: bool, architecture: str = "resnet18") -> Recipe:
    """Return the recipe for a first training, or for the poisoned fine-tune of a clean victim."""
    mirrored = dataset_spec(dataset).mirrored
    if mirrored:
        augmentation = Augmentation(shift=4, flip=True)
        epochs, fine_epochs = 20.0, 1.0
    else:
        augmentation = Augmentation(shift=2, flip=False, jitter=0.3)
        epochs, fine_epochs = 12.0, 2.0
    if architecture == "vit-small":
        # a transformer needs other rates, and more of a fine-tune
        return Recipe(
            epochs=2 * fine_epochs if fine_tuned else epochs,
            learning_rate=3e-4 if fine_tuned else 1e-3,
            weight_decay=0.05,
            augmentation=augmentation,
            optimizer="adamw",
        )
    if fine_tuned:
        return Recipe(epochs=fine_epochs, learning_rate=0.05, augmentation=augmentation)
    return Recipe(epochs=epochs, learning_rate=0.15, augmentation=augmentation)
