"""How time and memory grow with the number of images, their size, and the number of images at a time.

    python -m benchmarks.growth --out growth.json
    python -m benchmarks.growth --counts 8 32 --sizes 32 --chunks 8 --clock cpu --out quick.json

Generates and purifies a stream of random images chunk by chunk, with ``mae-tiny-32``, a half-width ResNet-18 and the
profile ``paper``. One number is varied at a time. Each row runs in a process of its own. ``resident_mib`` is its memory
when everything is loaded and one image has been purified; ``peak_mib`` is the maximum during the stream.

Memory is bounded if ``peak_mib`` does not depend on the number of images, only on their size and the chunk. The record
holds the smallest and the largest peak over the numbers of images. The exit status is 1 if they differ by more than 10
% and more than 16 MiB.
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
    """A stream of images and the size of its chunks."""

    count: int
    size: int
    """Pixels along each side."""
    chunk: int
    """Images generated and purified at a time."""

    def __iter__(self) -> Iterator[Tensor]:
        generator = torch.Generator().manual_seed(0)
        for start in range(0, self.count, self.chunk):
            yield torch.rand(min(self.chunk, self.count - start), 3, self.size, self.size, generator=generator)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--counts", nargs="+", type=int, default=[32, 64, 128], help="images of a stream")
    parser.add_argument("--sizes", nargs="+", type=int, default=[32, 64, 128], help="pixels along each side")
    parser.add_argument("--chunks", nargs="+", type=int, default=[1, 8, 32], help="images at a time")
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall", help="cpu: for a shared machine")
    parser.add_argument("--note", default="", help="text for the record, such as the load of the machine")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    rows = []
    for stream in streams(arguments.counts, arguments.sizes, arguments.chunks):
        # In a new process, because memory that the allocator keeps from earlier rows would hide growth.
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
    """Streams that differ in one number from the first count and size, with the first chunk of more than one image."""
    chunk = next((chunk for chunk in chunks if chunk > 1), chunks[0])
    found = [Stream(count=count, size=sizes[0], chunk=chunk) for count in counts]
    found += [Stream(count=counts[0], size=size, chunk=chunk) for size in sizes]
    found += [Stream(count=counts[0], size=sizes[0], chunk=each) for each in chunks]
    return list(dict.fromkeys(found))


def measure(stream: Stream, kind: Any) -> dict[str, Any]:
    """Purify a stream in this process. Returns a row of the record."""
    torch.manual_seed(0)
    classifier = ModuleClassifier(ResNet18(10, width=32))
    defense = BDMAE(load_restorer("mae-tiny-32"), PROFILES["paper"], chunk_size=stream.chunk)
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
    """Purify a stream chunk by chunk; returns the number of labels that changed."""
    changed = 0
    for images in stream:
        result = defense.purify(images, classifier)
        changed += int((result.labels != result.original_labels).sum())
    return changed


def growth_by_count(rows: Sequence[dict[str, Any]]) -> tuple[float, float, bool]:
    """Smallest and largest peak of the rows that differ only in the number of images, and whether memory is bounded.

    Streams of less than one chunk are left out, because they need less memory than a full chunk.
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
    except OSError:  # not Linux: the maximum so far
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


if __name__ == "__main__":
    main()
