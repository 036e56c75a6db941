"""Train a small diffusion model on unlabeled images, for the defenses by diffusion.

Good models are published (``google/ddpm-cifar10-32``); this one is for data sets that have none, and for machines
without a network. It writes a folder for :func:`maskrestore.lab.baselines.diffusion_models.load_denoiser`.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from maskrestore.errors import MissingDependencyError
from maskrestore.lab.baselines.base import check
from maskrestore.lab.baselines.diffusion import BETAS, STEPS, noised
from maskrestore.mae.training.loop import Training, TrainingConfig, TrainingProgress, check_images
from maskrestore.runtime.precision import autocast

__all__ = ["DiffusionProgress", "DiffusionTrainingConfig", "build_unet", "denoising_error", "train_diffusion"]


@dataclass(frozen=True, kw_only=True)
class DiffusionTrainingConfig(TrainingConfig):
    """What to train and how. The defaults are a network of 6.1 M parameters for images of 32 pixels.

    The learning rate stays at its peak (Ho et al. 2020, appendix B).
    """

    image_size: int = 32
    channels: tuple[int, ...] = (64, 128, 128)
    """Width at each resolution, each half of the one before."""
    layers_per_block: int = 2
    attention_at: tuple[int, ...] = ()
    """Resolutions in pixels at which positions attend to each other; the middle of the network always does. Attention
    at 16 pixels, as Ho et al. have it, halves the speed of training on a CPU."""
    norm_groups: int = 32
    """Groups of group normalisation; must divide every width."""
    steps: int = 50_000
    learning_rate: float = 2e-4
    warmup_steps: int = 500
    level_power: float = 1.0
    """Levels of noise are drawn as ``u ** level_power`` of the diffusion: above 1, low ones more often. Purification
    starts at a tenth of it, so that a small network has its capacity where it is used."""
    flip: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("layers_per_block", "norm_groups"):
            check(getattr(self, name) >= 1, name, "at least 1", getattr(self, name))
        halvings = len(self.channels) - 1
        fits = bool(self.channels) and not any(width % self.norm_groups for width in self.channels)
        check(fits, "channels", f"one or more multiples of norm_groups ({self.norm_groups})", self.channels)
        fits = self.image_size > 0 and self.image_size % 2**halvings == 0
        check(fits, "image_size", f"a multiple of {2**halvings}", self.image_size)
        check(self.level_power > 0, "level_power", "positive", self.level_power)


@dataclass(frozen=True, kw_only=True)
class DiffusionProgress(TrainingProgress):
    """What a training run tells its caller now and then."""

    held_out_error: float | None = None
    """See :func:`denoising_error`; only at checkpoints and when held-out images were given."""


def train_diffusion(
    config: DiffusionTrainingConfig,
    images: Tensor,
    out_dir: Path,
    *,
    held_out: Tensor | None = None,
    device: str | torch.device = "cpu",
    progress: Callable[[DiffusionProgress], None] = lambda _: None,
) -> Path:
    """Train, or go on training what ``out_dir`` holds, and keep the averaged weights.

    images, held_out: ``(N, 3, S, S)`` uint8. Computes in bfloat16 where the device is fast in it.

    Writes at each checkpoint ``state.pt`` (to resume), a line of ``curve.jsonl``, and the folder ``model``, whose path
    it returns: a ``UNet2DModel`` in safetensors with its noise schedule, laid out as ``google/ddpm-cifar10-32`` is.
    Raises MissingDependencyError without diffusers, CheckpointError when ``out_dir`` belongs to another
    configuration, DataError when the images do not fit the network.
    """
    for pixels in (images,) if held_out is None else (images, held_out):
        check_images(pixels, config.image_size)
    run = Training(
        config,
        images,
        out_dir,
        build=lambda: build_unet(config),
        optimizer=partial(torch.optim.Adam, lr=config.learning_rate, fused=True),
        loss=lambda run, batch: _loss(run, batch, config, torch.device(device)),
        device=device,
    )
    for trained, at_checkpoint in run.reports():
        error = denoising_error(run.average, held_out) if at_checkpoint and held_out is not None else None
        state = DiffusionProgress(**asdict(trained), held_out_error=error)
        progress(state)
        if at_checkpoint:
            _save_model(run.average, out_dir)
            run.save(state)
    return out_dir / "model"


def build_unet(config: DiffusionTrainingConfig) -> Any:
    """A fresh ``UNet2DModel``, drawn from PyTorch's global generator. Raises MissingDependencyError."""
    try:
        from diffusers import UNet2DModel  # noqa: PLC0415 - an optional dependency
    except ImportError as error:
        raise MissingDependencyError("diffusers", "lab") from error
    sides = [config.image_size // 2**depth for depth in range(len(config.channels))]
    attends = [side in config.attention_at for side in sides]
    return UNet2DModel(
        sample_size=config.image_size,
        in_channels=3,
        out_channels=3,
        layers_per_block=config.layers_per_block,
        block_out_channels=config.channels,
        norm_num_groups=config.norm_groups,
        down_block_types=tuple("AttnDownBlock2D" if attending else "DownBlock2D" for attending in attends),
        up_block_types=tuple("AttnUpBlock2D" if attending else "UpBlock2D" for attending in reversed(attends)),
    )


@torch.inference_mode()
def denoising_error(network: nn.Module, images: Tensor, *, levels: int = 100, seed: int = 0) -> float:
    """Mean squared error of the predicted noise at levels 1 to ``levels``; 1 is the error of predicting none.

    images: ``(N, 3, S, S)`` uint8. The default looks where DiffPure does (t* = 0.1). The same noise for every network.
    """
    generator = torch.Generator().manual_seed(seed)
    device = next(network.parameters()).device
    squared = 0.0
    for batch in images.split(64):
        step = torch.randint(levels, (len(batch),), generator=generator)
        noise = torch.randn(batch.shape, generator=generator)
        squared += float(_squared_error(network, _pixels(batch), step, noise, device).sum())
    return squared / images.numel()


def _loss(run: Training, images: Tensor, config: DiffusionTrainingConfig, device: torch.device) -> Tensor:
    """Of the noise that is predicted in ``(B, 3, S, S)`` uint8 images at random levels."""
    clean = _pixels(images)
    if config.flip:
        mirrored = torch.rand(len(clean), 1, 1, 1, generator=run.generator) < 0.5
        clean = torch.where(mirrored, clean.flip(3), clean)
    level = torch.rand(len(clean), generator=run.generator) ** config.level_power
    step = (level * STEPS).long().clamp(max=STEPS - 1)
    noise = torch.randn(clean.shape, generator=run.generator)
    return _squared_error(run.network, clean, step, noise, device).mean()


def _squared_error(network: nn.Module, clean: Tensor, step: Tensor, noise: Tensor, device: torch.device) -> Tensor:
    """Of the predicted noise, ``(B, 3, S, S)``. clean: in [-1, 1]; step: ``(B,)``."""
    noisy = noised(clean, (step + 1)[:, None, None, None], noise).to(device, memory_format=torch.channels_last)
    with autocast(device):
        predicted = network(noisy, step.to(device)).sample
    return F.mse_loss(predicted.float(), noise.to(device), reduction="none")


def _pixels(images: Tensor) -> Tensor:
    """uint8 -> float32 in [-1, 1]."""
    return images.float() / 127.5 - 1


def _save_model(network: Any, out_dir: Path) -> None:
    """Write the folder ``model``; an interruption leaves whole files."""
    from diffusers import DDPMScheduler  # noqa: PLC0415 - an optional dependency

    # Each file is written elsewhere and moved into place.
    temporary, model = out_dir / "model.tmp", out_dir / "model"
    network.save_pretrained(temporary, safe_serialization=True)
    schedule = DDPMScheduler(
        num_train_timesteps=STEPS, beta_start=BETAS[0], beta_end=BETAS[1], variance_type="fixed_large"
    )
    schedule.save_pretrained(temporary)
    model.mkdir(exist_ok=True)
    for file in temporary.iterdir():
        file.replace(model / file.name)
    shutil.rmtree(temporary)
