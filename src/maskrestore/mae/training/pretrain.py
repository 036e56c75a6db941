"""Train a masked autoencoder of either family on unlabeled images.

The loss looks at hidden pixels only. Mask ratios range widely, because the defense hides 75 % of the tokens to score
them but only a few to refine and restore, and part of the masks are blobs, because refinement hides connected sets.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from maskrestore.errors import ConfigError
from maskrestore.imaging.patches import tokens_to_pixels
from maskrestore.mae.checkpoints.loading import build_network, save_network
from maskrestore.mae.checkpoints.weight_files import weights_digest
from maskrestore.mae.training.augmentation import Augmentation, augment
from maskrestore.mae.training.loop import Training, TrainingConfig, TrainingProgress, check_images
from maskrestore.runtime.precision import autocast

__all__ = ["FeatureExtractor", "PretrainConfig", "Progress", "masked_psnr", "pretrain", "random_hidden"]


@dataclass(frozen=True, kw_only=True)
class PretrainConfig(TrainingConfig):
    """How to train, with AdamW; the shape of the network is ``network``, the fields of its own configuration class.

    The learning rate falls to 0 along a cosine.
    """

    family: Literal["conv", "vit"] = "conv"
    network: dict[str, Any] | None = None
    """Fields that differ from the family's defaults, e.g. ``{"widths": (96, 128, 192)}``."""
    steps: int = 20_000
    learning_rate: float = 1e-3
    warmup_steps: int = 200
    weight_decay: float = 0.02
    loss: Literal["l2", "l1"] = "l2"
    feature_weight: float = 0.0
    """Weight of the feature loss, for which :func:`pretrain` then wants a feature extractor. The squared error alone
    gives blurred restorations, which classifiers mistake; equal features keep what they look at."""
    mask_ratio: tuple[float, float] = (0.05, 0.9)
    """Range of the share of hidden tokens; high ratios are drawn more often (density proportional to the ratio)."""
    blob_share: float = 0.2
    """Share of masks that are connected blobs instead of scattered tokens."""
    augmentation: Augmentation = field(default_factory=Augmentation)

    def __post_init__(self) -> None:
        super().__post_init__()
        low, high = self.mask_ratio
        if not 0 < low <= high < 1:
            raise ConfigError(f"mask_ratio must be 0 < low <= high < 1, got {self.mask_ratio}")
        if self.feature_weight < 0:
            raise ConfigError(f"feature_weight must be at least 0, got {self.feature_weight}")


class FeatureExtractor(Protocol):
    """A frozen network whose features a restoration should share with the image."""

    def stage_features(self, images: Tensor) -> Sequence[Tensor]:
        """``(B, 3, S, S)`` in [0, 1] -> feature maps of any shapes."""


@dataclass(frozen=True, kw_only=True)
class Progress(TrainingProgress):
    """What a training run tells its caller now and then."""

    held_out_psnr: float | None = None
    """dB, of hidden pixels at 75 %; only at checkpoints and when held-out images were given."""


def pretrain(
    config: PretrainConfig,
    images: Tensor,
    out_dir: Path,
    *,
    held_out: Tensor | None = None,
    init: nn.Module | None = None,
    features: Sequence[FeatureExtractor] = (),
    card: dict[str, str] | None = None,
    progress: Callable[[Progress], None] = lambda _: None,
) -> Path:
    """Train, or go on training what ``out_dir`` holds, and keep the averaged weights.

    images, held_out: ``(N, 3, S, S)`` uint8. init: a network of the same shape to start from. features: for the
    feature loss, one for each step in turn, so that the network learns what several classifiers look at and not
    the habits of one; must be given if and only if ``config.feature_weight`` is above 0.

    Writes at each checkpoint ``state.pt`` (to resume), a line of ``curve.jsonl``, and ``weights.safetensors`` (fp16),
    whose path it returns. Raises CheckpointError when ``out_dir`` belongs to another configuration or was begun with
    another ``init`` or other ``features``, DataError when the images do not fit the network, ConfigError when
    ``features`` and the configuration disagree.
    """
    if bool(features) != (config.feature_weight > 0):
        wanted = "no feature extractor; set a weight above 0" if features else "a feature extractor (--features)"
        raise ConfigError(f"feature_weight is {config.feature_weight}, which wants {wanted}")
    run = Training(
        config,
        images,
        out_dir,
        build=lambda: build_network(config.family, config.network or {}),
        optimizer=partial(
            torch.optim.AdamW,
            lr=config.learning_rate,
            betas=(0.9, 0.98),
            weight_decay=config.weight_decay,
            fused=True,
        ),
        loss=lambda run, batch: _loss(run, batch, config, features),
        decay=lambda step: 0.5 * (1 + math.cos(math.pi * step / config.steps)),
        init=init,
        inputs={"init": weights_digest(init), "features": [weights_digest(extractor) for extractor in features]},
    )
    check_images(images, run.network.image_size)
    weights = out_dir / "weights.safetensors"
    for trained, at_checkpoint in run.reports():
        psnr = masked_psnr(run.average, held_out) if at_checkpoint and held_out is not None else None
        state = Progress(**asdict(trained), held_out_psnr=psnr)
        progress(state)
        if at_checkpoint:
            save_network(weights, run.average, card)
            run.save(state)
    return weights


