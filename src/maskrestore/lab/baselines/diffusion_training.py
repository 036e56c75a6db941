"""Train a small diffusion model on unlabeled images, for the diffusion defenses.

Good models are published (``google/ddpm-cifar10-32``). This one is for data sets without a published model and for
machines without internet access. :func:`maskrestore.lab.baselines.diffusion_models.load_denoiser` loads the result.
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
    """The network and its training. The defaults give 6.1 M parameters for images of 32x32 pixels.

    After the warm-up the learning rate is constant (Ho et al. 2020, appendix B). Raises ConfigError for a setting out
    of range.
    """

    image_size: int = 32
    """Side of the images in pixels, a multiple of ``2 ** (len(channels) - 1)``."""
    channels: tuple[int, ...] = (64, 128, 128)
    """Channels at each resolution. Each resolution is half of the one before."""
    layers_per_block: int = 2
    attention_at: tuple[int, ...] = ()
    """Resolutions in pixels with self-attention; the middle block always has it. Attention at 16 pixels, as in Ho et
    al., halves the training speed on a CPU."""
    norm_groups: int = 32
    """Groups of group normalisation; must divide every entry of ``channels``."""
    steps: int = 50_000
    learning_rate: float = 2e-4
    warmup_steps: int = 500
    level_power: float = 1.0
    """Noise levels are ``1000 * u ** level_power`` with uniform u in [0, 1). Values above 1 draw low levels more often:
    purification starts at a tenth of the diffusion, so a small network should spend its capacity there."""
    flip: bool = True
    """Mirror training images left to right with probability 0.5."""

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
    """The state of a training run, reported at intervals."""

    held_out_error: float | None = None
    """See :func:`denoising_error`. Set only at checkpoints and when held-out images were given."""


def train_diffusion(
    config: DiffusionTrainingConfig,
    images: Tensor,
    out_dir: Path,
    *,
    held_out: Tensor | None = None,
    device: str | torch.device = "cpu",
    progress: Callable[[DiffusionProgress], None] = lambda _: None,
) -> Path:
    """Train a diffusion model, or resume the training in ``out_dir``, and save the averaged weights.

    images, held_out: ``(N, 3, S, S)`` uint8. Computes in bfloat16 on devices where it is fast.

    At each checkpoint it writes ``state.pt`` (to resume), a line of ``curve.jsonl`` and the folder ``model``, whose
    path it returns: a ``UNet2DModel`` in safetensors with its noise schedule, in the layout of
    ``google/ddpm-cifar10-32``. Raises MissingDependencyError without diffusers, CheckpointError when ``out_dir``
    belongs to another configuration, and DataError when the images do not fit the network.
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
    """Build an untrained ``UNet2DModel``, initialised from PyTorch's global random generator.

    Raises MissingDependencyError without diffusers.
    """
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
    """Return the mean squared error of the predicted noise at levels 1 to ``levels``.

    A network that predicts zero has the error 1. images: ``(N, 3, S, S)`` uint8. The default covers the levels of
    DiffPure (t* = 0.1). Levels and noise depend on ``seed`` only, so errors of different networks are comparable.
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
    """Return the mean squared error of the noise predicted in ``(B, 3, S, S)`` uint8 images at random levels."""
    clean = _pixels(images)
    if config.flip:
        mirrored = torch.rand(len(clean), 1, 1, 1, generator=run.generator) < 0.5
        clean = torch.where(mirrored, clean.flip(3), clean)
    level = torch.rand(len(clean), generator=run.generator) ** config.level_power
    step = (level * STEPS).long().clamp(max=STEPS - 1)
    noise = torch.randn(clean.shape, generator=run.generator)
    return _squared_error(run.network, clean, step, noise, device).mean()


def _squared_error(network: nn.Module, clean: Tensor, step: Tensor, noise: Tensor, device: torch.device) -> Tensor:
    """Return the squared errors ``(B, 3, S, S)`` of the predicted noise.

    clean: images in [-1, 1]; noise: standard normal, both ``(B, 3, S, S)``; step: ``(B,)`` int64.
    """
    noisy = noised(clean, (step + 1)[:, None, None, None], noise).to(device, memory_format=torch.channels_last)
    with autocast(device):
        predicted = network(noisy, step.to(device)).sample
    return F.mse_loss(predicted.float(), noise.to(device), reduction="none")


def _pixels(images: Tensor) -> Tensor:
    """Convert uint8 to float32 in [-1, 1]."""
    return images.float() / 127.5 - 1


def _save_model(network: Any, out_dir: Path) -> None:
    """Write the folder ``model``. Each file is replaced atomically, so an interruption leaves complete files."""
    from diffusers import DDPMScheduler  # noqa: PLC0415 - an optional dependency

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
