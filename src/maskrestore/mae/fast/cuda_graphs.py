"""Capture one CUDA graph per input shape and replay it.

A pass of a ViT is hundreds of small kernels, which a GPU finishes faster than Python launches them. A CUDA graph
launches all of them at once: the same kernels, with bit-identical results.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

__all__ = ["CudaGraphs"]

_WARM_UP_CALLS = 2
"""Calls before the capture, in which libraries set up what must not become part of the graph."""
_CAPTURE_LOCK = threading.Lock()
"""Only one capture may be in progress in a process."""


@dataclass(frozen=True)
class _Graph:
    graph: torch.cuda.CUDAGraph
    inputs: list[Tensor]
    output: Tensor


class CudaGraphs:
    """The CUDA graphs of a function on one device, by input shape. A pickled or deep copy starts without graphs."""

    def __init__(self) -> None:
        self._graphs: dict[Hashable, _Graph] = {}
        self._lock = threading.Lock()  # a graph's inputs and output have fixed addresses, so threads take turns
        self._last_replay: torch.cuda.Event | None = None
        self._pool: Any = None  # PyTorch has no public type for the handle

    def __reduce__(self) -> tuple[type[CudaGraphs], tuple[()]]:
        return CudaGraphs, ()

    def run(self, key: Hashable, function: Callable[..., Tensor], inputs: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
        """Return ``function(*(source[rows] for source, rows in inputs))`` as a new tensor.

        key: identifies the function and the shapes of its inputs; the first call with a key captures the graph.
        function: must not read values of tensors nor copy anything to or from the device. Other tensors that it uses,
        such as weights, must keep their addresses. inputs: sources and rows are on the device.
        """
        with self._lock, torch.cuda.device(inputs[0][0].device):
            if self._last_replay is not None:
                self._last_replay.wait()  # this thread may use another stream than the last one
            captured = self._graphs.get(key)
            if captured is None:
                captured = self._graphs[key] = self._capture(function, inputs)
            _gather(inputs, captured.inputs)
            captured.graph.replay()
            output = captured.output.clone()
            self._last_replay = torch.cuda.Event()
            self._last_replay.record()
            return output

    def _capture(self, function: Callable[..., Tensor], inputs: Sequence[tuple[Tensor, Tensor]]) -> _Graph:
        side_stream, graph = torch.cuda.Stream(), torch.cuda.CUDAGraph()
        # Only one graph runs at a time, so all share the memory of intermediate results.
        self._pool = self._pool or torch.cuda.graph_pool_handle()
        # Leave the caller's contexts: PyTorch keeps tensors that the first capture creates for good, so they must not
        # be inference tensors; and the weights that an outer autocast has cast are freed when that context ends.
        with (
            torch.inference_mode(False),
            torch.no_grad(),
            torch.autocast("cuda", enabled=False, cache_enabled=False),
            _CAPTURE_LOCK,
        ):
            graph_inputs = [source.new_empty(len(rows), *source.shape[1:]) for source, rows in inputs]
            _gather(inputs, graph_inputs)
            side_stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side_stream):
                for _ in range(_WARM_UP_CALLS):
                    function(*graph_inputs)
            torch.cuda.current_stream().wait_stream(side_stream)
            with torch.cuda.graph(graph, pool=self._pool, stream=side_stream, capture_error_mode="thread_local"):
                output = function(*graph_inputs)
        return _Graph(graph, graph_inputs, output)


def _gather(inputs: Sequence[tuple[Tensor, Tensor]], outputs: Sequence[Tensor]) -> None:
    for (source, rows), output in zip(inputs, outputs, strict=True):
        torch.index_select(source, 0, rows, out=output)
