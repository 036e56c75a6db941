"""Train a masked autoencoder of either family on unlabelled images.

The loss covers hidden pixels only. Mask ratios cover a wide range, because the defense hides 75 % of the tokens for the
scores but only a few tokens for refinement and restoration. Some masks are blobs, because refinement hides connected
sets.
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
from maskrestore.mae.training.augmentation import Augmentation, augment, random_parts
from maskrestore.mae.training.loop import Training, TrainingConfig, TrainingProgress, check_images
from maskrestore.runtime.precision import autocast

__all__ = ["FeatureExtractor", "PretrainConfig", "Progress", "masked_psnr", "pretrain", "random_hidden"]


@dataclass(frozen=True, kw_only=True)
class PretrainConfig(TrainingConfig):
    """Settings of the training of a masked autoencoder with AdamW; the learning rate falls to 0 along a cosine.

    Raises ConfigError for settings outside their ranges, and as
    :class:`~maskrestore.mae.training.loop.TrainingConfig` does.
    """

    family: Literal["conv", "vit"] = "conv"
    """Architecture of the network."""
    network: dict[str, Any] | None = None
    """Fields of the family's configuration class that differ from the defaults, e.g. ``{"widths": (96, 128, 192)}``."""
    steps: int = 20_000
    learning_rate: float = 1e-3
    warmup_steps: int = 200
    weight_decay: float = 0.02
    loss: Literal["l2", "l1"] = "l2"
    feature_weight: float = 0.0
    """Weight of the feature loss; if it is above 0, :func:`pretrain` needs a feature extractor. The squared error alone
    gives blurred restorations, which classifiers mistake; the feature loss keeps the features that classifiers use."""
    mask_ratio: tuple[float, float] = (0.05, 0.9)
    """Range of the share of hidden tokens, within (0, 1). High ratios are drawn more often: the density grows linearly
    from 0 at the low end."""
    blob_share: float = 0.2
    """Share of masks that are blobs instead of scattered tokens, in [0, 1]."""
    scoring_share: float = 0.0
    """Share of masks that hide 75 % at random, as the masks of the scores do, in [0, 1]. The others are drawn as the
    two settings above say."""
    source_size: int | None = None
    """Side of the training images if it is larger than that of the network's input: each step takes a random part of
    each. ``None``: the same."""
    augmentation: Augmentation = field(default_factory=Augmentation)

    def __post_init__(self) -> None:
        super().__post_init__()
        low, high = self.mask_ratio
        if not 0 < low <= high < 1:
            raise ConfigError(f"mask_ratio must be 0 < low <= high < 1, got {self.mask_ratio}")
        for name in ("blob_share", "scoring_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"{name} must be in [0, 1], got {getattr(self, name)}")
        if self.feature_weight < 0:
            raise ConfigError(f"feature_weight must be at least 0, got {self.feature_weight}")


class FeatureExtractor(Protocol):
    """A frozen network; the feature loss compares its features of the restored and the original image."""

    def stage_features(self, images: Tensor) -> Sequence[Tensor]:
        """Images ``(B, 3, S, S)`` in [0, 1] -> feature maps of any shapes."""


@dataclass(frozen=True, kw_only=True)
class Progress(TrainingProgress):
    """The state of a training, with the quality of its restorations."""

    held_out_psnr: float | None = None
    """PSNR in dB of hidden pixels with 75 % of the tokens hidden; only at checkpoints, if held-out images are given."""


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
    device: str | torch.device = "cpu",
) -> Path:
    """Train a masked autoencoder, or resume the training in ``out_dir``; the averaged weights are saved.

    images: ``(N, 3, S, S)`` uint8, or of side ``source_size``. held_out: ``(N, 3, S, S)`` uint8. init: a network of the
    same shape whose weights to start from. features: extractors for the feature loss; the steps use them in turn, so
    that the network does not learn the peculiarities of one classifier. They must be given if and only if
    ``config.feature_weight`` is above 0; nn.Modules among them are moved to the device. card: facts for the metadata of
    the weights. progress: called every 50 steps and at checkpoints. device: where the network is trained. All devices
    draw the same random numbers but round differently.

    Each checkpoint writes ``state.pt`` (to resume), ``weights.safetensors`` (float16) and a line of ``curve.jsonl`` to
    ``out_dir``. Returns the path of the weights.

    Raises CheckpointError if ``out_dir`` holds a training with another configuration, another ``init`` or other
    ``features``, or if ``init`` has another shape; DataError if the images do not fit the network; ConfigError if
    ``features`` and the configuration do not agree.
    """
    if bool(features) != (config.feature_weight > 0):
        expected = "no feature extractor; set a weight above 0" if features else "a feature extractor (--features)"
        raise ConfigError(f"feature_weight is {config.feature_weight}, which needs {expected}")
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
        loss=lambda run, batch: _loss(run, batch.to(device), config, features),
        decay=lambda step: 0.5 * (1 + math.cos(math.pi * step / config.steps)),
        init=init,
        inputs={"init": weights_digest(init), "features": [weights_digest(extractor) for extractor in features]},
        device=device,
    )
    for extractor in features:
        if isinstance(extractor, nn.Module):
            extractor.to(device)
    size: int = run.network.image_size
    if config.source_size is not None and config.source_size < size:
        raise ConfigError(f"source_size must be at least image_size = {size}, got {config.source_size}")
    check_images(images, config.source_size or size)
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
    """PSNR in dB of the hidden pixels, from their mean squared error over all images.

    images: ``(N, 3, S, S)`` uint8. ratio: share of hidden tokens. seed: of the masks. Computed where the network is.
    """
    generator = torch.Generator().manual_seed(seed)
    grid: int = network.grid  # type: ignore[assignment]
    device = next(network.parameters()).device
    squared = count = 0.0
    for batch in images.split(64):
        clean = batch.to(device).float() / 255
        hidden = random_hidden(len(batch), grid, (ratio, ratio), 0.0, generator).to(device)
        with autocast(device):
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
    """Random masks to train with: ``(count, g, g)`` bool, each hiding at least one token.

    ratio: range of the share of hidden tokens. blob_share: share of masks that are blobs. one_ratio: whether all masks
    hide the same number of tokens, which is faster for a ViT.
    """
    low, high = ratio
    # The square root of a uniform number has a linearly growing density, so most masks hide many tokens.
    share = low + (high - low) * torch.rand(1 if one_ratio else count, 1, generator=generator).sqrt()
    noise = torch.rand(count, 1, grid, grid, generator=generator)
    smooth = F.avg_pool2d(noise, 5, stride=1, padding=2, count_include_pad=False) if grid >= 5 else noise
    blob = torch.rand(count, 1, 1, 1, generator=generator) < blob_share
    rank = torch.where(blob, smooth, noise).flatten(1).argsort(dim=1).argsort(dim=1)
    return (rank < (share * grid * grid).round().clamp(min=1)).view(count, grid, grid)


