"""Train a small diffusion model on unlabeled images, for the defenses by diffusion.

Good models are published (``google/ddpm-cifar10-32``); this one is for data sets that have none, and for machines
without a network. What it writes is a folder that :func:`maskrestore.baselines.diffusion_models.load_denoiser` takes.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from maskrestore.baselines.base import check
from maskrestore.baselines.diffusion import BETAS, STEPS, noised
from maskrestore.errors import CheckpointError, DataError, MissingDependencyError
from maskrestore.precision import autocast

__all__ = ["DiffusionProgress", "DiffusionTrainingConfig", "build_unet", "denoising_error", "train_diffusion"]


@dataclass(frozen=True, kw_only=True)
class DiffusionTrainingConfig:
    """What to train and how. The defaults are a network of 6.1 M parameters for images of 32 pixels."""

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
    batch_size: int = 64
    learning_rate: float = 2e-4
    """Reached after ``warmup_steps`` and then kept (Ho et al. 2020, appendix B)."""
    warmup_steps: int = 500
    clip_norm: float = 1.0
    level_power: float = 1.0
    """Levels of noise are drawn as ``u ** level_power`` of the diffusion: above 1, low ones more often. Purification
    starts at a tenth of it, so that a small network has its capacity where it is used."""
    flip: bool = True
    ema: float = 0.999
    """Decay of the average of the weights that is kept and measured; 0 keeps the last weights."""
    seed: int = 0
    checkpoint_every: int = 1000

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "checkpoint_every", "layers_per_block", "norm_groups"):
            check(getattr(self, name) >= 1, name, "at least 1", getattr(self, name))
        halvings = len(self.channels) - 1
        fits = bool(self.channels) and not any(width % self.norm_groups for width in self.channels)
        check(fits, "channels", f"one or more multiples of norm_groups ({self.norm_groups})", self.channels)
        fits = self.image_size > 0 and self.image_size % 2**halvings == 0
        check(fits, "image_size", f"a multiple of {2**halvings}", self.image_size)
        check(0 <= self.ema < 1, "ema", "in [0, 1)", self.ema)
        check(self.level_power > 0, "level_power", "positive", self.level_power)


@dataclass(frozen=True, kw_only=True)
class DiffusionProgress:
    """What a training run tells its caller now and then."""

    step: int
    steps: int
    loss: float
    images_per_second: float
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
        _check_images(pixels, config.image_size)
    out_dir.mkdir(parents=True, exist_ok=True)
    run = _Run(config, images, out_dir, torch.device(device))
    window: list[Tensor] = []
    started, first_step = time.perf_counter(), run.step
    while run.step < config.steps:
        window.append(run.advance())
        at_checkpoint = run.step % config.checkpoint_every == 0 or run.step == config.steps
        if at_checkpoint or run.step % 50 == 0:
            error = denoising_error(run.average, held_out) if at_checkpoint and held_out is not None else None
            state = DiffusionProgress(
                step=run.step,
                steps=config.steps,
                loss=float(torch.stack(window).mean()),
                images_per_second=(run.step - first_step) * config.batch_size / (time.perf_counter() - started),
                held_out_error=error,
            )
            progress(state)
            if at_checkpoint:
                run.save()
                with (out_dir / "curve.jsonl").open("a") as curve:
                    curve.write(json.dumps(asdict(state)) + "\n")
                window.clear()
    return out_dir / "model"


def build_unet(config: DiffusionTrainingConfig) -> Any:
    """A fresh ``UNet2DModel``, drawn from PyTorch's global generator. Raises MissingDependencyError."""
    try:
        from diffusers import UNet2DModel  # noqa: PLC0415 - an optional dependency
    except ImportError as error:
        raise MissingDependencyError("diffusers", "diffusion") from error
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


def _squared_error(network: nn.Module, clean: Tensor, step: Tensor, noise: Tensor, device: torch.device) -> Tensor:
    """Of the predicted noise, ``(B, 3, S, S)``. clean: in [-1, 1]; step: ``(B,)``."""
    noisy = noised(clean, (step + 1)[:, None, None, None], noise).to(device, memory_format=torch.channels_last)
    with autocast(device):
        predicted = network(noisy, step.to(device)).sample
    return F.mse_loss(predicted.float(), noise.to(device), reduction="none")


