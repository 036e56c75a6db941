"""What a Ray cluster costs beside the command on one machine, and how a job grows with its images.

    python -m benchmarks.cluster --images 2000 --workers 1 2 4 --out benchmarks/results/speed/cluster.json
    python -m benchmarks.cluster --growth 1000 10000 100000 --out benchmarks/results/speed/cluster-growth.json

Street signs of 32 x 32, a tenth of them with the trigger, restorer ``mae-tiny-32``, profile ``fast``, the packaged
victim. The cluster is started on this machine and ends with the program. Each run purifies all images into an empty
folder, in a process of its own.

- With ``--workers``: the library's own job with one thread and with as many as there are cores, then the cluster with
  so many workers of one thread. ``images_per_second`` counts the whole call, with the start of the workers;
  ``steady_images_per_second`` counts from the first finished part to the last.
- With ``--growth``: the peak memory of this process's job and of its workers, for each number of images, with two
  workers. Images are rows of parquet files, and so are results. So that 10^5 images take minutes, the restorer fills
  hidden tokens with a colour, and an image gets two queries: what grows or not is the same.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import json
import multiprocessing
import os
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from benchmarks.cluster_jobs import make_job, make_quick_job

from maskrestore.distributed.cluster import connect
from maskrestore.distributed.purify import ClusterJob, purify_on_cluster
from maskrestore.imaging.codec import write_png
from maskrestore.jobs import purify_folder
from maskrestore.lab.data.signs import load_signs
from maskrestore.lab.victims import load_packaged_victim
from maskrestore.runtime.environment import current_environment

_TRIGGERED = 10
"""One image of so many has the trigger."""
_RENDERED = 1000
"""Different signs; a larger job has each of them several times."""
_SHARD = 5000
_MIB = 2**20


def main() -> None:
    arguments = _parser().parse_args()
    with tempfile.TemporaryDirectory(prefix="maskrestore-") as name:
        folder = Path(name)
        if arguments.growth:
            found = {"growth": [_growth(count, folder) for count in arguments.growth]}
        else:
            write_folder(folder / "signs", arguments.images)
            found = {"runs": _runs(arguments.workers, arguments.repeats, folder), "images": arguments.images}
    record = {"benchmark": "cluster", **found, "environment": dataclasses.asdict(current_environment("cpu"))}
    text = json.dumps(record, indent=2) + "\n"
    print(text)
    if arguments.out is not None:
        arguments.out.write_text(text)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--growth", type=int, nargs="+", help="numbers of images")
    parser.add_argument("--out", type=Path)
    return parser


def signs(count: int) -> torch.Tensor:
    """Street signs ``(count, 3, 32, 32)`` in [0, 1]."""
    victim = load_packaged_victim("signs-badnets")
    images = load_signs("test", count=count).images / 255
    images[::_TRIGGERED] = victim.attack.apply(images[::_TRIGGERED])
    return images


def write_folder(folder: Path, count: int) -> None:
    """A folder of PNG files."""
    folder.mkdir()
    for number, image in enumerate(signs(count)):
        write_png(folder / f"{number:06}.png", image)


def write_shards(folder: Path, count: int) -> None:
    """A folder of parquet files."""
    folder.mkdir()
    write_folder(folder / "pictures", min(count, _RENDERED))
    encoded = [path.read_bytes() for path in sorted((folder / "pictures").iterdir())]
    for start in range(0, count, _SHARD):
        rows = [{"bytes": encoded[row % _RENDERED], "path": None} for row in range(start, min(count, start + _SHARD))]
        pq.write_table(pa.table({"image": rows}), folder / f"{start:09}.parquet", row_group_size=500)
    for path in (folder / "pictures").iterdir():
        path.unlink()
    (folder / "pictures").rmdir()


def _runs(workers: Sequence[int], repeats: int, folder: Path) -> list[dict[str, Any]]:
    ways: list[tuple[str, int]] = [("library", 1), ("library", os.cpu_count() or 1)]
    ways += [("cluster", count) for count in workers]
    found = []
    for repeat in range(repeats):
        for number, (way, count) in enumerate(ways):
            out = folder / f"out-{repeat}-{number}"
            run = functools.partial(_library if way == "library" else _cluster, folder / "signs", out, count)
            result = {"way": way, "threads" if way == "library" else "workers": count, **in_process(run)}
            print(result, flush=True)
            found.append(result)
    return found


def _library(source: Path, out: Path, threads: int) -> dict[str, float]:
    torch.set_num_threads(threads)
    return _timed(lambda told: purify_folder(make_job(source, out), told))


def _cluster(source: Path, out: Path, workers: int, *, quick: bool = False) -> dict[str, Any]:
    making = functools.partial(make_quick_job if quick else make_job, source, out)
    plan = ClusterJob(make_job=making, workers=workers, shards=quick)
    with connect("local", cpus=workers), _Memory() as memory:
        found = _timed(lambda told: purify_on_cluster(plan, making(), told))
    return {**found, **memory.peaks}


def _timed(run: Any) -> dict[str, float]:
    told: list[tuple[float, int]] = []
    begun = time.perf_counter()
    summary = run(lambda done, total, note="": told.append((time.perf_counter(), done)))
    seconds = time.perf_counter() - begun
    assert summary.complete, summary
    (first, early), (last, late) = told[0], told[-1]
    return {
        "seconds": seconds,
        "images_per_second": summary.purified / seconds,
        "steady_images_per_second": (late - early) / (last - first) if last > first else float("nan"),
        "queries": summary.queries,
    }


def _growth(count: int, folder: Path) -> dict[str, Any]:
    source, out = folder / f"signs-{count}", folder / f"out-{count}"
    write_shards(source, count)
    result = {"images": count, **in_process(functools.partial(_cluster, source, out, 2, quick=True))}
    print(result, flush=True)
    return result


class _Memory:
    """The most memory of this process and of each worker, looked at every second."""

    def __init__(self) -> None:
        self.peaks: dict[str, float] = {"command_mib": 0.0, "worker_mib": 0.0}
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> _Memory:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._end.wait(1):
            self._note("command_mib", os.getpid())
            for process in Path("/proc").glob("[0-9]*"):
                if _command(process).startswith(b"ray::MapWorker"):
                    self._note("worker_mib", int(process.name))

    def _note(self, name: str, process: int) -> None:
        try:
            pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
        except OSError:
            return
        self.peaks[name] = max(self.peaks[name], pages * os.sysconf("SC_PAGE_SIZE") / _MIB)


def _command(process: Path) -> bytes:
    try:
        return (process / "cmdline").read_bytes()
    except OSError:
        return b""


def in_process(run: Any) -> dict[str, Any]:
    """Run in a process of its own, so that runs do not share memory or threads."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        found: dict[str, Any] = pool.apply(run)
    return found


if __name__ == "__main__":
    main()
