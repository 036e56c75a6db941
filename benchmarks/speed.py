"""How fast images are purified, against the authors' schedule and against what the hardware can do.

    python -m benchmarks.speed
    python -m benchmarks.speed --cases base large --batches 1 8 32 --repeats 5 --out benchmarks/results/speed-cpu.json

All contenders of a case run in one process, one after the other in every repeat, on the same images; a ratio is the
median of the ratios of single repeats, so that a busy machine slows both sides of it. The rate at which the machine
multiplies matrices is measured in every repeat, too. ``exact`` and ``fast`` are the schedules of the profile ``paper``,
``default-exact`` and ``default-fast`` those of the default profile; ``float32`` is ``exact`` in that precision, and
``-int8`` another in that one (on CPUs with VNNI, where it is asked for with ``--contenders``). What is
purified, and why only ``exact`` is timed on random images, is said in ``speed_cases.py``. Prints a table, and with
``--out`` writes a JSON record and the table beside it. On a device that is not fast in bfloat16, which the table says,
both sides compute in float32, and all that ours gains is work left out and time lost between products.
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
from benchmarks.contenders import AUTHORS, CONTENDERS, Outcome, make_run, says_something
from benchmarks.speed_cases import CASES, Case, Truth, make_case
from benchmarks.speed_tables import precision_note, rows_of, table
from benchmarks.stages import Clock, Stages, flop_of, on_grid, vit_flop
from torch import Tensor, nn

from maskrestore import BDMAE
from maskrestore.lab.measure.metrics import accuracy
from maskrestore.mae.vit import VIT_PRESETS
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
            names = [contender for contender in arguments.contenders if says_something(contender, case)]
            if not names:
                print(f"{name}: nothing to time, its labels are made up and decide what {arguments.contenders} do")
                continue
            rows.append(measure(case, names, arguments.repeats))
            print("\n".join(rows_of(rows[-1])), flush=True)
            if arguments.out is not None:  # row by row: a run that is stopped leaves what it has
                arguments.out.write_text(json.dumps(record, indent=2) + "\n")
                arguments.out.with_suffix(".md").write_text(table(record))
    print("\n" + table(record))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES[:3]))
    parser.add_argument("--batches", nargs="+", type=int, default=[1], help="images of a call at 224")
    parser.add_argument("--tiny-images", type=int, default=64, help="images of a call at 32")
    parser.add_argument("--triggered-share", type=float, default=0.1, help="of the street signs")
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
        help="cpu: of all cores, where others use them, too",
    )
    parser.add_argument("--threads", type=int, help="of torch; as many as it likes unless given")
    parser.add_argument("--note", default="", help="goes into the record: what else the machine was doing, say")
    parser.add_argument("--out", type=Path, help="of the record")
    return parser


def measure(case: Case, names: Sequence[str], repeats: int) -> dict[str, Any]:
    """Run every contender in every repeat. Returns the row of the record."""
    runs = {name: make_run(name, case) for name in names}
    seconds: dict[str, list[float]] = {name: [] for name in names}
    outcomes: dict[str, Outcome] = {}
    # Where bfloat16 is not fast nothing computes in it, and its rate would take minutes to find.
    precisions = ["float32", fast_arithmetic(case.device), *(["int8"] if any("int8" in name for name in names) else [])]
    rates: dict[str, list[float]] = {precision: [] for precision in precisions}
    for name, run in runs.items():
        if name != AUTHORS or case.name.startswith("tiny"):  # a warm-up at 224 would cost minutes
            # On a GPU all: what is done for the first time with a number of images, or of masks, takes longer there.
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
        **{name: summary(case, outcome) for name, outcome in outcomes.items()},
    }
    for name in [name for name in names if name != AUTHORS]:
        if case.truth is not None:
            row[name]["gflop_per_image_as"] = gflop_at_224(case, outcomes[name])
        row[name]["profile"] = on_one_thread(lambda name=name: profile(case, name))
        if AUTHORS in runs:
            pairs = zip(seconds[AUTHORS], seconds[name], strict=True)
            row[name]["times_authors"] = round(statistics.median(theirs / ours for theirs, ours in pairs), 2)
    return row


def summary(case: Case, outcome: Outcome) -> dict[str, Any]:
    """What a contender asked for, and how good its answers are."""
    found: dict[str, Any] = {
        "queries_per_image": round(float(outcome.queries.double().mean()), 2),
        "passes_per_image": round(outcome.passes.total() / len(case.images), 2),
        "rates": rates_of(case.truth, outcome.labels),
    }
    if case.truth is not None and not case.truth.triggered.all():
        found["queries_median_clean"] = statistics.median(outcome.queries[~case.truth.triggered].tolist())
    return found


def rates_of(truth: Truth | None, labels: Tensor) -> dict[str, Any]:
    """Clean images and triggered ones with their true label, and triggered ones with the attacker's; without images
    of a kind, without its rate."""
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
    """What a ViT at 224 would take for one image if its masks left the same shares of the tokens visible.

    Calculated, not run: nothing says that a ViT's restorations would need the same passes.
    """
    grid = int(case.network.grid)  # type: ignore[arg-type]
    found = {}
    for name in ("base", "large"):
        config = VIT_PRESETS[name]
        flop = vit_flop(config, on_grid(outcome.passes, grid, config.grid))
        found[name] = round(flop / 1e9 / len(case.images), 1)
    return found


def matmul_rate(precision: str, clock: Clock) -> float:
    """GFLOP/s of the best of a few matrix products, of the shapes that ViT-B has and a large square one.

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
    """Call it with a single thread of PyTorch: micro-batches that run side by side would share the clocks."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return function()
    finally:
        torch.set_num_threads(before)


def profile(case: Case, name: str) -> dict[str, Any]:
    """One more run, with clocks on the parts: their shares, and the operations of the network over its time, beside
    the rate of matrix products now."""
    contender = CONTENDERS[name]
    restorer, config = case.restorer(contender.precision), contender.config(case)
    network: nn.Module = restorer.network  # type: ignore[assignment]
    classifier = case.classifier()
    if case.device != "cpu":
        BDMAE(restorer, config).purify(case.images, classifier)  # so that nothing is recorded while clocks run
    adapter = type(classifier)  # clocked as it is: a function around it would be asked on the CPU
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
