"""The contenders of ``benchmarks.speed``: the authors' schedule, and maskrestore by profile and precision."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from unittest import mock

import torch
from benchmarks.speed_cases import Case
from torch import Tensor

from benchmarks import authors_schedule
from maskrestore import BDMAE, BDMAEConfig, CountingClassifier
from maskrestore.defense.state import prepared_by
from maskrestore.mae.restorer import RestorerPrecision
from maskrestore.types import Restorer

__all__ = ["AUTHORS", "CONTENDERS", "Contender", "Outcome", "is_meaningful", "make_run"]

AUTHORS = "authors"
AUTHORS_BATCH = 64
"""Images of a batch of the authors' schedule; fewer if the benchmark has fewer."""


@dataclass(frozen=True, kw_only=True)
class Contender:
    """A configuration of maskrestore."""

    profile: str = "paper"
    precision: RestorerPrecision = "auto"

    def config(self, case: Case) -> BDMAEConfig:
        """Its settings for a case."""
        return case.profiles[self.profile]


CONTENDERS: dict[str, Contender] = {
    "float32": Contender(precision="float32"),
    "exact": Contender(),
    "fast": Contender(profile="paper-fast"),
    "default-exact": Contender(profile="default"),
    "default-fast": Contender(profile="fast"),
    "exact-int8": Contender(precision="int8"),
    "default-fast-int8": Contender(profile="fast", precision="int8"),
}


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """The answers of a contender for ``N`` images, and what they cost."""

    labels: Tensor
    """``(N,)`` int64: labels of the purified images."""
    queries: Tensor
    """``(N,)`` int64: queries for each image."""
    passes: Counter[int]
    """Number of restored masks by their number of visible tokens, without the padding of micro-batches."""


Run = Callable[[Tensor], Outcome]


def is_meaningful(name: str, case: Case) -> bool:
    """Whether the time of a contender is meaningful in a case; see the comment in ``speed_cases.py``."""
    if name == AUTHORS or case.truth is not None:
        return True
    return CONTENDERS[name].profile in case.profiles


def make_run(name: str, case: Case) -> Run:
    """Make a function that purifies a batch; every call gives the same answers."""
    return _authors(case) if name == AUTHORS else _ours(CONTENDERS[name], case)


def _ours(contender: Contender, case: Case) -> Run:
    restorer, config, classifier = case.restorer(contender.precision), contender.config(case), case.classifier()

    def run(images: Tensor) -> Outcome:
        counting = _CountingRestorer(restorer)
        result = BDMAE(counting, config).purify(images, classifier)
        return Outcome(labels=result.labels, queries=result.queries, passes=counting.passes)

    return run


def _authors(case: Case) -> Run:
    # Micro-batches as large as the batch: the authors' schedule neither pads nor divides batches.
    classifier = case.classifier(micro_batch=min(len(case.images), 32))
    restored = authors_schedule.restored

    def run(images: Tensor) -> Outcome:
        passes: Counter[int] = Counter()

        def counted(network: torch.nn.Module, batch: Tensor, hidden: Tensor) -> Tensor:
            _count(passes, hidden)
            return restored(network, batch, hidden)

        generator, labels, queries = torch.Generator().manual_seed(0), [], []
        with mock.patch.object(authors_schedule, "restored", counted):
            for part in images.split(AUTHORS_BATCH):
                asked = CountingClassifier(classifier)
                schedule = authors_schedule.AuthorsSchedule(
                    network=case.network if case.authors is None else case.authors,
                    classifier=asked,
                    config=case.profiles["paper"],
                    generator=generator,
                )
                labels.append(schedule.purify(part)[1])
                queries.append(torch.full((len(part),), asked.queries // len(part)))
        return Outcome(labels=torch.cat(labels), queries=torch.cat(queries), passes=passes)

    return run


class _CountingRestorer:
    """A restorer that counts its passes."""

    def __init__(self, restorer: Restorer) -> None:
        self._restorer = restorer
        self.passes: Counter[int] = Counter()

    @property
    def grid(self) -> int:
        return self._restorer.grid

    @property
    def device(self) -> torch.device:
        return torch.device(getattr(self._restorer, "device", "cpu"))

    def prepare_images(self, images: Tensor) -> Any:
        return prepared_by(self._restorer, images)

    def restore(self, images: Any, hidden: Tensor) -> Tensor:
        _count(self.passes, hidden)
        return self._restorer.restore(images, hidden)


def _count(passes: Counter[int], hidden: Tensor) -> None:
    """Count masks ``(..., g, g)`` bool by visible tokens. A mask that hides nothing needs no pass."""
    tokens = hidden.shape[-1] * hidden.shape[-2]
    visible = tokens - hidden.flatten(-2).sum(dim=-1).flatten()
    passes.update(visible[visible < tokens].tolist())
