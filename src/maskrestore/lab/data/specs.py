"""Specifications of the data sets: name, source, classes."""

from __future__ import annotations

from dataclasses import dataclass

from maskrestore.errors import UnknownNameError
from maskrestore.imaging.sizes import is_photograph
from maskrestore.lab.data.sign_shapes import SIGN_NAMES
from maskrestore.mae.choice import packaged_restorer

__all__ = ["DATASETS", "SPLITS", "DatasetSpec", "dataset_spec"]

SPLITS = ("train", "test")
"""The splits of every data set."""


@dataclass(frozen=True, kw_only=True)
class DatasetSpec:
    """A data set of colour images: all that the rest of the laboratory needs to know about it."""

    name: str
    """Key in ``DATASETS`` and name of the local folder."""
    class_names: tuple[str, ...]
    """Names of the classes; the label is the index. The labels of class folders follow the order of their names."""
    train_count: int
    """Number of training images, at least approximately. The length of training follows from it."""
    test_count: int
    """Number of test images, at least approximately. Estimates of time follow from it."""
    image_size: int = 32
    """Side in pixels. A photograph of another size is resized to it on its shorter side and cropped in the middle; a
    small image is resized to a square."""
    architecture: str = "resnet18"
    """Default architecture of its victims."""
    source: str | None = None
    """Name of the local folder to read when there is none called ``name``: the same pictures at another size, or a
    larger data set, of which the first classes in alphabetical order are taken."""
    repository: str | None = None
    """Name on the Hugging Face hub; ``None`` for data sets that are local only or rendered."""
    rendered: bool = False
    """Whether ``signs.py`` renders the images."""
    image_column: str = "image"
    label_column: str = "label"
    for_choices: bool = False
    """Whether both splits are parts of the training split of ``source``, drawn at random: ``train_count`` images, and
    the others. Rules are chosen on the latter, which no classifier of this data set has learned."""
    mirrored: bool = True
    """Whether mirroring left to right keeps the label. Not for pictures with text or arrows."""

    @property
    def photographs(self) -> bool:
        """Whether images are larger than 64 pixels. Such a split stays on disk and is decoded when it is used."""
        return is_photograph(self.image_size, self.image_size)

    @property
    def restorer(self) -> str:
        """Name of the packaged weights that restore its images by default."""
        return packaged_restorer(self.image_size, self.image_size)


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

_IMAGENETTE = (
    *("tench", "English springer", "cassette player", "chain saw", "church"),
    *("French horn", "garbage truck", "gas pump", "golf ball", "parachute"),
)


def _numbered(word: str, count: int) -> tuple[str, ...]:
    return tuple(f"{word} {number}" for number in range(count))


def _imagenet(classes: int) -> DatasetSpec:
    """The first classes of ImageNet in alphabetical order of their folders (BDMAE paper, appendix A).

    The paper's public code does the same with the folders of torchvision's ``ImageNet``, which are named by WordNet.
    """
    return DatasetSpec(
        name=f"imagenet{classes}",
        class_names=_numbered("ImageNet class", classes),
        train_count=1300 * classes,
        test_count=50 * classes,
        image_size=224,
        architecture="resnet50-pretrained",
        source="imagenet",
    )


_SPECS = (
    DatasetSpec(
        name="cifar10",
        class_names=_CIFAR10,
        train_count=50_000,
        test_count=10_000,
        repository="uoft-cs/cifar10",
        image_column="img",
    ),
    DatasetSpec(
        name="cifar10-choices",
        class_names=_CIFAR10,
        train_count=40_000,
        test_count=10_000,
        source="cifar10",
        for_choices=True,
    ),
    DatasetSpec(
        name="gtsrb",
        class_names=_GTSRB,
        train_count=39_209,
        test_count=12_630,
        repository="tanganke/gtsrb",
        mirrored=False,
    ),
    DatasetSpec(
        name="imagenette",  # ten classes of ImageNet: stands in for imagenet10
        class_names=_IMAGENETTE,
        train_count=9_469,
        test_count=1_000,
        image_size=224,
        architecture="efficientnet-lite0",
    ),
    DatasetSpec(
        name="imagenette-128",
        class_names=_IMAGENETTE,
        train_count=9_469,
        test_count=1_000,
        image_size=128,
        architecture="resnet18-photo",
        source="imagenette",
    ),
    DatasetSpec(
        name="lfw62",  # 62 people of Labeled Faces in the Wild: stands in for vggface2-170
        class_names=_numbered("person", 62),
        train_count=1_730,
        test_count=553,
        image_size=160,
        architecture="efficientnet-lite0",
    ),
    *(_imagenet(classes) for classes in (10, 50, 100)),
    # The paper takes 170 classes of VGGFace2 at random (appendix A) and does not list them.
    DatasetSpec(
        name="vggface2-170",
        class_names=_numbered("person", 170),
        train_count=60_000,
        test_count=3_400,
        image_size=224,
        architecture="resnet50-pretrained",
    ),
    DatasetSpec(
        name="signs", class_names=SIGN_NAMES, train_count=12_000, test_count=1_200, rendered=True, mirrored=False
    ),
    DatasetSpec(
        name="signs-224",  # the same scenes as large pictures
        class_names=SIGN_NAMES,
        train_count=3_000,
        test_count=1_200,
        image_size=224,
        architecture="resnet18-photo",
        rendered=True,
        mirrored=False,
    ),
)

DATASETS: dict[str, DatasetSpec] = {spec.name: spec for spec in _SPECS}
"""Data sets by name."""


def dataset_spec(name: str) -> DatasetSpec:
    """Return the specification of a data set. Raises UnknownNameError, which lists the known names."""
    if name not in DATASETS:
        raise UnknownNameError("data set", name, DATASETS)
    return DATASETS[name]
