"""On a GPU: what a network does with inputs of one shape is recorded once, and played again.

A pass of a ViT is hundreds of small kernels, which a GPU finishes sooner than Python starts them. A recording
(``torch.cuda.CUDAGraph``) starts them all at once: the same kernels, and the same bits.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

__all__ = ["Recordings"]

_REHEARSALS = 2
"""Calls before a recording: what libraries set up at the first ones is no part of it."""
_RECORDING = threading.Lock()
"""Only one recording may be under way in a process."""


@dataclass(frozen=True)
class _Recording:
    graph: torch.cuda.CUDAGraph
    inputs: list[Tensor]
    output: Tensor


class Recordings:
    """A function's recordings on one device, by shape. What is pickled or copied deeply starts without any."""

    def __init__(self) -> None:
        self._recordings: dict[Hashable, _Recording] = {}
        self._lock = threading.Lock()  # inputs and outputs lie at fixed places
        self._played: torch.cuda.Event | None = None
        self._pool: Any = None  # PyTorch's own kind of handle

    def __reduce__(self) -> tuple[type[Recordings], tuple[()]]:
        return Recordings, ()

    def play(self, key: Hashable, function: Callable[..., Tensor], inputs: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
        """``function(*(source[rows] for source, rows in inputs))``, in a tensor of the caller's own.

        key: stands for the function and the shape of its inputs; the first call with a key makes the recording. The
        function may neither look at values nor move anything to or from the device, and what else it reads, weights
        say, must stay where it is. Source and rows are on the device.
        """
        with self._lock, torch.cuda.device(inputs[0][0].device):
            if self._played is not None:
                self._played.wait()  # another thread may have its own stream
            recording = self._recordings.get(key)
            if recording is None:
                recording = self._recordings[key] = self._record(function, inputs)
            _gather(inputs, recording.inputs)
            recording.graph.replay()
            output = recording.output.clone()
            self._played = torch.cuda.Event()
            self._played.record()
            return output

    def _record(self, function: Callable[..., Tensor], inputs: Sequence[tuple[Tensor, Tensor]]) -> _Recording:
        aside, graph = torch.cuda.Stream(), torch.cuda.CUDAGraph()
        # Recordings are played one at a time, so they share the memory of what lies between input and output.
        self._pool = self._pool or torch.cuda.graph_pool_handle()
        # As if nothing was around it: what PyTorch makes at the first recording of all it keeps for good, so that must
        # not be of inference mode; and what an outer autocast keeps is gone when that ends.
        with (
            torch.inference_mode(False),
            torch.no_grad(),
            torch.autocast("cuda", enabled=False, cache_enabled=False),
            _RECORDING,
        ):
            places = [source.new_empty(len(rows), *source.shape[1:]) for source, rows in inputs]
            _gather(inputs, places)
            aside.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(aside):
                for _ in range(_REHEARSALS):
                    function(*places)
            torch.cuda.current_stream().wait_stream(aside)
            with torch.cuda.graph(graph, pool=self._pool, stream=aside, capture_error_mode="thread_local"):
                output = function(*places)
        return _Recording(graph, places, output)


def _gather(inputs: Sequence[tuple[Tensor, Tensor]], places: Sequence[Tensor]) -> None:
    for (source, rows), place in zip(inputs, places, strict=True):
        torch.index_select(source, 0, rows, out=place)
