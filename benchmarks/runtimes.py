"""Compare runtimes for a pass of the masked autoencoder: time, and error of the restoration.

    pip install openvino nncf onnx onnxruntime
    OMP_NUM_THREADS=1 python -m benchmarks.runtimes --clock cpu --out /tmp/runtimes.json

Runs one pass of a fixed shape in float32 on one thread: ViT-B at 224 (random weights) with five masks that hide 75 %
and with one mask that hides 5 %, which are micro-batches of ``MAERestorer``, and ``mae-tiny-32`` with 32 masks. All
runtimes run in turn in every repeat, so that other load on the machine slows all of them; medians are printed. Errors
are those of hidden pixels, in units of [0, 1], relative to plain PyTorch in float32. The masked PSNR is relative to the
image, and is meaningful only for trained weights. Images are rendered street signs; OpenVINO's int8 is calibrated on
others. A runtime that is not installed, or that fails, is reported as failed.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import logging
import math
import statistics
import tempfile
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from benchmarks.stages import Clock
from torch import Tensor, nn

from maskrestore.imaging.patches import tokens_to_pixels
from maskrestore.imaging.resize import resize
from maskrestore.lab.data.signs import load_signs
from maskrestore.mae import vit
from maskrestore.mae.checkpoints.loading import load_network
from maskrestore.mae.packing import token_order
from maskrestore.mae.vit_config import VIT_PRESETS
from maskrestore.runtime.environment import current_environment

Run = Callable[[], Tensor]
CALIBRATION = 8
"""Micro-batches for the calibration of OpenVINO's int8."""


class ViTPass(nn.Module):
    """A pass of a ``ViTMAE`` for masks that hide the same number of tokens, without data-dependent shapes."""

    def __init__(self, network: vit.ViTMAE, visible: int) -> None:
        super().__init__()
        self.network, self.visible = network, visible

    def forward(self, images: Tensor, order: Tensor) -> Tensor:
        """Images ``(B, 3, S, S)`` in [0, 1] and orders ``(B, L)`` int64 as of ``token_order`` -> ``(B, 3, S, S)``."""
        with mock.patch.object(vit, "token_order", return_value=order):
            tokens = self.network.embed(images)
            patches = self.network._reconstruct(tokens, order, (self.visible, self.visible))
        return self.network.to_pixels(patches)


@dataclass(frozen=True, kw_only=True)
class Case:
    """One pass: a graph and its inputs."""

    name: str
    graph: nn.Module
    batches: list[tuple[Tensor, Tensor]]
    """Inputs of the graph; the first batch is measured, the others are for calibration."""
    hidden: Tensor
    """Pixels of the first batch that are restored, ``(B, 1, S, S)`` bool."""


