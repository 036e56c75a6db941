"""Specifications of the data sets: name, source, classes."""

from __future__ import annotations

from dataclasses import dataclass

from maskrestore.errors import UnknownNameError
from maskrestore.lab.data.sign_shapes import SIGN_NAMES

__all__ = ["DATASETS", "SPLITS", "DatasetSpec", "dataset_spec"]

SPLITS = ("train", "test")
"""The splits of every data set."""


@dataclass(frozen=True, kw_only=True)
class DatasetSpec:
    """A data set of small colour images."""

    name: str
    """Key in ``DATASETS`` and name of the local folder."""
    class_names: tuple[str, ...]
    """Names of the classes; the label is the index."""
    image_size: int = 32
    """Side in pixels. Images of another size are resized to it."""
    repository: str | None = None
    """Name on the Hugging Face hub; ``None`` for data sets that are local only or rendered."""
    rendered: bool = False
    """Whether ``signs.py`` renders the images."""
    image_column: str = "image"
    label_column: str = "label"
    mirrored: bool = True
    """Whether mirroring left to right keeps the label. Not for pictures with text or arrows."""


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
"""Data sets by name."""


def dataset_spec(name: str) -> DatasetSpec:
    """Return the specification of a data set. Raises UnknownNameError, which lists the known names."""
    if name not in DATASETS:
        raise UnknownNameError("data set", name, DATASETS)
    return DATASETS[name]