def _loss(run: Training, images: Tensor, config: PretrainConfig, features: Sequence[FeatureExtractor]) -> Tensor:
    """Loss of restoring randomly hidden tokens of images ``(B, 3, S, S)`` uint8."""
    if config.source_size is not None:
        images = random_parts(images, run.network.image_size, run.generator)
    clean = augment(images.float() / 255, config.augmentation, run.generator)
    scattered = round(config.scoring_share * len(clean))
    drawn = random_hidden(
        len(clean) - scattered,
        run.network.grid,
        config.mask_ratio,
        config.blob_share,
        run.generator,
        one_ratio=config.family == "vit",
    )
    others = random_hidden(scattered, run.network.grid, (0.75, 0.75), 0.0, run.generator)
    hidden = torch.cat([drawn, others]).to(images.device)
    with autocast(images.device):
        output = run.network(clean, hidden).float()
    error = (output - clean) * 4  # in units of the standard deviation of pixels, about 1/4
    error = error.abs() if config.loss == "l1" else error * error
    weights = tokens_to_pixels(hidden, *clean.shape[-2:]).float()
    loss: Tensor = (error * weights).sum() / (3 * weights.sum())
    if features:
        extractor = features[run.step % len(features)]
        restored = torch.where(weights > 0, output, clean)
        loss = loss + config.feature_weight * _feature_loss(extractor, restored, clean)
    return loss


def _feature_loss(extractor: FeatureExtractor, restored: Tensor, clean: Tensor) -> Tensor:
    """Mean squared difference of features divided by their variance, summed over stages."""
    with autocast(clean.device):
        with torch.no_grad():
            wanted = extractor.stage_features(clean)
        found = extractor.stage_features(restored)
    terms = [((a.float() - b.float()) ** 2).mean() / b.float().var() for a, b in zip(found, wanted, strict=True)]
    return torch.stack(terms).sum()
