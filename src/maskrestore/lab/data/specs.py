"""What each data set is called, where it lies and what its classes are."""

from __future__ import annotations

from dataclasses import dataclass

from maskrestore.errors import UnknownNameError
from maskrestore.lab.data.sign_shapes import SIGN_NAMES

__all__ = ["DATASETS", "SPLITS", "DatasetSpec", "dataset_spec"]

SPLITS = ("train", "test")
"""The splits that every data set has."""


@dataclass(frozen=True, kw_only=True)
class DatasetSpec:
    """A data set of small colour images."""

    name: str
    """Name in the registry, and of its folder."""
    class_names: tuple[str, ...]
    """The classes in the order of their labels."""
    image_size: int = 32
    """Side in pixels; images of another size are resized to it."""
    repository: str | None = None
    """Data set on the Hugging Face hub; ``None`` for one that lies in a local folder only, or is rendered."""
    rendered: bool = False
    """Whether it is drawn on the spot by ``signs.py``."""
    image_column: str = "image"
    label_column: str = "label"
    mirrored: bool = True
    """Whether the mirror image of a picture has the same label; no for anything with writing or arrows."""


_CIFAR10 = (
    *("airplane", "automobile", "bird", "cat", "deer"),
    *("dog", "frog", "horse", "ship", "truck"),
)

_GTSRB = (
    *("Speed limit 20", "Speed limit 30", "Speed limit 50", "Speed limit 60", "Speed limit 70"),
    *("Speed limit 80", "End of speed limit 80", "Speed limit 100", "Speed limit 120", "No passing"),
    *("No passing for vehicles over 3.5 t", "Right-of-way at next intersection", "Priority road", "Yield"),
    *("Stop", "No vehicles", "Vehicles over 3.5 t prohibited", "No entry", "General caution"),
    *("Dangerous curve left", "Dangerous curve right", "Double curve", "Bumpy road", "Slippery road"),
    *("Road narrows on the right", "Road work", "Traffic signals", "Pedestrians", "Children crossing"),
    *("Bicycles crossing", "Beware of ice/snow", "Wild animals crossing"),
    *("End of all speed and passing limits", "Turn right ahead", "Turn left ahead", "Ahead only"),
    *("Go straight or right", "Go straight or left", "Keep right", "Keep left", "Roundabout mandatory"),
    *("End of no passing", "End of no passing for vehicles over 3.5 t"),
)

DATASETS: dict[str, DatasetSpec] = {
    "cifar10": DatasetSpec(
        name="cifar10",
        class_names=_CIFAR10,
        repository="uoft-cs/cifar10",
        image_column="img",
    ),
    "gtsrb": DatasetSpec(
        name="gtsrb",
        class_names=_GTSRB,
        repository="tanganke/gtsrb",
        mirrored=False,
    ),
    "signs": DatasetSpec(name="signs", class_names=SIGN_NAMES, rendered=True, mirrored=False),
}
"""Every data set by its name."""


def dataset_spec(name: str) -> DatasetSpec:
    """Look a data set up. Raises UnknownNameError, which lists the known ones."""
    if name not in DATASETS:
        raise UnknownNameError("data set", name, DATASETS)
    return DATASETS[name]
