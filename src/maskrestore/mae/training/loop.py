"""The training loop of networks that restore images: steps, averaged weights, checkpoints and the training curve."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from maskrestore.errors import CheckpointError, ConfigError, DataError
from maskrestore.mae.checkpoints.weight_files import read_pickle

__all__ = ["Training", "TrainingConfig", "TrainingProgress", "check_images"]


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """Settings of every training.

    Raises ConfigError unless ``steps``, ``batch_size`` and ``checkpoint_every`` are at least 1 and ``ema`` is in [0,
    1).
    """

    steps: int
    batch_size: int = 64
    learning_rate: float
    """Peak learning rate, reached after ``warmup_steps``."""
    warmup_steps: int
    """Steps in which the learning rate rises linearly to its peak."""
    clip_norm: float = 1.0
    """Largest norm of the gradient of all weights; larger gradients are scaled down."""
    ema: float = 0.999
    """Decay of the moving average of the weights, which is what is saved and measured; 0: the last weights."""
    seed: int = 0
    """Seed of the initial weights and of all random draws."""
    checkpoint_every: int = 1000
    """Steps between two checkpoints."""

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "checkpoint_every"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, got {getattr(self, name)}")
        if not 0 <= self.ema < 1:
            raise ConfigError(f"ema must be in [0, 1), got {self.ema}")


@dataclass(frozen=True, kw_only=True)
class TrainingProgress:
    """The state of a training, reported every 50 steps and at checkpoints."""

    step: int
    steps: int
    loss: float
    """Mean over the steps since the last checkpoint."""
    images_per_second: float


class Training:
    """A training and its state, which checkpoints hold."""

    def __init__(
        self,
        config: TrainingConfig,
        images: Tensor,
        folder: Path,
        *,
        build: Callable[[], nn.Module],
        optimizer: Callable[..., torch.optim.Optimizer],
        loss: Callable[[Training, Tensor], Tensor],
        decay: Callable[[int], float] = lambda step: 1.0,
        init: nn.Module | None = None,
        inputs: Mapping[str, Any] | None = None,
        device: str | torch.device = "cpu",
    ) -> None:
        """Start a training, or resume the one in ``folder``.

        images: ``(N, ...)`` uint8; batches are drawn from them. build: makes a network with random weights from
        PyTorch's global generator. optimizer: makes the optimizer of the given parameters. loss: the loss of this
        training's network for a batch of images. decay: factor of the peak learning rate at a step, on top of the
        warm-up. init: a network of the same shape whose weights to start from. inputs: digests of the weights that the
        training depends on, by the names that error messages give them. device: where the network is trained.

        Raises CheckpointError if ``init`` has another shape, or if ``folder`` holds a training with another
        configuration or other ``inputs``.
        """
        torch.manual_seed(config.seed)  # for the initial weights; a training is the only task of its process
        self.config, self.images, self.folder = config, images, folder
        self.network, self.average = (
            build().to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
            for _ in range(2)
        )
        if init is not None:
            _start_from(init, self.network)
        self.average.eval().load_state_dict(self.network.train().state_dict())
        self.optimizer = optimizer(self.network.parameters())
        self.generator = torch.Generator().manual_seed(config.seed)
        self.step = 0
        self._loss, self._decay = loss, decay
        self._inputs = dict(inputs or {})
        self._path = folder / "state.pt"
        folder.mkdir(parents=True, exist_ok=True)
        if self._path.exists():
            self._resume()

    def reports(self) -> Iterator[tuple[TrainingProgress, bool]]:
        """Train to the end; yields the state every 50 steps and at checkpoints, and whether this is a checkpoint."""
        config, window = self.config, list[Tensor]()
        started, first_step = time.perf_counter(), self.step
        while self.step < config.steps:
            window.append(self.advance())
            at_checkpoint = self.step % config.checkpoint_every == 0 or self.step == config.steps
            if at_checkpoint or self.step % 50 == 0:
                seconds = time.perf_counter() - started
                state = TrainingProgress(
                    step=self.step,
                    steps=config.steps,
                    loss=sum(map(float, window)) / len(window),
                    images_per_second=(self.step - first_step) * config.batch_size / seconds,
                )
                yield state, at_checkpoint
            if at_checkpoint:
                window.clear()

    def advance(self) -> Tensor:
        """Do one step of training; returns its loss, a scalar tensor."""
        config = self.config
        warm = min(1.0, (self.step + 1) / max(1, config.warmup_steps))
        for group in self.optimizer.param_groups:
            group["lr"] = config.learning_rate * (warm * self._decay(self.step))
        index = torch.randint(len(self.images), (config.batch_size,), generator=self.generator)
        loss = self._loss(self, self.images[index])
        self.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.network.parameters(), config.clip_norm)
        self.optimizer.step()
        self.step += 1
        self._average()
        return loss.detach()

    @torch.no_grad()
    def _average(self) -> None:
        # A smaller decay in the first steps, so that the random initial weights vanish from the average quickly.
        decay = min(self.config.ema, self.step / (self.step + 10))
        torch._foreach_lerp_(list(self.average.parameters()), list(self.network.parameters()), 1 - decay)

    def save(self, state: TrainingProgress) -> None:
        """Replace the checkpoint atomically and append a line to ``curve.jsonl``."""
        content = {
            "config": json.dumps(asdict(self.config)),
            "inputs": json.dumps(self._inputs),
            "step": self.step,
            "network": self.network.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "generator": self.generator.get_state(),
        }
        temporary = self._path.with_suffix(".tmp")
        torch.save(content, temporary)
        temporary.replace(self._path)
        with (self.folder / "curve.jsonl").open("a") as curve:
            curve.write(json.dumps(asdict(state)) + "\n")

    def _resume(self) -> None:
        content = read_pickle(self._path)
        self._check_run(json.loads(content["config"]), json.loads(content.get("inputs", "{}")))
        self.step = content["step"]
        self.network.load_state_dict(content["network"])
        self.average.load_state_dict(content["average"])
        self.optimizer.load_state_dict(content["optimizer"])
        self.generator.set_state(content["generator"])

    def _check_run(self, config: dict[str, Any], inputs: dict[str, Any]) -> None:
        """Raise CheckpointError unless configuration and inputs are those of this training."""
        advice = "train into another folder or delete it"
        unknown = [name for name in self._inputs if name not in inputs]
        if unknown:
            names = " and ".join(unknown)
            raise CheckpointError(f"{self._path} is of an older version, which did not record its {names}; {advice}")
        if config != json.loads(json.dumps(asdict(self.config))):  # JSON turns tuples into lists
            raise CheckpointError(f"{self._path} belongs to another configuration: {json.dumps(config)}; {advice}")
        for name, value in self._inputs.items():
            if inputs[name] != value:
                raise CheckpointError(
                    f"{self._path} was started with another {name}: weights {inputs[name]}, now {value}; {advice}"
                )


def check_images(images: Tensor, size: int) -> None:
    """Raise DataError unless ``images`` are uint8 of shape ``(N, 3, size, size)`` with N at least 1."""
    if images.dtype != torch.uint8 or tuple(images.shape[1:]) != (3, size, size) or not len(images):
        raise DataError(
            f"expected uint8 images of shape (N, 3, {size}, {size}), got {images.dtype} {tuple(images.shape)}"
        )


def _start_from(init: nn.Module, network: nn.Module) -> None:
    try:
        network.load_state_dict(init.state_dict())
    except RuntimeError as error:
        raise CheckpointError(f"the weights to start from belong to another network: {error}") from error
