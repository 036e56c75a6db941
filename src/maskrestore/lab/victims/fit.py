"""The training loop: an optimizer with a one-cycle learning rate and a checkpoint after each epoch."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from maskrestore.errors import CheckpointError, ConfigError, DataError
from maskrestore.lab.data import StoredImages, images_at_once
from maskrestore.lab.victims.augment import Augmentation, augment
from maskrestore.lab.victims.recipe import Recipe
from maskrestore.runtime.precision import autocast

__all__ = ["Companion", "Stamp", "TrainingProgress", "fit", "one_cycle", "predict"]

_MOST_AT_ONCE = 500
"""Most images per forward pass without gradients."""

Stamp = Callable[[Tensor, Tensor, Generator], tuple[Tensor, Tensor]]
"""Adds triggers to a batch: (augmented images, indices into the data set, random generator) -> (images, labels)."""


class Companion(Protocol):
    """Networks that are trained together with the classifier: they change its images and learn from its loss."""

    def begin(self) -> None:
        """Train what is needed before the first batch. Not called when a run resumes from a checkpoint."""

    def penalty(self) -> Tensor:
        """Return a scalar that is added to the loss of the latest batch."""

    def step(self, rate: float) -> None:
        """Do an optimizer step with the gradients of the latest batch. rate: share of the peak learning rate."""

    def state_dict(self) -> dict[str, Any]:
        """Return the state for a checkpoint."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the state from a checkpoint."""


@dataclass(frozen=True, kw_only=True)
class TrainingProgress:
    """The progress of a training run, reported at intervals."""

    step: int
    """Number of steps done."""
    steps: int
    """Number of steps of the whole run."""
    epoch: float
    """Number of epochs done."""
    loss: float
    """Mean since the last report."""
    images_per_second: float


class TrainingImages(Protocol):
    """Images ``(N, C, H, W)`` that are indexed with ``(B,)`` numbers: a tensor or one of its substitutes."""

    @property
    def device(self) -> torch.device:
        """Where the indexed images are."""

    def __getitem__(self, rows: Tensor, /) -> Tensor:
        """Return ``(B, C, H, W)``."""


class _Reports(Protocol):
    def __call__(self, state: TrainingProgress, network: nn.Module) -> None: ...


def one_cycle(step: int, steps: int, warmup: float) -> float:
    """Return the share of the peak learning rate at a step, in (0, 1].

    It rises linearly for the share ``warmup`` of the steps, then falls linearly towards 0.
    """
    rise = max(1, round(warmup * steps))
    return (step + 1) / rise if step < rise else (steps - step) / (steps - rise + 1)


