"""How fast images are purified, against the authors' schedule and against what the hardware can do.

    python -m benchmarks.speed
    python -m benchmarks.speed --cases base large --batches 1 8 32 --repeats 5 --out benchmarks/results/speed-cpu.json

All contenders of a case run in one process, one after the other in every repeat, on the same random images; a ratio is
the median of the ratios of single repeats, so that a busy machine slows both sides of it. The rate at which the
machine multiplies matrices is measured in every repeat, too. Weights are random except those of ``mae-tiny-32``. The
profile is ``paper``; the classifier is paid for but its answer replaced: on noise a random network always says the
same, and no refinement would run. It changes its mind about one restoration in ten. Prints a table, and with ``--out``
writes a JSON record and the table beside it. On a device that is not fast in bfloat16, which the table says, both sides
compute in float32, and all that ours gains is work left out and time lost between products.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from benchmarks.stages import STAGES, Clock, Stages, flop_of
from torch import Tensor, nn

from benchmarks import authors_schedule
from maskrestore import BDMAE, PROFILES, BDMAEConfig, MAERestorer, ModuleClassifier
from maskrestore.evaluation.environment import current_environment
from maskrestore.mae.checkpoints import load_network
from maskrestore.mae.vit import VIT_PRESETS, ViTMAE
from maskrestore.precision import fast_arithmetic
from maskrestore.victims import ResNet18

CASES = ("tiny-conv", "tiny-vit", "base", "large")
AUTHORS_BATCH = 64
"""Images of a batch of the authors' schedule; fewer where the benchmark has fewer."""
SUSPICIOUS = 10
"""L of the refinement of S_i: tokens that noise gives it, set through the threshold."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """Everything that the contenders share."""

    name: str
    network: nn.Module
    images: Tensor
    classifier: Callable[[Tensor], Tensor]
    config: BDMAEConfig
    clock: Clock

    @property
    def device(self) -> str:
        """Where everything runs."""
        return self.clock.device

    def restorer(self, contender: str) -> MAERestorer:
        """Of ``float32``, or of the precision that the device is fast in."""
        return _restorer(self.network, self.device, contender)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES[:3]))
    parser.add_argument("--batches", nargs="+", type=int, default=[1], help="images of a call at 224")
    parser.add_argument("--tiny-images", type=int, default=16, help="images of a call at 32")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument(
        "--contenders", nargs="+", choices=("authors", "float32", "exact"), default=["authors", "exact"]
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
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    clock = Clock(arguments.device, arguments.clock)
    print(_precision_note(fast_arithmetic(arguments.device)), flush=True)
    rows = []
    for name in arguments.cases:
        for count in [arguments.tiny_images] if name.startswith("tiny") else arguments.batches:
            case = make_case(name, count, clock)
            rows.append(measure(case, arguments.contenders, arguments.repeats))
            print(_row(rows[-1]), flush=True)
    record = {
        "benchmark": "speed",
        "fast_arithmetic": fast_arithmetic(arguments.device),
        "clock": arguments.clock,
        "note": arguments.note,
        "repeats": arguments.repeats,
        "rows": rows,
        "environment": dataclasses.asdict(current_environment(arguments.device)),
    }
    print("\n" + table(record))
    if arguments.out is not None:
        arguments.out.write_text(json.dumps(record, indent=2) + "\n")
        arguments.out.with_suffix(".md").write_text(table(record))


def make_case(name: str, count: int, clock: Clock) -> Case:
    """Networks, images and settings of a case. count: images of one call."""
    device = clock.device
    torch.manual_seed(0)
    if name.startswith("tiny"):
        network = load_network("mae-tiny-32") if name == "tiny-conv" else ViTMAE(VIT_PRESETS["tiny-32"])
        module: nn.Module = ResNet18(10, width=32)
    else:
        network = ViTMAE(VIT_PRESETS[name])
        # As cheap as can be: what is measured at 224 is the masked autoencoder.
        module = nn.Sequential(nn.Conv2d(3, 64, 16, 16), nn.ReLU(), nn.Flatten(), nn.Linear(64 * 14 * 14, 10))
    images = torch.rand(count, 3, network.image_size, network.image_size)
    network = network.to(device).eval()
    # Micro-batches that a single batch of the authors' fills: filling up is no part of their schedule.
    paid = ModuleClassifier(module, precision=fast_arithmetic(device), device=device, micro_batch=min(count, 32))

    def classifier(batch: Tensor) -> Tensor:
        paid(batch)
        return ((batch.double().mean(dim=(1, 2, 3)) * 1e7).long() % 10 == 0).long()

    config = dataclasses.replace(PROFILES["paper"], candidate_threshold=_threshold(network, images, device))
    return Case(name=name, network=network, images=images, classifier=classifier, config=config, clock=clock)


def _threshold(network: nn.Module, images: Tensor, device: str) -> float:
    """What makes ``SUSPICIOUS`` tokens of an image candidates, by a scoring of one round."""
    config = dataclasses.replace(PROFILES["paper"], rounds=1, refinement_steps=0)
    scores = BDMAE(_restorer(network, device), config).purify(images[:2], _constant).initial_image_scores
    assert scores is not None
    return float(scores.flatten(1).sort(dim=1).values[:, -SUSPICIOUS].mean())


def measure(case: Case, names: Sequence[str], repeats: int) -> dict[str, Any]:
    """Run every contender in every repeat. Returns the row of the record."""
    contenders = {name: make_contender(name, case) for name in names}
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    # Where bfloat16 is not fast nothing computes in it, and its rate would take minutes to find.
    rates: dict[str, list[float]] = {precision: [] for precision in ("float32", fast_arithmetic(case.device))}
    for name, run in contenders.items():
        if name != "authors" or case.name.startswith("tiny"):  # a warm-up at 224 would cost minutes
            run(case.images[:1])
    for _ in range(repeats):
        for name, run in contenders.items():
            seconds[name].append(case.clock.seconds(lambda run=run: run(case.images)))  # type: ignore[misc]
        for precision, found in rates.items():
            found.append(matmul_rate(getattr(torch, precision), case.clock))
    count = len(case.images)
    row: dict[str, Any] = {
        "case": case.name,
        "images": count,
        "seconds_per_image": {name: [round(value / count, 5) for value in found] for name, found in seconds.items()},
        "matmul_gflops": {precision: [round(rate) for rate in found] for precision, found in rates.items()},
    }
    for name in [name for name in names if name != "authors"]:
        row[name] = profile(case, name, {precision: statistics.median(found) for precision, found in rates.items()})
        if "authors" in contenders:
            pairs = zip(seconds["authors"], seconds[name], strict=True)
            row[name]["times_authors"] = round(statistics.median(theirs / ours for theirs, ours in pairs), 2)
    return row


def make_contender(name: str, case: Case) -> Callable[[Tensor], object]:
    """A function that purifies a batch."""
    if name == "authors":
        schedule = authors_schedule.AuthorsSchedule(
            network=case.network,
            classifier=case.classifier,
            config=case.config,
            generator=torch.Generator().manual_seed(0),
        )
        return lambda images: [schedule.purify(part) for part in images.split(AUTHORS_BATCH)]
    restorer = case.restorer(name)
    return lambda images: BDMAE(restorer, case.config).purify(images, case.classifier)


def matmul_rate(dtype: torch.dtype, clock: Clock) -> float:
    """GFLOP/s of the best of a few matrix products, of the shapes that ViT-B has and a large square one."""
    device, best = clock.device, 0.0
    large = 2048 if device == "cpu" else 8192
    for m, k, n in ((1024, 768, 3072), (1024, 3072, 768), (large, large, large)):
        a, b = torch.randn(m, k, device=device, dtype=dtype), torch.randn(n, k, device=device, dtype=dtype)
        once = lambda a=a, b=b: nn.functional.linear(a, b)  # noqa: E731
        best = max(best, 2 * m * k * n / min(clock.seconds(once) for _ in range(6)) / 1e9)
    return best


def profile(case: Case, contender: str, rates: dict[str, float]) -> dict[str, Any]:
    """One more run, with clocks on the parts: their shares, and the operations of the network over its time.

    rates: GFLOP/s of matrix products in each precision.
    """
    restorer = case.restorer(contender)
    network: nn.Module = restorer.network  # type: ignore[assignment]
    with Stages(network, case.clock) as stages:
        classifier = stages.timed("classifier", case.classifier)
        total = case.clock.seconds(lambda: BDMAE(restorer, case.config).purify(case.images, classifier))
    gflop = flop_of(network, stages.passes) / 1e9
    return {
        "precision": restorer.precision,
        "shares": {stage: round(value / total, 3) for stage, value in stages.shares(total).items()},
        "passes_per_image": round(sum(stages.passes.values()) / len(case.images), 1),
        "gflop_per_image": round(gflop / len(case.images), 1),
        "network_gflops": round(gflop / stages.network_seconds),
        "share_of_matmul_rate": round(gflop / stages.network_seconds / rates[restorer.precision], 3),
    }


def table(record: dict[str, Any]) -> str:
    """The record as Markdown."""
    lines = [
        "| case | images | s/image, authors | s/image, ours | times as fast | passes | TFLOP an image | GFLOP/s | "
        "of the matmul rate | " + " | ".join(STAGES) + " |",
        "|---" * (9 + len(STAGES)) + "|",
        *(_row(row) for row in record["rows"]),
    ]
    environment = record["environment"]
    where = f"{environment['accelerator'] or environment['device']}, {environment['threads']} threads"
    foot = f"{where}, torch {environment['libraries']['torch']}, commit {environment['commit']}. {record['note']}"
    head = f"Medians of {record['repeats']} interleaved repeats, {record['clock']} time"
    return "\n".join(lines) + f"\n\n{head}; {foot}\n\n{_precision_note(record['fast_arithmetic'])}\n"


def _precision_note(fast: str) -> str:
    if fast == "bfloat16":
        return "This device is fast in bfloat16: ours computes in it, the authors' schedule in float32."
    return (
        "This device is not fast in bfloat16: both sides compute in float32, and ratios come from work left out and "
        "from losing less time between matrix products alone."
    )


def _row(row: dict[str, Any]) -> str:
    lines = []
    for name in ("float32", "exact"):
        if name not in row:
            continue
        ours, seconds = row[name], row["seconds_per_image"]
        theirs = f"{statistics.median(seconds['authors']):.3f}" if "authors" in seconds else "-"
        cells = [
            f"{row['case']} ({ours['precision']})",
            row["images"],
            theirs,
            f"{statistics.median(seconds[name]):.3f}",
            ours.get("times_authors", "-"),
            ours["passes_per_image"],
            f"{ours['gflop_per_image'] / 1000:.3f}",
            ours["network_gflops"],
            f"{ours['share_of_matmul_rate']:.0%}",
            *(f"{ours['shares'].get(stage, 0):.0%}" for stage in STAGES),
        ]
        lines.append("| " + " | ".join(str(cell) for cell in cells) + " |")
    return "\n".join(lines)


def _restorer(network: nn.Module, device: str, contender: str = "exact") -> MAERestorer:
    precision = "float32" if contender == "float32" else "auto"
    return MAERestorer(network, precision=precision, device=device)  # type: ignore[arg-type]


def _constant(images: Tensor) -> Tensor:
    return torch.zeros(len(images), dtype=torch.long)


if __name__ == "__main__":
    main()