def make_case(name: str, count: int, share: float) -> Case:
    """Make a case by the name of its network. count: masks of a pass. share: share of the tokens that they hide."""
    torch.manual_seed(0)
    network = load_network("mae-tiny-32") if name == "mae-tiny-32" else vit.ViTMAE(VIT_PRESETS[name])
    network.to(memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
    grid, size, number = network.grid, network.image_size, count * (1 + CALIBRATION)
    pictures = resize(load_signs("test", count=number).images.float() / 255, size, size)
    hides = round(share * grid**2)
    hidden = torch.rand(number, grid**2).argsort(dim=1).argsort(dim=1) < hides
    graph: nn.Module = network
    masks = hidden.unflatten(1, (grid, grid))
    pixels = tokens_to_pixels(masks[:count], size, size)
    if isinstance(network, vit.ViTMAE):
        graph, masks = ViTPass(network, grid**2 - hides), token_order(hidden)
    batches = list(zip(pictures.split(count), masks.split(count), strict=True))
    return Case(name=f"{name}, {count} x {share:.0%} hidden", graph=graph.eval(), batches=batches, hidden=pixels)


def plain(case: Case, _: Path) -> Run:
    return lambda: case.graph(*case.batches[0])


def compiled(case: Case, _: Path) -> Run:
    graph = case.graph.network if isinstance(case.graph, ViTPass) else case.graph
    if isinstance(case.graph, ViTPass):
        # Compile the function of the mask, because a compiled graph must not contain the patched token_order.
        order, visible = case.batches[0][1], case.graph.visible
        hidden = torch.ones_like(order, dtype=torch.bool).scatter(1, order[:, :visible], False)
        run = torch.compile(graph._reconstruct)
        return lambda: graph.to_pixels(run(graph.embed(case.batches[0][0]), hidden, (visible, visible)))
    run = torch.compile(graph)
    return lambda: run(*case.batches[0])


def onnx_float32(case: Case, folder: Path) -> Run:
    return _onnx_session(case, _exported(case, folder))


def onnx_int8(case: Case, folder: Path) -> Run:
    """Dynamic quantisation: scales of weights for each channel, scales of activations at every call."""
    from onnxruntime.quantization import QuantType, quantize_dynamic  # noqa: PLC0415 - an optional extra

    source, target = _exported(case, folder), folder / "int8.onnx"
    quantize_dynamic(source, target, per_channel=True, weight_type=QuantType.QInt8)
    return _onnx_session(case, target)


def openvino_float32(case: Case, folder: Path) -> Run:
    import openvino  # noqa: PLC0415 - an optional extra

    return _openvino(case, openvino.Core().read_model(_exported(case, folder)))


def openvino_int8(case: Case, folder: Path) -> Run:
    """Post-training quantisation, calibrated on a few batches."""
    import nncf  # noqa: PLC0415 - an optional extra
    import openvino  # noqa: PLC0415

    nncf.set_log_level(logging.ERROR)
    model = openvino.Core().read_model(_exported(case, folder))
    data = nncf.Dataset([tuple(part.numpy() for part in batch) for batch in case.batches[1:]])
    kind = nncf.ModelType.TRANSFORMER if isinstance(case.graph, ViTPass) else None
    return _openvino(case, nncf.quantize(model, data, model_type=kind, subset_size=CALIBRATION))


CONTENDERS: dict[str, Callable[[Case, Path], Run]] = {
    "torch": plain,
    "torch.compile": compiled,
    "ONNX Runtime": onnx_float32,
    "ONNX Runtime, int8": onnx_int8,
    "OpenVINO": openvino_float32,
    "OpenVINO, int8": openvino_int8,
}


def _exported(case: Case, folder: Path) -> Path:
    path = folder / "pass.onnx"
    if not path.exists():
        names = ["images", "masks"]
        torch.onnx.export(case.graph, case.batches[0], str(path), input_names=names, opset_version=17, dynamo=False)
    return path


def _onnx_session(case: Case, path: Path) -> Run:
    import onnxruntime  # noqa: PLC0415 - an optional extra

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    feed = dict(zip(("images", "masks"), _arrays(case), strict=True))
    return lambda: torch.from_numpy(session.run(None, feed)[0])


def _openvino(case: Case, model: Any) -> Run:
    import openvino  # noqa: PLC0415 - an optional extra

    settings = {"INFERENCE_NUM_THREADS": 1, "INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}
    request = openvino.Core().compile_model(model, "CPU", settings)
    return lambda: torch.from_numpy(np.copy(next(iter(request(list(_arrays(case))).values()))))


def _arrays(case: Case) -> tuple[Any, Any]:
    images, masks = case.batches[0]
    return images.numpy(), masks.numpy()


@torch.no_grad()
def measure(case: Case, names: Sequence[str], clock: Clock, repeats: int) -> dict[str, Any]:
    """Time every runtime in turn. Returns a row of the record."""
    runs: dict[str, Run] = {}
    found: dict[str, dict[str, Any]] = {name: {} for name in names}
    with tempfile.TemporaryDirectory() as folder:
        for name in names:
            try:
                runs[name] = CONTENDERS[name](case, Path(folder))
                output = runs[name]()  # compiles, allocates
            except Exception as error:  # other runtimes may raise anything
                runs.pop(name, None)
                found[name]["failed"] = f"{type(error).__name__}: {str(error).splitlines()[0]}"
                continue
            difference = (output - case.graph(*case.batches[0])).abs()[case.hidden.expand_as(output)]
            squares = ((output - case.batches[0][0]) ** 2)[case.hidden.expand_as(output)]
            found[name] |= {"mean_error": float(difference.mean()), "largest_error": float(difference.max())}
            found[name]["masked_psnr_db"] = -10 * math.log10(squares.mean())
        seconds: dict[str, list[float]] = {name: [] for name in runs}
        for _ in range(repeats):
            for name, run in runs.items():
                seconds[name].append(clock.seconds(run))
    for name, values in seconds.items():
        pairs = zip(seconds["torch"], values, strict=True)
        ratio = statistics.median(ours / theirs for ours, theirs in pairs)
        found[name] |= {"milliseconds": statistics.median(values) * 1e3, "times_torch": ratio, "seconds": values}
    return {"case": case.name, "runtimes": found}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--runtimes", nargs="+", choices=list(CONTENDERS), default=list(CONTENDERS))
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall", help="cpu: for a shared machine")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    warnings.filterwarnings("ignore", category=torch.jit.TracerWarning)
    names = list(dict.fromkeys(["torch", *arguments.runtimes]))
    rows = []
    for name, count, share in (("mae-tiny-32", 32, 0.75), ("base", 5, 0.75), ("base", 1, 0.05)):
        rows.append(measure(make_case(name, count, share), names, Clock("cpu", arguments.clock), arguments.repeats))
        print(json.dumps(rows[-1], indent=2), flush=True)
    environment = dataclasses.asdict(current_environment())
    arguments.out.write_text(json.dumps({"benchmark": "runtimes", "rows": rows, "environment": environment}, indent=2))


if __name__ == "__main__":
    main()
