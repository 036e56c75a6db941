"""Choose a restorer by its name, or by the size of the pictures."""

from __future__ import annotations

import functools
from pathlib import Path

import torch

from maskrestore.imaging.sizes import is_photograph
from maskrestore.mae.checkpoints.loading import load_network, packaged_digest
from maskrestore.mae.restorer import MAERestorer, RestorerPrecision
from maskrestore.runtime.digests import digest_of_json
from maskrestore.types import Restorer, RestorerChoice

__all__ = ["DEFAULT_RESTORER", "RestorerBySize", "load_restorer", "named_restorer", "packaged_restorer", "restorer_for"]

DEFAULT_RESTORER = "auto"
"""Chooses among the packaged weights for each picture by its size; see :func:`packaged_restorer`."""
_SMALL, _LARGE = "mae-tiny-32", "mae-photo-224"


def packaged_restorer(height: int, width: int) -> str:
    """The name of the packaged weights for pictures of this size in pixels.

    That is ``mae-tiny-32`` for as many pixels as 64 x 64 or fewer, and ``mae-photo-224`` for more.
    """
    return _LARGE if is_photograph(height, width) else _SMALL


class RestorerBySize:
    """Restores each picture with the packaged weights for its size. They are loaded when they are needed.

    A picture is restored exactly as by the :class:`MAERestorer` that :meth:`for_size` returns.
    """

    def __init__(
        self,
        *,
        micro_batch: int | None = None,
        precision: RestorerPrecision = "auto",
        device: str | torch.device = "cpu",
    ) -> None:
        """The settings, and what is raised, are those of :class:`MAERestorer`."""
        self._load = functools.partial(named_restorer, micro_batch=micro_batch, precision=precision, device=device)
        self._loaded = {_SMALL: self._load(_SMALL)}
        self.device, self.precision = self._loaded[_SMALL].device, self._loaded[_SMALL].precision

    @property
    def weights_digest(self) -> str:
        """Identifies all weights that it may use."""
        return digest_of_json([packaged_digest(name) for name in (_SMALL, _LARGE)])

    def for_size(self, height: int, width: int) -> MAERestorer:
        """The restorer for pictures of this size in pixels."""
        name = packaged_restorer(height, width)
        if name not in self._loaded:
            self._loaded[name] = self._load(name)
        return self._loaded[name]


def restorer_for(restorer: Restorer | RestorerChoice, size: tuple[int, int]) -> Restorer:
    """The restorer itself, or the one that a choice makes for pictures of this height and width."""
    return restorer.for_size(*size) if isinstance(restorer, RestorerChoice) else restorer


def load_restorer(
    name_or_path: str | Path = DEFAULT_RESTORER,
    *,
    micro_batch: int | None = None,
    precision: RestorerPrecision = "auto",
    device: str | torch.device = "cpu",
) -> MAERestorer | RestorerBySize:
    """Load weights and wrap them in a :class:`MAERestorer`, whose settings and errors apply.

    name_or_path: ``auto`` for a :class:`RestorerBySize`; or the name of packaged weights, a file, a local folder or a
    name on the Hugging Face hub; see :func:`~maskrestore.mae.checkpoints.loading.load_network`, which raises
    CheckpointError.
    """
    choose = RestorerBySize if name_or_path == DEFAULT_RESTORER else functools.partial(named_restorer, name_or_path)
    return choose(micro_batch=micro_batch, precision=precision, device=device)


def named_restorer(
    name_or_path: str | Path,
    *,
    micro_batch: int | None = None,
    precision: RestorerPrecision = "auto",
    device: str | torch.device = "cpu",
) -> MAERestorer:
    """As :func:`load_restorer`, but for one restorer, not for ``auto``."""
    network = load_network(name_or_path)
    return MAERestorer(network, micro_batch=micro_batch, precision=precision, device=device, name=str(name_or_path))
