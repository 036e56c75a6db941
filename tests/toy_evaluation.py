"""A data set, an attack, a victim and a defense small enough to know every answer."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from maskrestore.lab.data.dataset import ImageDataset
from maskrestore.lab.measure.defenses import DefenseUnderTest, VictimUnderTest
from maskrestore.lab.measure.records import DefenseEntry, VictimEntry
from maskrestore.types import Purification

CLASSES = 4
TRIGGER = 255


def make_dataset(count: int = 80) -> ImageDataset:
    """Images whose first pixel is ten times the label; the last pixel is never white."""
    generator = torch.Generator().manual_seed(7)
    labels = torch.arange(count) % CLASSES
    images = torch.randint(0, 200, (count, 3, 8, 8), generator=generator, dtype=torch.uint8)
    images[:, :, 0, 0] = (10 * labels)[:, None].to(torch.uint8)
    names = tuple(f"class {label}" for label in range(CLASSES))
    return ImageDataset(name="toy", images=images, labels=labels, class_names=names)


class CornerAttack:
    """A white pixel in the lower right corner sends everything to class 0."""

    name = "corner:white"

    def apply(self, images: Tensor) -> Tensor:
        triggered = images.clone()
        triggered[..., -1, -1] = 1.0
        return triggered

    def poisoned_label(self, labels: Tensor) -> Tensor:
        return torch.zeros_like(labels)

    def eligible(self, labels: Tensor) -> Tensor:
        return labels != 0

    def trigger_mask(self, height: int, width: int) -> Tensor:
        mask = torch.zeros(height, width, dtype=torch.bool)
        mask[-1, -1] = True
        return mask


def backdoored(images: Tensor) -> Tensor:
    """Right about every clean image, 0 for every triggered one."""
    labels = (images[:, 0, 0, 0] * 25.5).round().long()
    return torch.where(images[:, 0, -1, -1] > 0.99, 0, labels)


@dataclass
class EraseCorner:
    """A defense that blackens the corner of images, and keeps what it was shown."""

    fail_after: int | None = None
    failure: BaseException = field(default_factory=KeyboardInterrupt)
    seen: list[Tensor] = field(default_factory=list)

    def purify(self, images: Tensor, classifier: object) -> Purification:
        if self.fail_after is not None and len(self.seen) >= self.fail_after:
            raise self.failure
        self.seen.append(images.clone())
        purified = images.clone()
        purified[..., -1, -1] = 0.0
        hidden = torch.zeros(len(images), 4, 4, dtype=torch.bool)
        hidden[:, -1, -1] = True
        return Purification(
            images=purified,
            labels=classifier(purified),  # type: ignore[operator]
            original_labels=classifier(images),  # type: ignore[operator]
            queries=torch.full((len(images),), 2),
            hidden=hidden,
        )


def make_victim(digest: str = "v0") -> VictimUnderTest:
    entry = VictimEntry(config={"dataset": "toy"}, digest=digest, weights="w0", precision="float32", ca=1.0, asr=1.0)
    return VictimUnderTest(classifier=backdoored, entry=entry)


def make_defense(defense: object, name: str = "erase", **config: object) -> DefenseUnderTest:
    entry = DefenseEntry(
        name=name,
        config=config,
        restorer=None,
        restorer_weights=None,
        key_fingerprint="0123456789abcdef",
        restorer_precision=None,
    )
    return DefenseUnderTest(defense=defense, entry=entry)  # type: ignore[arg-type]
