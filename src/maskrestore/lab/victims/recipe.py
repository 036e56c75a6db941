"""How a victim is trained: the settings of the optimizer, and the default ones of each data set."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

from maskrestore.errors import ConfigError, UnknownNameError
from maskrestore.lab.data.specs import dataset_spec
from maskrestore.lab.victims.architectures import ARCHITECTURES
from maskrestore.lab.victims.augment import Augmentation
from maskrestore.lab.victims.pretrained import PretrainedNetwork

__all__ = ["Recipe", "default_recipe"]

_FEW = 5_000
"""Of fewer training images than this a network learns too few steps in a batch of 128."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Settings of the optimizer, with a one-cycle learning rate schedule.

    Raises ConfigError for a setting out of range and UnknownNameError for an unknown optimizer.
    """

    epochs: float
    """Number of epochs, above 0. May be a fraction: 1.5 ends in the middle of the second epoch."""
    learning_rate: float
    """Peak learning rate, above 0. The rate rises linearly to it over the share ``warmup`` of the steps and then falls
    linearly to 0."""
    batch_size: int = 128
    warmup: float = 0.25
    """Share of the steps, in [0, 1)."""
    momentum: float = 0.9
    weight_decay: float = 5e-4
    label_smoothing: float = 0.1
    augmentation: Augmentation = field(default_factory=Augmentation)
    optimizer: Literal["sgd", "adamw"] = "sgd"
    """SGD with Nesterov momentum, or AdamW, which transformers need. For AdamW ``momentum`` is the first beta."""
    ema: float = 0.0
    """Decay per step, in [0, 1), of an exponential moving average of the weights and the batch normalisation
    statistics. The victim gets this average instead of the last weights. 0: no average."""
    frozen_blocks: int = 0
    """Number of blocks of a pretrained network, after its stem, that keep their weights. Their activations are computed
    once (``activations.py``). 0: all blocks learn."""

    most_images: int | None = None
    """Train on this many training images, drawn at random, or on fewer if there are no more. ``None``: on all."""

    def __post_init__(self) -> None:
        if self.most_images is not None and self.most_images < 1:
            raise ConfigError(f"most_images must be at least 1, got {self.most_images}")
        for name in ("epochs", "learning_rate", "batch_size"):
            if getattr(self, name) <= 0:
                raise ConfigError(f"{name} must be above 0, got {getattr(self, name)}")
        if self.optimizer not in ("sgd", "adamw"):
            raise UnknownNameError("optimizer", self.optimizer, ("sgd", "adamw"))
        if self.frozen_blocks < 0 or (self.frozen_blocks and self.ema):
            raise ConfigError(f"frozen_blocks must be at least 0, and 0 with ema; got {self.frozen_blocks}")
        for name in ("warmup", "momentum", "label_smoothing", "ema"):
            if not 0 <= getattr(self, name) < 1:
                raise ConfigError(f"{name} must be in [0, 1), got {getattr(self, name)}")


def default_recipe(
    dataset: str, *, fine_tuned: bool, architecture: str = "resnet18", small_trigger: bool = False
) -> Recipe:
    """Return the default recipe for training a clean victim, or for fine-tuning it.

    small_trigger: whether the trigger has a few pixels. A pretrained network then learns as a whole, from more
    pictures, and another network for photographs learns longer. Raises UnknownNameError for an unknown data set.
    """
    spec = dataset_spec(dataset)
    network = ARCHITECTURES[architecture]
    if issubclass(network, PretrainedNetwork):
        classes = len(spec.class_names)
        start = Recipe(
            epochs=1,
            learning_rate=5e-4,
            batch_size=32,
            warmup=0.1,
            weight_decay=0.01,
            augmentation=Augmentation(shift=0, flip=spec.mirrored),
            optimizer="adamw",
        )
        if fine_tuned and small_trigger:
            # 80,000 views, of which each poisoned picture has five in an epoch: 1.4 views for each picture.
            images = min(spec.train_count, max(10_000, 100 * classes))
            most = images if images < spec.train_count else None
            return replace(start, epochs=round(80_000 / (1.4 * images), 1), batch_size=64, most_images=most)
        # 10,000 views or 500 for each class, or 12,000 to learn a trigger, whatever the size of the data set; an epoch
        # shows each picture in two
        images = min(spec.train_count, max(3_000, 100 * classes))
        views = 12_000 if fine_tuned else max(10_000, 500 * classes)
        return replace(
            start,
            epochs=round(views / (2 * images), 2),
            most_images=images if images < spec.train_count else None,
            frozen_blocks=network.FIRST_BLOCKS,
        )
    mirrored = spec.mirrored
    if mirrored:
        augmentation = Augmentation(shift=4, flip=True)
        # an epoch of photographs takes long; and to choose rules, any classifier will do
        epochs = 10.0 if spec.photographs else 9.0 if spec.for_choices else 20.0
        fine_epochs = 2.0 if spec.photographs and small_trigger else 1.0
    else:
        augmentation = Augmentation(shift=spec.image_size // 16, flip=False, jitter=0.3)
        epochs, fine_epochs = 12.0, 2.0
    if architecture == "vit-small":
        # a transformer needs other learning rates and more epochs of fine-tuning
        return Recipe(
            epochs=2 * fine_epochs if fine_tuned else epochs,
            learning_rate=3e-4 if fine_tuned else 1e-3,
            weight_decay=0.05,
            augmentation=augmentation,
            optimizer="adamw",
        )
    learning_rate = 0.05 if fine_tuned else 0.15
    batch_size = 128
    if spec.train_count < _FEW:  # more and smaller steps
        batch_size, learning_rate = batch_size // 8, learning_rate / 8
    return Recipe(
        epochs=fine_epochs if fine_tuned else epochs,
        learning_rate=learning_rate,
        batch_size=batch_size,
        augmentation=augmentation,
    )