@torch.inference_mode()
def masked_psnr(network: nn.Module, images: Tensor, *, ratio: float = 0.75, seed: int = 0) -> float:
    """PSNR in dB of the hidden pixels of ``images`` (``(N, 3, S, S)`` uint8), from their mean squared error."""
    generator = torch.Generator().manual_seed(seed)
    grid: int = network.grid  # type: ignore[assignment]
    squared = count = 0.0
    for batch in images.split(64):
        clean = batch.float() / 255
        hidden = random_hidden(len(batch), grid, (ratio, ratio), 0.0, generator)
        with autocast():
            output = network(clean, hidden).float().clamp(0, 1)
        weights = tokens_to_pixels(hidden, *clean.shape[-2:])
        squared += ((output - clean) ** 2 * weights).sum().item()
        count += 3 * weights.sum().item()
    return -10 * math.log10(squared / count)


def random_hidden(
    count: int,
    grid: int,
    ratio: tuple[float, float],
    blob_share: float,
    generator: torch.Generator,
    *,
    one_ratio: bool = False,
) -> Tensor:
    """Masks to train with: ``(count, g, g)`` bool.

    one_ratio: hide equally many tokens in every mask of the batch, as a ViT wants it.
    """
    low, high = ratio
    # The square root of a uniform number has a density that grows linearly: most masks hide much.
    share = low + (high - low) * torch.rand(1 if one_ratio else count, 1, generator=generator).sqrt()
    noise = torch.rand(count, 1, grid, grid, generator=generator)
    smooth = F.avg_pool2d(noise, 5, stride=1, padding=2, count_include_pad=False) if grid >= 5 else noise
    blob = torch.rand(count, 1, 1, 1, generator=generator) < blob_share
    rank = torch.where(blob, smooth, noise).flatten(1).argsort(dim=1).argsort(dim=1)
    return (rank < (share * grid * grid).round().clamp(min=1)).view(count, grid, grid)


def _loss(run: Training, images: Tensor, config: PretrainConfig, features: Sequence[FeatureExtractor]) -> Tensor:
    """Of the restoration of randomly hidden tokens of ``(B, 3, S, S)`` uint8 images."""
    clean = augment(images.float() / 255, config.augmentation, run.generator)
    hidden = random_hidden(
        len(clean),
        run.network.grid,
        config.mask_ratio,
        config.blob_share,
        run.generator,
        one_ratio=config.family == "vit",
    )
    with autocast():
        output = run.network(clean, hidden).float()
    error = (output - clean) * 4  # in units of a standard deviation of pixels, about 1/4
    error = error.abs() if config.loss == "l1" else error * error
    weights = tokens_to_pixels(hidden, *clean.shape[-2:]).float()
    loss: Tensor = (error * weights).sum() / (3 * weights.sum())
    if features:
        extractor = features[run.step % len(features)]
        restored = torch.where(weights > 0, output, clean)
        loss = loss + config.feature_weight * _feature_loss(extractor, restored, clean)
    return loss


def _feature_loss(extractor: FeatureExtractor, restored: Tensor, clean: Tensor) -> Tensor:
    """Squared difference of features, in units of their variance, summed over stages."""
    with autocast():
        with torch.no_grad():
            wanted = extractor.stage_features(clean)
        found = extractor.stage_features(restored)
    terms = [((a.float() - b.float()) ** 2).mean() / b.float().var() for a, b in zip(found, wanted, strict=True)]
    return torch.stack(terms).sum()