def fit(
    network: nn.Module,
    images: TrainingImages,
    epoch: Tensor,
    stamp: Stamp,
    recipe: Recipe,
    *,
    seed: int,
    tag: str,
    checkpoint: Path | None = None,
    on_report: _Reports = lambda state, network: None,
    companion: Companion | None = None,
) -> float:
    """Train ``network`` in place. Returns the seconds of training, including earlier runs that this one resumes.

    Args:
        network: maps ``(B, 3, H, W)`` images in [0, 1] to logits.
        images: ``(N, 3, H, W)`` uint8, on the network's device; or stored activations, which are not augmented.
        epoch: ``(M,)`` indices of the images of an epoch; each epoch shuffles them.
        stamp: adds triggers to each augmented batch and returns its labels.
        recipe: the optimizer. With ``recipe.ema`` the average of the weights is reported on, and ``network`` ends with
            it.
        seed: of the shuffling, the augmentation and the stamp.
        tag: identifies the run. A checkpoint with another tag is refused.
        checkpoint: file to write after each epoch, and to resume from if it exists.
        on_report: called every 50 steps and at the end of each epoch.
        companion: trained together with the network.

    The same seed gives the same weights, resumed or not, on the same machine with the same number of threads. On a GPU
    they are nearly the same, because its kernels sum in varying order.

    Raises:
        CheckpointError: the checkpoint is damaged or belongs to another run.
        DataError: the images do not fill one batch.
        ConfigError: training diverges.
    """
    per_epoch = len(epoch) // recipe.batch_size
    if per_epoch == 0:
        raise DataError(f"{len(epoch)} images do not fill a batch of {recipe.batch_size}; lower batch_size")
    steps = max(1, round(recipe.epochs * per_epoch))
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = _optimizer(network, recipe)
    average = copy.deepcopy(network) if recipe.ema else None
    found = {"network": network, "optimizer": optimizer, "average": average, "companion": companion}
    parts = {name: part for name, part in found.items() if part is not None}
    step, seconds = _resume(checkpoint, parts, tag)
    started = time.perf_counter()
    if companion is not None and step == 0:
        companion.begin()
    losses: list[float] = []
    reported, reported_step = started, step
    while step < steps:
        # one generator per epoch, so that a resumed run draws the same numbers
        generator = torch.Generator().manual_seed(seed * 100_003 + step // per_epoch)
        order = epoch[torch.randperm(len(epoch), generator=generator)].to(images.device)
        network.train()
        for indices in order[: per_epoch * recipe.batch_size].split(recipe.batch_size):
            rate = one_cycle(step, steps, recipe.warmup)
            optimizer.param_groups[0]["lr"] = recipe.learning_rate * rate
            batch, labels = stamp(_augmented(images[indices], recipe.augmentation, generator), indices, generator)
            losses.append(
                _step(network, optimizer, batch, labels, smoothing=recipe.label_smoothing, companion=companion)
            )
            if companion is not None:
                companion.step(rate)
            step += 1
            if average is not None:
                _move_towards(average, network, recipe.ema, step)
            ended = step % per_epoch == 0 or step == steps
            if ended or step % 50 == 0:
                now = time.perf_counter()
                state = TrainingProgress(
                    step=step,
                    steps=steps,
                    epoch=step / per_epoch,
                    loss=math.fsum(losses) / len(losses),
                    images_per_second=(step - reported_step) * recipe.batch_size / (now - reported),
                )
                if ended:
                    _save(checkpoint, parts, tag=tag, step=step, seconds=seconds + now - started)
                on_report(state, average or network)
                losses.clear()
                reported, reported_step = time.perf_counter(), step
            if step == steps:
                break
    if average is not None:
        network.load_state_dict(average.state_dict())
    network.eval()
    return seconds + time.perf_counter() - started


def _augmented(batch: Tensor, config: Augmentation, generator: Generator) -> Tensor:
    if batch.dtype == torch.uint8:
        return augment(batch, config, generator)
    return batch.float().contiguous(memory_format=torch.channels_last)  # activations


def _optimizer(network: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    if recipe.optimizer == "adamw":
        return torch.optim.AdamW(
            network.parameters(),
            lr=recipe.learning_rate,
            betas=(recipe.momentum, 0.999),
            weight_decay=recipe.weight_decay,
            foreach=True,
        )
    return torch.optim.SGD(
        network.parameters(),
        lr=recipe.learning_rate,
        momentum=recipe.momentum,
        nesterov=recipe.momentum > 0,
        weight_decay=recipe.weight_decay,
        foreach=True,
    )


def _step(
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    batch: Tensor,
    labels: Tensor,
    *,
    smoothing: float,
    companion: Companion | None,
) -> float:
    with autocast(batch.device):
        logits = network(batch)
    loss = F.cross_entropy(logits.float(), labels, label_smoothing=smoothing)
    if companion is not None:
        loss = loss + companion.penalty()
    if not torch.isfinite(loss):
        raise ConfigError("training diverged: the loss is no longer finite; lower the learning rate")
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()
    return loss.item()


@torch.no_grad()
def _move_towards(average: nn.Module, network: nn.Module, decay: float, step: int) -> None:
    # The decay grows with the number of steps, so that the initial weights are forgotten quickly.
    share = 1 - min(decay, step / (step + 10))
    for mean, latest in zip(average.state_dict().values(), network.state_dict().values(), strict=True):
        if mean.is_floating_point():
            mean.lerp_(latest, share)
        else:  # the batch counter of batch normalisation
            mean.copy_(latest)


@torch.inference_mode()
def predict(network: nn.Module, images: Tensor | StoredImages, *, batch_size: int | None = None) -> Tensor:
    """Return labels ``(N,)`` int64 of images ``(N, 3, H, W)``, float in [0, 1] or uint8.

    batch_size: images per forward pass; ``None`` uses 500, and fewer for photographs. Computes in the device's fast
    arithmetic and sets the network to evaluation mode.
    """
    network.eval()
    labels = []
    for batch in images.split(batch_size or images_at_once(images, _MOST_AT_ONCE)):
        pixels = batch.float() / 255 if batch.dtype == torch.uint8 else batch
        with autocast(pixels.device):
            labels.append(network(pixels.contiguous(memory_format=torch.channels_last)).argmax(1))
    return torch.cat(labels)


def _save(path: Path | None, parts: Mapping[str, Any], *, tag: str, step: int, seconds: float) -> None:
    if path is None:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    states = {name: part.state_dict() for name, part in parts.items()}
    torch.save({"tag": tag, "step": step, "seconds": seconds, **states}, partial)
    partial.replace(path)  # atomic: a killed run leaves the previous checkpoint intact


def _resume(path: Path | None, parts: Mapping[str, Any], tag: str) -> tuple[int, float]:
    """Load the checkpoint into ``parts``. Returns its step and seconds of training, or zeros without a checkpoint."""
    if path is None or not path.exists():
        return 0, 0.0
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise CheckpointError(f"{path} is not a readable checkpoint; delete it to start over ({error})") from error
    if state["tag"] != tag:
        raise CheckpointError(f"{path} belongs to the run {state['tag']}, not to {tag}; delete it to start over")
    for name, part in parts.items():
        part.load_state_dict(state[name])
    return int(state["step"]), float(state["seconds"])
