"""The cases of ``benchmarks.speed``: a network, a classifier, images and the settings of each profile.

``tiny-conv`` and ``photo`` are the packaged restorers with the packaged victims, on street signs of 32 x 32 and
224 x 224 that neither was trained on, some of them with the trigger of the victim. Real labels are needed there,
because they decide which passes a schedule leaves out. In ``photo`` the authors' schedule has a ViT-B with random
weights, as in their experiments at that size; its time does not depend on labels, and its labels mean nothing. In the
other cases weights and images are random. The classifier runs, but its labels are replaced by synthetic ones, which
differ for one restoration in ten: a random network gives all noise the same label, and no refinement would run.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from benchmarks.stages import Clock
from torch import Tensor, nn

from maskrestore import BDMAE, PROFILES, BDMAEConfig, MAERestorer, ModuleClassifier, with_settings
from maskrestore.lab.data.signs import load_signs
from maskrestore.lab.measure.run import choose_images, triggered_images
from maskrestore.lab.victims import ResNet18, load_packaged_victim
from maskrestore.mae.checkpoints.loading import load_network
from maskrestore.mae.choice import packaged_restorer
from maskrestore.mae.restorer import RestorerPrecision
from maskrestore.mae.vit import ViTMAE
from maskrestore.mae.vit_config import VIT_PRESETS
from maskrestore.runtime.precision import fast_arithmetic
from maskrestore.types import Classifier

__all__ = ["CASES", "SIGNS", "Case", "Truth", "make_case"]

CASES = ("tiny-conv", "tiny-vit", "base", "large", "photo")
SIGNS = {"tiny-conv": ("signs-badnets", 32), "photo": ("signs-224-badnets", 224)}
"""Packaged victim and side of its images."""
SUSPICIOUS = 10
"""L of the refinement of S_i on noise, which is set by the threshold of candidates."""


@dataclass(frozen=True, kw_only=True)
class Truth:
    """The true labels of ``N`` images and the labels that the attacker wants."""

    labels: Tensor
    """``(N,)`` int64: the true labels."""
    wanted: Tensor
    """``(N,)`` int64: the attacker's labels."""
    triggered: Tensor
    """``(N,)`` bool: which images carry the trigger."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """What all contenders share."""

    name: str
    network: nn.Module
    module: nn.Module
    """The network of the classifier."""
    images: Tensor
    profiles: Mapping[str, BDMAEConfig]
    clock: Clock
    truth: Truth | None = None
    """None if labels are synthetic."""
    authors: nn.Module | None = None
    """The network of the authors' schedule, if it is another one."""

    @property
    def device(self) -> str:
        """The device that everything runs on."""
        return self.clock.device

    def restorer(self, precision: RestorerPrecision) -> MAERestorer:
        """The network as maskrestore uses it."""
        return MAERestorer(self.network, precision=precision, device=self.device)  # type: ignore[arg-type]

    def classifier(self, micro_batch: int | None = None) -> Classifier:
        """The black box, in the precision that the device is fast in. micro_batch: None: the default of the library."""
        adapter = ModuleClassifier if self.truth is not None else _SyntheticClassifier
        return adapter(self.module, precision=fast_arithmetic(self.device), device=self.device, micro_batch=micro_batch)


class _SyntheticClassifier(ModuleClassifier):
    """Runs the module but returns synthetic labels."""

    def __call__(self, images: Tensor) -> Tensor:
        super().__call__(images)
        return _synthetic_labels(images)


def make_case(name: str, count: int, clock: Clock, *, triggered_share: float = 0.1) -> Case:
    """Make a case by its name. count: images per call. triggered_share: of the street signs, in [0, 1]."""
    torch.manual_seed(0)
    return _signs(name, count, clock, triggered_share) if name in SIGNS else _random(name, count, clock)


def _signs(name: str, count: int, clock: Clock, triggered_share: float) -> Case:
    victim, side = SIGNS[name]
    packaged = load_packaged_victim(victim)
    signs = load_signs("test", count=count, size=side)
    images, triggered = signs.images[:].float() / 255, torch.zeros(count, dtype=torch.bool)
    eligible = packaged.attack.eligible(signs.labels)
    chosen = min(round(triggered_share * count), int(eligible.sum()))
    if chosen:
        triggered[choose_images(signs.labels, chosen, 0, eligible)] = True
        images[triggered] = triggered_images(signs.images[triggered], packaged.attack)
    return Case(
        name=name,
        network=load_network(packaged_restorer(side, side)).to(clock.device).eval(),
        module=packaged.network,
        images=images,
        profiles=PROFILES,
        clock=clock,
        truth=Truth(labels=signs.labels, wanted=packaged.attack.poisoned_label(signs.labels), triggered=triggered),
        authors=ViTMAE(VIT_PRESETS["base"]).to(clock.device).eval() if name == "photo" else None,
    )


def _random(name: str, count: int, clock: Clock) -> Case:
    network = ViTMAE(VIT_PRESETS["tiny-32" if name == "tiny-vit" else name]).to(clock.device).eval()
    # At 224 x 224 the classifier is as cheap as possible, to measure the masked autoencoder.
    module: nn.Module = nn.Sequential(nn.Conv2d(3, 64, 16, 16), nn.ReLU(), nn.Flatten(), nn.Linear(64 * 14 * 14, 10))
    case = Case(
        name=name,
        network=network,
        module=ResNet18(10, width=32) if name == "tiny-vit" else module,
        images=_noise(count, network.image_size),
        profiles={},
        clock=clock,
    )
    paper = with_settings(PROFILES["paper"], {"refinement.candidate_threshold": _threshold(case)})
    # The profile ``paper`` does the same passes for all labels. The profile ``fast`` and the transfer test of the
    # default profile leave out passes depending on the labels, so with synthetic labels their time would mean nothing.
    return dataclasses.replace(case, profiles={"paper": paper})


def _synthetic_labels(images: Tensor) -> Tensor:
    """1 for one image in ten, else 0."""
    return ((images.double().mean(dim=(1, 2, 3)) * 1e7).long() % 10 == 0).long().cpu()


def _noise(count: int, size: int) -> Tensor:
    """Random images with the frequent label 0; nearly every mask would change the label of the others."""
    images = torch.rand(2 * count + 8, 3, size, size)
    return images[_synthetic_labels(images) == 0][:count]


def _threshold(case: Case) -> float:
    """The threshold that makes ``SUSPICIOUS`` tokens of an image candidates, from a single round of scores."""
    config = with_settings(PROFILES["paper"], {"masks.rounds": 1, "refinement": None})
    scores = BDMAE(case.restorer("auto"), config).purify(case.images[:2], _constant).initial_image_scores
    assert scores is not None
    return float(scores.flatten(1).sort(dim=1).values[:, -SUSPICIOUS].mean())


def _constant(images: Tensor) -> Tensor:
    return torch.zeros(len(images), dtype=torch.long)
