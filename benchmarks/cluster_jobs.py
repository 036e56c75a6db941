"""The jobs of ``benchmarks.cluster``, which its workers make, too."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import torch

from maskrestore import BDMAE, PROFILES, within
from maskrestore.jobs import FolderJob
from maskrestore.lab.victims import load_packaged_victim

__all__ = ["make_job", "make_quick_job"]


def make_job(source: Path, out: Path) -> FolderJob:
    """The job, with its networks."""
    network = load_packaged_victim("signs-badnets").network
    defense = BDMAE("mae-tiny-32", "fast", key="a key for measuring")
    return FolderJob(source=source, out=out, defense=defense, classifier=network, classifier_id="signs")


class Filling:
    """A restorer that costs nothing: hidden tokens become grey."""

    grid = 16

    def restore(self, images: torch.Tensor, hidden: torch.Tensor) -> torch.Tensor:
        """As any restorer."""
        if hidden.ndim == 4:
            images = images.unsqueeze(1)
        side = images.shape[-1] // self.grid
        pixels = hidden.repeat_interleave(side, -2).repeat_interleave(side, -1).unsqueeze(-3)
        return torch.where(pixels, 0.5, images)


def make_quick_job(source: Path, out: Path) -> FolderJob:
    """A job that takes little time."""
    defense = BDMAE(Filling(), within(PROFILES["fast"], 2), key="a key for measuring")
    return dataclasses.replace(make_job(source, out), defense=defense)
