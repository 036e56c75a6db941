"""The job that the options of ``maskrestore purify`` mean, here or in a worker on another machine."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from maskrestore.cli.classifier_options import ClassifierOptions, load_from_options
from maskrestore.defense.bdmae import BDMAE
from maskrestore.defense.config import BDMAEConfig
from maskrestore.defense.doubt import DoubtPolicy
from maskrestore.errors import ConfigError
from maskrestore.imaging.views import Convention, View
from maskrestore.jobs import FolderJob
from maskrestore.mae.choice import load_restorer
from maskrestore.mae.restorer import RestorerPrecision
from maskrestore.types import Classifier

__all__ = ["JobOptions"]

_VARIABLE = re.compile(r"\$\{?(\w+)")


@dataclass(frozen=True, kw_only=True)
class JobOptions:
    """The options, read but not yet followed. It can be pickled."""

    source: str
    classifier: str
    model: ClassifierOptions
    class_names: list[str] | None
    config: BDMAEConfig
    restorer: str
    precision: RestorerPrecision
    device: str
    key: bytes | int
    batch: int | None
    budget: int | None
    grey: bool
    image_column: str | None
    resize: Convention | None
    crop_share: float | None
    full_size: bool
    again: bool
    answer_cache: bool | None
    on_doubt: DoubtPolicy
    doubt_limit: float

    def make(self, out: Path) -> FolderJob:
        """Load the networks, and make the job. out: folder of the results.

        Raises ConfigError, ClassifierError, CheckpointError and MissingDependencyError.
        """
        black_box, identity = load_from_options(
            self.classifier, self.model, device=self.device, classes=self.class_names
        )
        restorer = load_restorer(self.restorer, precision=self.precision, device=self.device)
        return FolderJob(
            source=self.source,
            out=out,
            defense=BDMAE(restorer, self.config, key=self.key, chunk_size=self.batch),
            classifier=black_box,
            classifier_id=identity,
            budget=self.budget,
            keep_grey=self.grey,
            image_column=self.image_column,
            view=_view(black_box, self.resize, self.crop_share),
            full_size=self.full_size,
            again=self.again,
            answer_cache=self.answer_cache,
            on_doubt=self.on_doubt,
            doubt_limit=self.doubt_limit,
        )

    @property
    def environment(self) -> dict[str, str]:
        """Variables that the job reads: those of maskrestore, and those that an address and headers name."""
        named = {name for text in (self.classifier, *(self.model.header or ())) for name in _VARIABLE.findall(text)}
        return {name: value for name, value in os.environ.items() if name.startswith("MASKRESTORE_") or name in named}


def _view(classifier: Classifier, resize: Convention | None, crop_share: float | None) -> View | None:
    """How the classifier sees pictures; ``None`` if it takes them as they are."""
    size = getattr(classifier, "input_size", None)
    if size is not None:
        return View(height=size[0], width=size[1], convention=resize or "crop", crop_share=crop_share or 1.0)
    for option, value in (("--resize", resize), ("--crop-share", crop_share)):
        if value is not None:
            raise ConfigError(f"{option} needs the size of the model's input, which is not known; add --input-size")
    return None
