"""The description of a job that purifies a folder of images."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from maskrestore.defense.bdmae import BDMAE
from maskrestore.defense.streams import key_fingerprint
from maskrestore.imaging.codec import walk_images
from maskrestore.jobs.identity import settings_digest
from maskrestore.jobs.image_records import ImageRecords

__all__ = ["FolderJob"]


@dataclass(frozen=True, kw_only=True)
class FolderJob:
    """Which images to purify, for which classifier, and where the results go."""

    source: Path
    """An image or a folder of images."""
    out: Path
    """A folder for the results. It is created if it does not exist."""
    defense: BDMAE
    classifier: Callable[[Tensor], Any]
    """A ``torch.nn.Module`` or a function, as for :func:`maskrestore.protect`."""
    classifier_id: str
    """Any text that identifies the classifier, such as "stop signs, version 3". Change it when the classifier changes:
    results for another one are computed again. :func:`maskrestore.jobs.identity.classifier_identity` makes one."""
    budget: int | None = None
    """The most queries that a run may send. An image is only begun if they are sure to suffice."""
    keep_grey: bool = False
    """Read grey images with one channel instead of three."""
    again: bool = False
    """Purify images again that have a result with these settings."""

    @functools.cached_property
    def config_digest(self) -> str:
        """A digest of everything that results depend on, but the image."""
        return settings_digest(self.defense, self.classifier_id, self.keep_grey)

    @functools.cached_property
    def key_fingerprint(self) -> str:
        """The fingerprint of the operator's key."""
        return key_fingerprint(self.defense.key)

    def name(self, file: Path) -> str:
        """The name of a file in records: relative to the source, with forward slashes."""
        return file.name if file == self.source else file.relative_to(self.source).as_posix()

    def file(self, name: str) -> Path:
        """The file of that name."""
        return self.source if self.source.is_file() else self.source / name

    def open_records(self, skipped: list[str] | None = None) -> ImageRecords:
        """The images of the source and their records so far. The caller closes them.

        skipped: gets a message about each folder that cannot be read. Raises ImageFileError if there is no image.
        """
        messages = [] if skipped is None else skipped
        files = walk_images(self.source, leave_out=self.out.resolve(), skipped=messages.append)
        return ImageRecords(self.out / "records.jsonl", map(self.name, files))
