"""Time the stages of a purification: the parts of a network and the functions around it."""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Literal
from unittest import mock

import torch
from benchmarks.cost_model import restoring_pass
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from maskrestore.defense import scores
from maskrestore.mae import restorer
from maskrestore.mae.fast.cuda_graphs import CudaGraphs
from maskrestore.mae.vit import ViTMAE
from maskrestore.mae.vit_config import ViTMAEConfig

__all__ = ["STAGES", "Clock", "Stages", "flop_of", "scaled_to_grid", "vit_flop"]

STAGES = ("encoder", "decoder", "network, rest", "classifier", "resize", "ssim", "rest")


@dataclass(frozen=True)
class Clock:
    """Measures seconds on a device."""

    device: str
    kind: Literal["wall", "cpu"]
    """``cpu``: the CPU time of all threads, which depends less on other load on the machine."""

    def now(self) -> float:
        """The time in seconds, after all work queued on the device is done."""
        if self.device != "cpu":
            torch.cuda.synchronize()
        return time.perf_counter() if self.kind == "wall" else time.process_time()

    def seconds(self, function: Callable[[], object]) -> float:
        """Seconds that a call takes."""
        started = self.now()
        function()
        return self.now() - started


class Stages:
    """A context that sums the seconds of each stage and counts passes by their number of visible tokens.

    On a GPU every clock waits for the device, so that stages do not overlap. The sum is then somewhat longer than an
    undisturbed run, and passes are not divided into encoder and decoder.
    """

    def __init__(self, network: nn.Module, clock: Clock) -> None:
        self.network, self.clock = network, clock
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self.passes: Counter[int] = Counter()
        """Passes by visible tokens, with the padding of micro-batches."""
        self._stack = ExitStack()

    def __enter__(self) -> Stages:
        for module, resized in ((restorer, "resize"), (scores, "ssim_map")):
            stage = "resize" if resized == "resize" else "ssim"
            self._stack.enter_context(mock.patch.object(module, resized, self.timed(stage, getattr(module, resized))))
        if self.clock.device != "cpu":
            # Passes are CUDA graphs there, whose parts cannot be timed one by one.
            self._stack.enter_context(mock.patch.object(CudaGraphs, "run", self._clocked_run(CudaGraphs.run)))
            return self
        self._clock(self.network, "network")
        handle = self.network.register_forward_pre_hook(self._count, with_kwargs=True)
        self._stack.callback(handle.remove)
        if isinstance(self.network, ViTMAE):
            for block in self.network.blocks:
                self._clock(block, "encoder")
            for module in (*self.network.decoder_blocks, self.network.decoder_pred):
                self._clock(module, "decoder")
            self._clock(self.network.patch_embed, "embedding")
        return self

    def __exit__(self, *details: object) -> None:
        self._stack.close()

    @property
    def network_seconds(self) -> float:
        """Seconds of the whole network."""
        return self.seconds["network"] + self.seconds["embedding"]

    def shares(self, total: float) -> dict[str, float]:
        """Seconds of each stage of ``STAGES``; they add up to ``total``."""
        found = {name: self.seconds[name] for name in ("encoder", "decoder", "classifier", "resize", "ssim")}
        found["network, rest"] = self.network_seconds - found["encoder"] - found["decoder"]
        found["rest"] = total - sum(found.values())
        return found

    def timed(self, stage: str, function: Callable[..., Tensor]) -> Callable[..., Tensor]:
        """Wrap ``function`` so that its time counts for ``stage``."""

        def clocked(*arguments: object, **named: object) -> Tensor:
            started = self.clock.now()
            result = function(*arguments, **named)
            self.seconds[stage] += self.clock.now() - started
            return result

        return clocked

    def _clocked_run(self, run: Callable[..., Tensor]) -> Callable[..., Tensor]:
        clocked = self.timed("network", run)

        def counted(graphs: CudaGraphs, key: tuple[tuple[int, int], int], *rest: object) -> Tensor:
            (_, most), count = key
            self.passes[most] += count
            return clocked(graphs, key, *rest)

        return counted

    def _clock(self, module: nn.Module, stage: str) -> None:
        started = 0.0

        def before(*_: object) -> None:
            nonlocal started
            started = self.clock.now()

        def after(*_: object) -> None:
            self.seconds[stage] += self.clock.now() - started

        self._stack.callback(module.register_forward_pre_hook(before).remove)
        self._stack.callback(module.register_forward_hook(after).remove)

    def _count(self, _: nn.Module, arguments: tuple[Tensor, Tensor], named: dict[str, Any]) -> None:
        counts = (~arguments[1]).flatten(1).sum(dim=1)
        span = named.get("visible")
        for count in counts.tolist():
            self.passes[span[1] if span else count] += 1


def flop_of(network: nn.Module, passes: Counter[int]) -> float:
    """Floating-point operations of passes, which are counted by their number of visible tokens."""
    if isinstance(network, ViTMAE):
        return vit_flop(network.config, passes)
    # The cost of a convolution does not depend on the mask.
    grid, size = int(network.grid), int(network.image_size)  # type: ignore[arg-type]
    parameter = next(network.parameters())
    image = torch.rand(1, 3, size, size, device=parameter.device)
    hidden = torch.ones(1, grid, grid, dtype=torch.bool, device=parameter.device)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        network(image, hidden)
    return float(counter.get_total_flops() * sum(passes.values()))


def vit_flop(config: ViTMAEConfig, passes: Counter[int]) -> float:
    """Floating-point operations of passes of a ViT, which are counted by their number of visible tokens."""
    return sum(count * restoring_pass(config, visible).total for visible, count in passes.items())


def scaled_to_grid(passes: Counter[int], grid: int, other: int) -> Counter[int]:
    """Convert passes by visible tokens to another grid with the same shares of visible tokens.

    grid, other: tokens along each side of the two grids.
    """
    found: Counter[int] = Counter()
    for visible, count in passes.items():
        found[round(visible / grid**2 * other**2)] += count
    return found
