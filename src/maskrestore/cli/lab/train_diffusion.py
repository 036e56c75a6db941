"""``maskrestore train-diffusion``: train the diffusion model of DiffPure, ZIP and SampDetox."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from maskrestore.cli.options import DataOption, DeviceOption, TrainingSetOption
from maskrestore.cli.overrides import with_overrides
from maskrestore.cli.terminal import out, progress
from maskrestore.cli.training_images import HeldOutOption, ImagesArgument, training_images
from maskrestore.lab.baselines import diffusion_training as training

__all__ = ["train_diffusion"]


def train_diffusion(
    images: ImagesArgument,
    *,
    out_dir: Annotated[Path, typer.Option("--out", help="Folder for the checkpoint, the error curve and the model.")],
    steps: Annotated[int, typer.Option(min=1, help="Number of training steps.")] = 50_000,
    image_size: Annotated[int, typer.Option(min=8, help="Side in pixels to which images are resized.")] = 32,
    held_out: HeldOutOption = 500,
    device: DeviceOption = "cpu",
    settings: TrainingSetOption = None,
    data: DataOption = None,
) -> None:
    """Train a small diffusion model for the baseline defenses DiffPure, ZIP and SampDetox.

    Good models are published: the default of these defenses is `google/ddpm-cifar10-32` from the hub. Train one for
    your own images, or for machines without internet access. At every checkpoint the command writes the folder
    `model` (for `--diffusion` of `reproduce` and `--set model=...` of `evaluate`), `curve.jsonl` and `state.pt`. After
    Ctrl-C the same command resumes from `state.pt`. Needs the extra `lab`.

    Examples:

        maskrestore train-diffusion cifar10 --out runs/diffusion

        maskrestore reproduce table1 --diffusion runs/diffusion/model
    """
    start = training.DiffusionTrainingConfig(steps=steps, image_size=image_size)
    config = with_overrides(start, settings or [])
    held_out_images, train = training_images(images, config.image_size, data, held_out=held_out, seed=config.seed)
    with progress("train-diffusion") as update:

        def show(state: training.DiffusionProgress) -> None:
            error = "" if state.held_out_error is None else f", held-out error {state.held_out_error:.4f}"
            update(state.step, state.steps, f"loss {state.loss:.4f}{error}, {state.images_per_second:.0f} images/s")

        model = training.train_diffusion(config, train, out_dir, held_out=held_out_images, device=device, progress=show)
    out.print(f"wrote {model}; the error curve is in {out_dir / 'curve.jsonl'}", soft_wrap=True)
