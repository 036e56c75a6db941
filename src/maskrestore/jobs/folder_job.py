"""The description of a job that purifies a folder of images."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO, get_args

from torch import Tensor

from maskrestore.classifiers import as_classifier
from maskrestore.classifiers.answer_cache import AnswerCache
from maskrestore.classifiers.retrying import LONGEST_WAIT
from maskrestore.defense.asking import is_local_model
from maskrestore.defense.bdmae import BDMAE
from maskrestore.defense.doubt import DOUBT_LIMIT, DoubtPolicy, check_on_doubt
from maskrestore.defense.streams import key_fingerprint
from maskrestore.errors import ConfigError
from maskrestore.imaging.codec import DecodedImage, read_image_stream
from maskrestore.imaging.views import View
from maskrestore.jobs.identity import settings_digest
from maskrestore.jobs.image_records import ImageRecords
from maskrestore.jobs.result_files import RESULT_FILES, RESULT_FOLDERS, check_results_folder
from maskrestore.jobs.sources import ImageSource
from maskrestore.jobs.sources.remote_files import is_remote
from maskrestore.mae.choice import restorer_for
from maskrestore.types import Restorer

__all__ = ["FolderJob"]


@dataclass(frozen=True, kw_only=True)
class FolderJob:
    """Which images to purify, for which classifier, and where the results go."""

    source: str | Path
    """An image, a folder, parquet files or tar shards, or a URL of one of these. Files are told by their content."""
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
    view: View | None = None
    """The size at which the classifier sees pictures: they are purified at it. ``None``: at their own size."""
    image_column: str | None = None
    """The column of images of parquet files. ``None``: the only one."""
    full_size: bool = False
    """Also write each picture in full size, with what was restored in the view of it, into ``out/full``."""
    again: bool = False
    """Purify images again that have a result with these settings."""
    answer_cache: bool | None = None
    """Keep each answer in ``out/answers.sqlite`` until all images have a result, so that a run after a crash does not
    ask about the same picture again. ``None``: for functions and addresses, whose answers may cost money, and not for
    models that run on this machine."""
    longest_wait: float = LONGEST_WAIT
    """Seconds that a run waits at most for a classifier that says "later", until it answers again."""
    on_doubt: DoubtPolicy = "answer"
    """What the record of an image answers if that is in doubt: ``answer`` the label of the purified image, ``original``
    that of the image as it came, ``abstain`` none. Another policy changes the answers of finished images, too, and asks
    nothing."""
    doubt_limit: float = DOUBT_LIMIT
    """An answer is in doubt above this doubt, in [0, 1]."""

    def __post_init__(self) -> None:
        if callable(self.on_doubt):
            known = ", ".join(get_args(DoubtPolicy))
            raise ConfigError(
                f"a folder job takes a policy for answers in doubt by its name ({known}), got a function; records say "
                "which answers are in doubt, and `BDMAE.protect` takes a function"
            )
        check_on_doubt(self.on_doubt, self.doubt_limit, self.defense.config)

    @functools.cached_property
    def config_digest(self) -> str:
        """A digest of everything that results depend on, but the image."""
        view = () if self.view is None else (asdict(self.view),)
        return settings_digest(self.defense, self.classifier_id, self.keep_grey, *view)

    @functools.cached_property
    def key_fingerprint(self) -> str:
        """The fingerprint of the operator's key."""
        return key_fingerprint(self.defense.key)

    @property
    def single_query(self) -> bool:
        """Whether the only query for an image is spent on what was restored, so that its own label is not known."""
        return self.defense.config.restoration.single_query

    def restorer_for(self, image: Tensor) -> Restorer:
        """The restorer of a picture ``(C, H, W)``, as it is purified."""
        return restorer_for(self.defense.restorer, (image.shape[-2], image.shape[-1]))

    def shown(self, image: Tensor) -> Tensor:
        """What is purified of a picture ``(C, H, W)``: its view, or the picture."""
        return image if self.view is None else self.view.show(image)

    @functools.cached_property
    def images(self) -> ImageSource:
        """The images of the source."""
        results = [self.out / name for name in (*RESULT_FOLDERS, *RESULT_FILES)]
        return ImageSource(self.source, image_column=self.image_column, leave_out=results)

    def decode(self, stream: BinaryIO, name: str) -> DecodedImage:
        """Decode an image of the source. Raises ImageFileError."""
        return read_image_stream(stream, name=name, keep_grey=self.keep_grey)

    def open_records(self) -> ImageRecords:
        """The images of the source, what is left out, and the records so far. The caller closes them.

        Raises ImageFileError if there is no image.
        """
        return ImageRecords(self.out / "records.jsonl", self.images.images())

    def open_cache(self) -> AnswerCache | None:
        """The answers that an earlier run left, if they are kept. The caller closes them."""
        wanted = self.answer_cache
        if wanted is None:
            wanted = not is_local_model(as_classifier(self.classifier))
        return AnswerCache(self.out / "answers.sqlite", self.classifier_id) if wanted else None

    def check_out(self) -> None:
        """Make sure that the results can be written; creates the folder of the results.

        Raises ConfigError if not, or if they would be written among the images of the source.
        """
        out = self.out.resolve()
        source = None if is_remote(self.source) else Path(self.source).resolve()
        if source is not None and (
            source == out or {out / name for name in RESULT_FOLDERS} & {source, *source.parents}
        ):
            raise ConfigError(
                f"results would be written over the images in {self.source}; choose another folder than {out}"
            )
        check_results_folder(self.out, full_size=self.full_size)
