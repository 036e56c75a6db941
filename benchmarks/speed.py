"""Measure the speed of purification, relative to the authors' schedule and to the speed of the hardware.

    python -m benchmarks.speed
    python -m benchmarks.speed --cases base large --batches 1 8 32 --repeats 5 --out benchmarks/results/speed-cpu.json

All contenders of a case run in one process, in turn in every repeat, on the same images. A ratio is the median of the
ratios of single repeats, so that other load on the machine slows both sides. Every repeat also measures the rate of
matrix products. The contenders ``exact``, ``fast``, ``default-exact`` and ``default-fast`` are the profiles ``paper``,
``paper-fast``, ``default`` and ``fast``. ``float32`` is ``exact`` in float32; ``-int8`` means int8, which must be
selected with ``--contenders`` and needs a CPU with VNNI. ``speed_cases.py`` describes what is purified, and why only
the profile ``paper`` is timed on random images. Prints a table; with ``--out`` also writes a JSON record and the table
next to it. If the device is not fast in bfloat16, as the table says, both sides compute in float32; maskrestore then
gains only from less work and from less time between matrix products.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import json
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from benchmarks.contenders import AUTHORS, CONTENDERS, Outcome, is_meaningful, make_run
from benchmarks.speed_cases import CASES, Case, Truth, make_case
from benchmarks.speed_tables import precision_note, rows_of, table
from benchmarks.stages import Clock, Stages, flop_of, scaled_to_grid, vit_flop
from torch import Tensor, nn

from maskrestore import BDMAE
from maskrestore.lab.measure.metrics import accuracy
from maskrestore.mae.vit_config import VIT_PRESETS
from maskrestore.runtime.environment import current_environment
from maskrestore.runtime.precision import fast_arithmetic


def main() -> None:
    arguments = _parser().parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    clock = Clock(arguments.device, arguments.clock)
    print(precision_note(fast_arithmetic(arguments.device)), flush=True)
    rows: list[dict[str, Any]] = []
    record = {
        "benchmark": "speed",
        "fast_arithmetic": fast_arithmetic(arguments.device),
        "clock": arguments.clock,
        "note": arguments.note,
        "repeats": arguments.repeats,
        "rows": rows,
        "environment": dataclasses.asdict(current_environment(arguments.device)),
    }
    for name in arguments.cases:
        for count in [arguments.tiny_images] if name.startswith("tiny") else arguments.batches:
            case = make_case(name, count, clock, triggered_share=arguments.triggered_share)
            names = [contender for contender in arguments.contenders if is_meaningful(contender, case)]
            if not names:
                print(f"{name}: nothing to time, because synthetic labels decide the work of {arguments.contenders}")
                continue
            rows.append(measure(case, names, arguments.repeats))
            print("\n".join(rows_of(rows[-1])), flush=True)
            if arguments.out is not None:  # after each row, so that an interrupted run leaves its rows
                arguments.out.write_text(json.dumps(record, indent=2) + "\n")
                arguments.out.with_suffix(".md").write_text(table(record))
    print("\n" + table(record))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES[:3]))
    parser.add_argument("--batches", nargs="+", type=int, default=[1], help="images per call at 224 x 224")
    parser.add_argument("--tiny-images", type=int, default=64, help="images per call at 32 x 32")
    parser.add_argument("--triggered-share", type=float, default=0.1, help="share of the street signs with the trigger")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument(
        "--contenders",
        nargs="+",
        choices=(AUTHORS, *CONTENDERS),
        default=[AUTHORS, *(name for name in CONTENDERS if name != "float32" and "int8" not in name)],
    )
    parser.add_argument("--device", default="cpu")
    parser.add_argument(
        "--clock",
        choices=("wall", "cpu"),
        default="wall",
        help="cpu: CPU time of all cores, for a shared machine",
    )
    parser.add_argument("--threads", type=int, help="threads of PyTorch [default: its own choice]")
    parser.add_argument("--note", default="", help="text for the record, such as the load of the machine")
    parser.add_argument("--out", type=Path, help="file of the record")
    return parser


def measure(case: Case, names: Sequence[str], repeats: int) -> dict[str, Any]:
    """Run every contender in every repeat. Returns a row of the record."""
    runs = {name: make_run(name, case) for name in names}
    seconds: dict[str, list[float]] = {name: [] for name in names}
    outcomes: dict[str, Outcome] = {}
    # Without fast bfloat16 no contender computes in it, and measuring its rate would take minutes.
    precisions = ["float32", fast_arithmetic(case.device), *(["int8"] if any("int8" in name for name in names) else [])]
    rates: dict[str, list[float]] = {precision: [] for precision in precisions}
    for name, run in runs.items():
        if name != AUTHORS or case.name.startswith("tiny"):  # a warm-up at 224 would cost minutes
            # On a GPU with all images, because the first use of a batch size takes longer there.
            run(case.images[:1] if case.device == "cpu" else case.images)
    for _ in range(repeats):
        for name, run in runs.items():
            started = case.clock.now()
            outcomes[name] = run(case.images)
            seconds[name].append(case.clock.now() - started)
        for precision, found in rates.items():
            found.append(matmul_rate(precision, case.clock))
    count = len(case.images)
    row: dict[str, Any] = {
        "case": case.name,
        "images": count,
        "triggered": 0 if case.truth is None else int(case.truth.triggered.sum()),
        "undefended": rates_of(case.truth, case.classifier()(case.images)),
        "seconds_per_image": {name: [round(value / count, 5) for value in found] for name, found in seconds.items()},
        "matmul_gflops": {precision: [round(rate) for rate in found] for precision, found in rates.items()},
        **{
            name: summary(case, outcome, None if name == AUTHORS and case.authors is not None else case.truth)
            for name, outcome in outcomes.items()
        },
    }
    for name in [name for name in names if name != AUTHORS]:
        if case.truth is not None:
            row[name]["gflop_per_image_as"] = gflop_at_224(case, outcomes[name])
        row[name]["profile"] = on_one_thread(lambda name=name: profile(case, name))
        if AUTHORS in runs:
            pairs = zip(seconds[AUTHORS], seconds[name], strict=True)
            row[name]["times_authors"] = round(statistics.median(theirs / ours for theirs, ours in pairs), 2)
    return row


def summary(case: Case, outcome: Outcome, truth: Truth | None) -> dict[str, Any]:
    """The cost of a contender and the rates of its answers, if their truth is known."""
    found: dict[str, Any] = {
        "queries_per_image": round(float(outcome.queries.double().mean()), 2),
        "passes_per_image": round(outcome.passes.total() / len(case.images), 2),
        "rates": rates_of(truth, outcome.labels),
    }
    if case.truth is not None and not case.truth.triggered.all():
        found["queries_median_clean"] = statistics.median(outcome.queries[~case.truth.triggered].tolist())
    return found


def rates_of(truth: Truth | None, labels: Tensor) -> dict[str, Any]:
    """Shares of clean and of triggered images with their true label, and of triggered images with the attacker's label.

    A rate without images is left out; without ``truth`` all are.
    """
    if truth is None:
        return {}
    clean, triggered = ~truth.triggered, truth.triggered
    kinds = {
        "clean": (clean, truth.labels),
        "triggered": (triggered, truth.labels),
        "attack": (triggered, truth.wanted),
    }
    found = {name: accuracy(labels[rows], right[rows]) for name, (rows, right) in kinds.items() if rows.any()}
    return {
        name: {"value": rate.value, "low": rate.low, "high": rate.high, "images": rate.trials, "text": str(rate)}
        for name, rate in found.items()
    }


def gflop_at_224(case: Case, outcome: Outcome) -> dict[str, float]:
    """GFLOP per image of a ViT at 224 whose masks leave the same shares of the tokens visible.

    This is calculated, not measured: with the restorations of a ViT the defense may need other passes.
    """
    grid = int(case.network.grid)  # type: ignore[arg-type]
    found = {}
    for name in ("base", "large"):
        config = VIT_PRESETS[name]
        flop = vit_flop(config, scaled_to_grid(outcome.passes, grid, config.grid))
        found[name] = round(flop / 1e9 / len(case.images), 1)
    return found


def matmul_rate(precision: str, clock: Clock) -> float:
    """The highest rate of a few matrix products in GFLOP/s: those of the shapes of ViT-B, and a large square one.

    precision: ``float32``, ``bfloat16``, or ``int8`` with sums in int32.
    """
    device, best = clock.device, 0.0
    large = 2048 if device == "cpu" else 8192
    for m, k, n in ((1024, 768, 3072), (1024, 3072, 768), (large, large, large)):
        a, b = torch.randn(m, k, device=device), torch.randn(n, k, device=device)
        a, b = a.to(getattr(torch, precision)), b.to(getattr(torch, precision))
        multiply = (lambda a, b: torch._int_mm(a, b.t())) if precision == "int8" else nn.functional.linear
        once = functools.partial(multiply, a, b)
        best = max(best, 2 * m * k * n / min(clock.seconds(once) for _ in range(6)) / 1e9)
    return best


def on_one_thread(function: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Call a function with one PyTorch thread, because micro-batches in parallel would add up on the same clocks."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return function()
    finally:
        torch.set_num_threads(before)


def profile(case: Case, name: str) -> dict[str, Any]:
    """Time the parts in one more run: their shares, and the rate of the network relative to that of matrix products."""
    contender = CONTENDERS[name]
    restorer, config = case.restorer(contender.precision), contender.config(case)
    network: nn.Module = restorer.network  # type: ignore[assignment]
    classifier = case.classifier()
    if case.device != "cpu":
        BDMAE(restorer, config).purify(case.images, classifier)  # so that no CUDA graph is captured while clocks run
    adapter = type(classifier)  # patch the class, because a function around it would get images on the CPU
    with (
        Stages(network, case.clock) as stages,
        mock.patch.object(adapter, "__call__", stages.timed("classifier", adapter.__call__)),
    ):
        total = case.clock.seconds(lambda: BDMAE(restorer, config).purify(case.images, classifier))
    gflop = flop_of(case.network, stages.passes) / 1e9
    rate = matmul_rate(restorer.precision, case.clock)
    return {
        "precision": restorer.precision,
        "shares": {stage: round(value / total, 3) for stage, value in stages.shares(total).items()},
        "filled_passes_per_image": round(sum(stages.passes.values()) / len(case.images), 1),
        "gflop_per_image": round(gflop / len(case.images), 1),
        "network_gflops": round(gflop / stages.network_seconds),
        "share_of_matmul_rate": round(gflop / stages.network_seconds / rate, 3),
    }


if __name__ == "__main__":
    main()
