"""How time and memory grow with the number of images, their size, and the images worked on at a time.

    python -m benchmarks.growth --out growth.json
    python -m benchmarks.growth --counts 8 32 --sizes 32 --chunks 8 --clock cpu --out quick.json

A stream of random images, made chunk by chunk by a generator, is purified chunk by chunk: ``mae-tiny-32``, a half-width
ResNet-18, the profile ``paper``. One number is varied at a time. Each row runs in a process of its own, whose memory is
that of nothing else: ``resident_mib`` when all is loaded and one image has been purified, ``peak_mib`` the highest
while the stream ran. Memory bounded means that ``peak_mib`` depends on the size and the chunk, not on the number of
images; ``largest_by_count`` over ``smallest_by_count`` says how true that is. Exits with status 1 where it is false,
by more than 10 % and 16 MiB.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import multiprocessing
import os
import resource
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from benchmarks.stages import Clock
from torch import Tensor

from maskrestore import BDMAE, PROFILES, ModuleClassifier, load_restorer
from maskrestore.lab.measure.costs import MemoryMeter
from maskrestore.lab.victims import ResNet18
from maskrestore.runtime.environment import current_environment
from maskrestore.types import Defense

MIB = 2**20


@dataclasses.dataclass(frozen=True, kw_only=True)
class Stream:
    """A stream of images and how it is worked on."""

    count: int
    size: int
    """Pixels along each side."""
    chunk: int
    """Images made, purified and forgotten at a time."""

    def __iter__(self) -> Iterator[Tensor]:
        generator = torch.Generator().manual_seed(0)
        for start in range(0, self.count, self.chunk):
            yield torch.rand(min(self.chunk, self.count - start), 3, self.size, self.size, generator=generator)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--counts", nargs="+", type=int, default=[32, 64, 128], help="images of a stream")
    parser.add_argument("--sizes", nargs="+", type=int, default=[32, 64, 128], help="pixels along each side")
    parser.add_argument("--chunks", nargs="+", type=int, default=[1, 8, 32], help="images worked on at a time")
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall", help="cpu: where others use the machine")
    parser.add_argument("--note", default="", help="goes into the record: what else the machine was doing, say")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    rows = []
    for stream in streams(arguments.counts, arguments.sizes, arguments.chunks):
        # A fresh process: memory that an allocator keeps of earlier rows would hide the growth of later ones.
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            rows.append(pool.apply(measure, (stream, arguments.clock)))
        print(json.dumps(rows[-1]), flush=True)
    smallest, largest, bounded = growth_by_count(rows)
    record = {
        "benchmark": "growth",
        "clock": arguments.clock,
        "note": arguments.note,
        "rows": rows,
        "smallest_by_count": smallest,
        "largest_by_count": largest,
        "bounded": bounded,
        "environment": dataclasses.asdict(current_environment()),
    }
    arguments.out.write_text(json.dumps(record, indent=2) + "\n")
    print(f"peak over numbers of images: {smallest:.0f} to {largest:.0f} MiB, {'bounded' if bounded else 'GROWS'}")
    raise SystemExit(not bounded)


def streams(counts: Sequence[int], sizes: Sequence[int], chunks: Sequence[int]) -> list[Stream]:
    """Streams that differ in one thing from the first size in the first of the chunks that is not a single image."""
    chunk = next((chunk for chunk in chunks if chunk > 1), chunks[0])
    found = [Stream(count=count, size=sizes[0], chunk=chunk) for count in counts]
    found += [Stream(count=counts[0], size=size, chunk=chunk) for size in sizes]
    found += [Stream(count=counts[0], size=sizes[0], chunk=each) for each in chunks]
    return list(dict.fromkeys(found))


def measure(stream: Stream, kind: Any) -> dict[str, Any]:
    """Purify a stream in this process. Returns the row of the record."""
    torch.manual_seed(0)
    classifier = ModuleClassifier(ResNet18(10, width=32))
    defense = BDMAE(load_restorer(), PROFILES["paper"], chunk_size=stream.chunk)
    defense.purify(torch.rand(1, 3, stream.size, stream.size), classifier)
    resident, meter = _resident(), MemoryMeter()
    seconds = Clock("cpu", kind).seconds(lambda: purify(defense, stream, classifier))
    peak = meter.peak()
    assert peak is not None
    return {
        **dataclasses.asdict(stream),
        "seconds_per_image": round(seconds / stream.count, 4),
        "resident_mib": round(resident / MIB, 1),
        "peak_mib": round(peak / MIB, 1),
        "scope": meter.scope,
    }


def purify(defense: Defense, stream: Stream, classifier: ModuleClassifier) -> int:
    """Purify chunk by chunk and keep nothing but how many labels changed."""
    changed = 0
    for images in stream:
        result = defense.purify(images, classifier)
        changed += int((result.labels != result.original_labels).sum())
    return changed


def growth_by_count(rows: Sequence[dict[str, Any]]) -> tuple[float, float, bool]:
    """Lowest and highest peak of the rows that differ in the number of images only, and whether they are about equal.

    Streams of less than one chunk are left out: they are smaller than what memory is bounded by.
    """
    first = rows[0]
    peaks = [
        row["peak_mib"]
        for row in rows
        if (row["size"], row["chunk"]) == (first["size"], first["chunk"]) and row["count"] >= row["chunk"]
    ]
    smallest, largest = min(peaks), max(peaks)
    return smallest, largest, largest - smallest <= max(0.1 * smallest, 16)


def _resident() -> int:
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:  # not Linux: the highest so far
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


if __name__ == "__main__":
    main()
