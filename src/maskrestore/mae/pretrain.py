"""Train a masked autoencoder of either family on unlabeled images.

The loss looks at hidden pixels only. Mask ratios range widely, because the defense hides 75 % of the tokens to score
them but only a few to refine and restore, and part of the masks are blobs, because refinement hides connected sets.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from maskrestore.errors import CheckpointError, ConfigError, DataError
from maskrestore.imaging.patches import tokens_to_pixels
from maskrestore.mae.checkpoints import build_network, save_network
from maskrestore.precision import autocast

__all__ = ["FeatureExtractor", "PretrainConfig", "Progress", "masked_psnr", "pretrain", "random_hidden"]


@dataclass(frozen=True, kw_only=True)
class PretrainConfig:
    """How to train; the shape of the network is ``network``, the fields of its own configuration class."""

    family: Literal["conv", "vit"] = "conv"
    network: dict[str, Any] | None = None
    """Fields that differ from the family's defaults, e.g. ``{"widths": (96, 128, 192)}``."""
    steps: int = 20_000
    batch_size: int = 64
    learning_rate: float = 1e-3
    """Peak, for AdamW; reached after ``warmup_steps``, then lowered to 0 along a cosine."""
    warmup_steps: int = 200
    weight_decay: float = 0.02
    clip_norm: float = 1.0
    loss: Literal["l2", "l1"] = "l2"
    feature_weight: float = 0.0
    """Weight of the feature loss, for which :func:`pretrain` then wants a feature extractor. The squared error alone
    gives blurred restorations, which classifiers mistake; equal features keep what they look at."""
    mask_ratio: tuple[float, float] = (0.05, 0.9)
    """Range of the share of hidden tokens; high ratios are drawn more often (density proportional to the ratio)."""
    blob_share: float = 0.2
    """Share of masks that are connected blobs instead of scattered tokens."""
    flip: bool = True
    jitter: float = 0.2
    """Random brightness and contrast, as a share of the range."""
    ema: float = 0.999
    """Decay of the average of the weights that is kept and measured; 0 keeps the last weights."""
    seed: int = 0
    checkpoint_every: int = 1000

    def __post_init__(self) -> None:
        low, high = self.mask_ratio
        if not 0 < low <= high < 1:
            raise ConfigError(f"mask_ratio must be 0 < low <= high < 1, got {self.mask_ratio}")
        for name in ("steps", "batch_size", "checkpoint_every"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.feature_weight < 0:
            raise ConfigError(f"feature_weight must be at least 0, got {self.feature_weight}")
        if not 0 <= self.ema < 1:
            raise ConfigError(f"ema must be in [0, 1), got {self.ema}")


class FeatureExtractor(Protocol):
    """A frozen network whose features a restoration should share with the image."""

    def stage_features(self, images: Tensor) -> Sequence[Tensor]:
        """``(B, 3, S, S)`` in [0, 1] -> feature maps of any shapes."""


@dataclass(frozen=True, kw_only=True)
class Progress:
    """What a training run tells its caller now and then."""

    step: int
    steps: int
    loss: float
    images_per_second: float
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
    whose path it returns. Raises CheckpointError when ``out_dir`` belongs to another configuration, DataError when
    the images do not fit the network, ConfigError when ``features`` and the configuration disagree.
    """
    out_dir.mkdir(parents=True, exist_ok=True)
    if bool(features) != (config.feature_weight > 0):
        wanted = "no feature extractor; set a weight above 0" if features else "a feature extractor (--features)"
        raise ConfigError(f"feature_weight is {config.feature_weight}, which wants {wanted}")
    run = _Run(config, images, out_dir, init, features)
    weights = out_dir / "weights.safetensors"
    window: list[float] = []
    started, first_step = time.perf_counter(), run.step
    while run.step < config.steps:
        window.append(run.advance())
        at_checkpoint = run.step % config.checkpoint_every == 0 or run.step == config.steps
        if at_checkpoint or run.step % 50 == 0:
            rate = (run.step - first_step) * config.batch_size / (time.perf_counter() - started)
            psnr = masked_psnr(run.average, held_out) if at_checkpoint and held_out is not None else None
            state = Progress(
                step=run.step,
                steps=config.steps,
                loss=sum(window) / len(window),
                images_per_second=rate,
                held_out_psnr=psnr,
            )
            progress(state)
            if at_checkpoint:
                run.save()
                save_network(weights, run.average, card)
                with (out_dir / "curve.jsonl").open("a") as curve:
                    curve.write(json.dumps(asdict(state)) + "\n")
                window.clear()
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


class _Run:
    """Everything that changes during training: what a checkpoint must hold."""

    def __init__(
        self,
        config: PretrainConfig,
        images: Tensor,
        out_dir: Path,
        init: nn.Module | None,
        features: Sequence[FeatureExtractor],
    ) -> None:
        torch.manual_seed(config.seed)  # the initial weights; the training loop owns the process
        self.config, self.images, self.features = config, images, features
        self.network = build_network(config.family, config.network or {})
        self.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        if init is not None:
            self.network.load_state_dict(init.state_dict())
        self.average = build_network(config.family, config.network or {}).eval()
        self.average.load_state_dict(self.network.state_dict())
        size = self.network.image_size
        if images.dtype != torch.uint8 or tuple(images.shape[1:]) != (3, size, size) or not len(images):
            raise DataError(
                f"expected uint8 images of shape (N, 3, {size}, {size}), got {images.dtype} {tuple(images.shape)}"
            )
        self.optimizer = torch.optim.AdamW(
            self.network.parameters(),
            lr=config.learning_rate,
            betas=(0.9, 0.98),
            weight_decay=config.weight_decay,
            fused=True,
        )
        self.generator = torch.Generator().manual_seed(config.seed)
        self.step = 0
        self._path = out_dir / "state.pt"
        if self._path.exists():
            self._resume()

    def advance(self) -> float:
        """One step of training; returns its loss."""
        config = self.config
        for group in self.optimizer.param_groups:
            group["lr"] = config.learning_rate * _schedule(self.step, config)
        index = torch.randint(len(self.images), (config.batch_size,), generator=self.generator)
        clean = _augmented(self.images[index].float() / 255, config, self.generator)
        grid = self.network.grid
        hidden = random_hidden(
            len(clean),
            grid,
            config.mask_ratio,
            config.blob_share,
            self.generator,
            one_ratio=config.family == "vit",
        )
        with autocast():
            output = self.network(clean, hidden).float()
        error = (output - clean) * 4  # in units of a standard deviation of pixels, about 1/4
        error = error.abs() if config.loss == "l1" else error * error
        weights = tokens_to_pixels(hidden, *clean.shape[-2:]).float()
        loss = (error * weights).sum() / (3 * weights.sum())
        if self.features:
            extractor = self.features[self.step % len(self.features)]
            restored = torch.where(weights > 0, output, clean)
            loss = loss + config.feature_weight * _feature_loss(extractor, restored, clean)
        self.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.network.parameters(), config.clip_norm)
        self.optimizer.step()
        self.step += 1
        self._average()
        return float(loss.detach())

    @torch.no_grad()
    def _average(self) -> None:
        # A short memory at first, so that the random start is soon forgotten.
        decay = min(self.config.ema, self.step / (self.step + 10))
        pairs = zip(self.average.parameters(), self.network.parameters(), strict=True)
        averages, currents = (list(side) for side in zip(*pairs, strict=True))
        torch._foreach_lerp_(averages, currents, 1 - decay)

    def save(self) -> None:
        """Write the checkpoint; an interruption leaves the one before intact."""
        temporary = self._path.with_suffix(".tmp")
        torch.save(
            {
                "config": json.dumps(asdict(self.config)),
                "step": self.step,
                "network": self.network.state_dict(),
                "average": self.average.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "generator": self.generator.get_state(),
            },
            temporary,
        )
        temporary.replace(self._path)

    def _resume(self) -> None:
        state = torch.load(self._path, weights_only=True)
        if state["config"] != json.dumps(asdict(self.config)):
            raise CheckpointError(
                f"{self._path} belongs to another configuration: {state['config']}; "
                "train into another folder or delete it"
            )
        self.step = state["step"]
        self.network.load_state_dict(state["network"])
        self.average.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.generator.set_state(state["generator"])


def _feature_loss(extractor: FeatureExtractor, restored: Tensor, clean: Tensor) -> Tensor:
    """Squared difference of features, in units of their variance, summed over stages."""
    with autocast():
        with torch.no_grad():
            wanted = extractor.stage_features(clean)
        found = extractor.stage_features(restored)
    terms = [((a.float() - b.float()) ** 2).mean() / b.float().var() for a, b in zip(found, wanted, strict=True)]
    return torch.stack(terms).sum()


def _schedule(step: int, config: PretrainConfig) -> float:
    """Linear warm-up, then a cosine to zero."""
    warm = min(1.0, (step + 1) / max(1, config.warmup_steps))
    return warm * 0.5 * (1 + math.cos(math.pi * step / config.steps))


def _augmented(images: Tensor, config: PretrainConfig, generator: torch.Generator) -> Tensor:
    """Mirror half of the images, shift and scale their brightness. ``(B, 3, S, S)`` -> the same, in [0, 1]."""

    def random() -> Tensor:
        return torch.rand(len(images), 1, 1, 1, generator=generator)

    if config.flip:
        images = torch.where(random() < 0.5, images.flip(3), images)
    if config.jitter:
        contrast = 1 + config.jitter * (2 * random() - 1)
        brightness = config.jitter * (random() - 0.5)
        images = ((images - 0.5) * contrast + 0.5 + brightness).clamp(0, 1)
    return images
