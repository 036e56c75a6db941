"""The networks of the diffusion defenses: ``diffusers`` models from the Hugging Face hub or a folder."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from maskrestore.classifiers.normalisation import default_micro_batch
from maskrestore.errors import CheckpointError, MissingDependencyError
from maskrestore.lab.baselines.base import check
from maskrestore.lab.baselines.diffusion import BETAS, STEPS
from maskrestore.runtime.precision import Arithmetic, autocast

__all__ = ["DiffusionSettings", "UNetDenoiser", "load_denoiser"]


class UNetDenoiser:
    """A ``diffusers`` network with its device and precision; implements ``diffusion.Denoiser``."""

    def __init__(
        self,
        network: nn.Module,
        *,
        image_size: int,
        precision: Arithmetic = "float32",
        device: str | torch.device = "cpu",
    ) -> None:
        """network: maps ``(B, 3, S, S)`` in [-1, 1] and steps ``(B,)`` to noise, or to noise and variance (ignored)."""
        self.device = torch.device(device)
        self.network = network.to(self.device).to(memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
        self.precision = precision
        self._image_size = image_size

    @property
    def image_size(self) -> int:
        """Side S of the images in pixels."""
        return self._image_size

    @torch.inference_mode()
    def __call__(self, noisy: Tensor, step: int) -> Tensor:
        """Predict the noise in ``(B, 3, S, S)`` images at level ``step + 1``: the same shape, float32 on the CPU."""
        inputs = noisy.to(self.device, memory_format=torch.channels_last)
        steps = torch.full((len(noisy),), step, device=self.device)
        with autocast(self.device, self.precision):
            output = self.network(inputs, steps)
        noise: Tensor = getattr(output, "sample", output)
        return noise[:, :3].float().cpu().contiguous()


@dataclass(frozen=True, kw_only=True)
class DiffusionSettings:
    """The diffusion network and how to run it. Raises ConfigError for a setting out of range."""

    model: str = "google/ddpm-cifar10-32"
    """A ``UNet2DModel`` of diffusers: a name on the Hugging Face hub, or a local folder."""
    micro_batch: int | None = None
    """Images per forward pass; smaller batches are padded to it. ``None``: 8 on a CPU, 32 on other devices."""
    precision: Arithmetic = "float32"
    device: str = "cpu"
    """A PyTorch device, e.g. "cuda:0"."""

    def __post_init__(self) -> None:
        check(self.micro_batch is None or self.micro_batch >= 1, "micro_batch", "at least 1", self.micro_batch)
        check(self.precision in ("float32", "bfloat16"), "precision", "float32 or bfloat16", self.precision)

    @property
    def at_a_time(self) -> int:
        """Images per forward pass, with the default of the device when ``micro_batch`` is None."""
        return self.micro_batch or default_micro_batch(on_cpu=torch.device(self.device).type == "cpu")

    def load(self) -> UNetDenoiser:
        """Load the network. Raises what :func:`load_denoiser` raises."""
        return load_denoiser(self.model, precision=self.precision, device=self.device)


def load_denoiser(
    name_or_path: str | Path,
    *,
    precision: Arithmetic = "float32",
    device: str | torch.device = "cpu",
) -> UNetDenoiser:
    """Load a ``UNet2DModel``, from safetensors only.

    name_or_path: a local folder with ``config.json`` in it or in its subfolder ``unet`` (a saved ``DDPMPipeline``), or
    a name on the hub such as ``google/ddpm-cifar10-32``. Raises MissingDependencyError without diffusers, and
    CheckpointError when nothing is found, the network is not for square RGB images, or it was trained with another
    noise schedule.
    """
    try:
        from diffusers import DDPMScheduler, UNet2DModel  # noqa: PLC0415 - an optional dependency
    except ImportError as error:
        raise MissingDependencyError("diffusers", "lab") from error
    folder = Path(name_or_path)
    if not folder.is_dir() and not re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", str(name_or_path)):
        raise CheckpointError(f"no diffusion model {str(name_or_path)!r}: expected a folder, or a hub name owner/model")
    pipeline = (folder / "unet" / "config.json").is_file()
    subfolders = {"subfolder": "unet"} if pipeline else {}
    try:
        network: Any = UNet2DModel.from_pretrained(
            str(name_or_path), use_safetensors=True, low_cpu_mem_usage=False, **subfolders
        )
    except Exception as error:  # the errors of diffusers and of the hub's client have no common base class
        raise CheckpointError(
            f"cannot load a UNet2DModel from {str(name_or_path)!r} ({type(error).__name__}: {error}); "
            "check the name and the connection, or give a folder with config.json and safetensors"
        ) from error
    try:
        schedule = DDPMScheduler.load_config(str(name_or_path), **({"subfolder": "scheduler"} if pipeline else {}))
    except OSError:
        schedule = {}  # no scheduler was saved with the network
    _check_schedule(schedule, name_or_path)
    size, inputs, outputs = (network.config[name] for name in ("sample_size", "in_channels", "out_channels"))
    if not isinstance(size, int) or inputs != 3 or outputs not in (3, 6):
        raise CheckpointError(
            f"{name_or_path}: expected a network for square images with 3 input and 3 or 6 output channels, got "
            f"sample_size {size}, {inputs} input and {outputs} output channels"
        )
    return UNetDenoiser(network, image_size=size, precision=precision, device=device)


def _check_schedule(found: dict[str, Any], source: str | Path) -> None:
    expected = {
        "beta_schedule": "linear",
        "beta_start": BETAS[0],
        "beta_end": BETAS[1],
        "num_train_timesteps": STEPS,
        "prediction_type": "epsilon",
    }
    # Old files use the name `timesteps`. Missing entries mean the defaults of diffusers, which are the expected values.
    found = {"num_train_timesteps": found.get("timesteps", STEPS), **found}
    wrong = {name: found[name] for name, value in expected.items() if found.get(name, value) != value}
    if wrong:
        raise CheckpointError(f"{source} was trained with {json.dumps(wrong)}; expected {json.dumps(expected)}")