def _pixels(images: Tensor) -> Tensor:
    """uint8 -> float32 in [-1, 1]."""
    return images.float() / 127.5 - 1


def _check_images(images: Tensor, size: int) -> None:
    if images.dtype != torch.uint8 or tuple(images.shape[1:]) != (3, size, size) or not len(images):
        raise DataError(
            f"expected uint8 images of shape (N, 3, {size}, {size}), got {images.dtype} {tuple(images.shape)}"
        )


class _Run:
    """Everything that changes during training: what a checkpoint must hold."""

    def __init__(self, config: DiffusionTrainingConfig, images: Tensor, out_dir: Path, device: torch.device) -> None:
        torch.manual_seed(config.seed)  # the initial weights; the training loop owns the process
        self.config, self.images, self.device = config, images, device
        self.network = build_unet(config).to(device).to(memory_format=torch.channels_last).train()
        self.average = build_unet(config).to(device).to(memory_format=torch.channels_last).eval()
        self.average.load_state_dict(self.network.state_dict())
        self.optimizer = torch.optim.Adam(self.network.parameters(), lr=config.learning_rate, fused=True)
        self.generator = torch.Generator().manual_seed(config.seed)
        self.step = 0
        self._folder = out_dir
        if (out_dir / "state.pt").exists():
            self._resume(out_dir / "state.pt")

    def advance(self) -> Tensor:
        """One step of training; returns its loss."""
        config = self.config
        for group in self.optimizer.param_groups:
            group["lr"] = config.learning_rate * min(1.0, (self.step + 1) / max(1, config.warmup_steps))
        index = torch.randint(len(self.images), (config.batch_size,), generator=self.generator)
        clean = _pixels(self.images[index])
        if config.flip:
            mirrored = torch.rand(len(clean), 1, 1, 1, generator=self.generator) < 0.5
            clean = torch.where(mirrored, clean.flip(3), clean)
        level = torch.rand(len(clean), generator=self.generator) ** config.level_power
        step = (level * STEPS).long().clamp(max=STEPS - 1)
        noise = torch.randn(clean.shape, generator=self.generator)
        loss = _squared_error(self.network, clean, step, noise, self.device).mean()
        self.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.network.parameters(), config.clip_norm)
        self.optimizer.step()
        self.step += 1
        self._average()
        return loss.detach()

    @torch.no_grad()
    def _average(self) -> None:
        # A short memory at first, so that the random start is soon forgotten.
        decay = min(self.config.ema, self.step / (self.step + 10))
        torch._foreach_lerp_(list(self.average.parameters()), list(self.network.parameters()), 1 - decay)

    def save(self) -> None:
        """Write the model and the state; an interruption leaves whole files."""
        from diffusers import DDPMScheduler  # noqa: PLC0415 - an optional dependency

        # Each file is written elsewhere and moved into place, the state last.
        temporary, model = self._folder / "model.tmp", self._folder / "model"
        self.average.save_pretrained(temporary, safe_serialization=True)
        schedule = DDPMScheduler(
            num_train_timesteps=STEPS, beta_start=BETAS[0], beta_end=BETAS[1], variance_type="fixed_large"
        )
        schedule.save_pretrained(temporary)
        model.mkdir(exist_ok=True)
        for file in temporary.iterdir():
            file.replace(model / file.name)
        shutil.rmtree(temporary)
        state = {
            "config": json.dumps(asdict(self.config)),
            "step": self.step,
            "network": self.network.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "generator": self.generator.get_state(),
        }
        torch.save(state, self._folder / "state.tmp")
        (self._folder / "state.tmp").replace(self._folder / "state.pt")

    def _resume(self, path: Path) -> None:
        state = torch.load(path, weights_only=True, map_location="cpu")
        if state["config"] != json.dumps(asdict(self.config)):
            raise CheckpointError(
                f"{path} belongs to another configuration: {state['config']}; train into another folder or delete it"
            )
        self.step = state["step"]
        self.network.load_state_dict(state["network"])
        self.average.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.generator.set_state(state["generator"])
