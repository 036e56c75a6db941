"""How much the gateway costs beside the library, alone and under load, and what a greedy tenant does to another.

    python -m benchmarks.gateway --out benchmarks/results/speed/gateway.json
    python -m benchmarks.gateway --mlserver .venv-peers/mlserver --out benchmarks/results/speed/gateway-mlserver.json
    python -m benchmarks.gateway --soak 1800 --out benchmarks/results/speed/gateway-soak.json

The gateway is a process of its own with the packaged victim of the street signs in it, or with an MLServer behind it
that runs this victim; restorer ``mae-tiny-32``, profile ``fast``. Clients are threads of this process. The pictures are
rendered signs, a tenth of them with the trigger. Everything is measured in turns with the library, which asks the same
model, so that both see the same machine:

- images a second, of one call and of 64 clients;
- the seconds of one image alone;
- the latency of images that come at random times, at 70 % of the library's images a second: the library takes all
  that wait in one call, with one thread;
- the seconds of one client of a modest tenant, while another tenant has as many clients and while it has ten times as
  many.

With ``--soak`` only that load is sent, for so many seconds, and the memory of the gateway is read every ten.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import queue
import statistics
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import httpx
from benchmarks.gateway_processes import KEYS, Running, mlserver, serving

from maskrestore import BDMAE, HttpClassifier, ModuleClassifier  # isort: skip - before PyTorch: it limits how long threads spin
import torch
from torch import Tensor

from maskrestore.classifiers.open_inference_messages import write_message
from maskrestore.lab.data.signs import load_signs
from maskrestore.lab.measure.run import choose_images, triggered_images
from maskrestore.lab.victims import load_packaged_victim
from maskrestore.runtime.environment import current_environment
from maskrestore.types import Classifier, Purification

Library = Callable[[Tensor], Purification]
"""The library itself: purifies images ``(N, C, H, W)`` or ``(C, H, W)``."""

CLIENTS = 64
ALONE = 40
"""Images that are sent one after the other."""
LOAD = 0.7


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=20.0, help="for each measurement of latencies and tenants")
    parser.add_argument("--mlserver", type=Path, help="environment with mlserver and onnxruntime: it runs the model")
    parser.add_argument("--soak", type=float, help="send this many seconds of load, and watch the memory")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    images = signs(arguments.images)
    defense = BDMAE("mae-tiny-32", "fast", key="benchmark")
    with mlserver(arguments.mlserver) if arguments.mlserver else nullcontext() as upstream:
        classifier: Classifier = (
            HttpClassifier(upstream) if upstream else ModuleClassifier(load_packaged_victim("signs-badnets").network)
        )

        def purify(some: Tensor) -> Purification:
            return defense.purify(some, classifier)

        purify(images[:8])
        with serving(upstream) as gateway, httpx.Client(timeout=120, trust_env=False) as client:
            ask(client, gateway, images[0], "modest")
            if arguments.soak:
                found: dict[str, Any] = {"soak": soak(gateway, images, purify, arguments.soak)}
            else:
                measured = [
                    compared(client, gateway, images, purify, arguments.seconds) for _ in range(arguments.repeats)
                ]
                found = {"rows": measured, "summary": summary(measured)}
    print(json.dumps(found.get("summary", found), indent=2))
    record: dict[str, Any] = {
        "benchmark": "gateway", "model": "MLServer" if upstream else "in the process", "images": len(images),
        "clients": CLIENTS, **found, "environment": dataclasses.asdict(current_environment()),
    }  # fmt: skip
    if arguments.out is not None:
        arguments.out.write_text(json.dumps(record, indent=2) + "\n")


def signs(count: int) -> Tensor:
    """Rendered signs ``(N, 3, 32, 32)`` in [0, 1], a tenth of them with the trigger of the packaged victim."""
    test, attack = load_signs("test", count=count), load_packaged_victim("signs-badnets").attack
    pixels = test.images[:]
    images = pixels.float() / 255
    rows = choose_images(test.labels, count // 10, 0, attack.eligible(test.labels))
    images[rows] = triggered_images(pixels[rows], attack)
    return images


def compared(
    client: httpx.Client, gateway: Running, images: Tensor, purify: Library, duration: float
) -> dict[str, float]:
    """One repeat of all measurements."""
    library = rate(lambda: purify(images), len(images))
    throughput = rate(lambda: ask_all(client, gateway, images), len(images))
    pairs = []
    for image in images[:ALONE]:
        here = seconds(lambda image=image: purify(image))
        time.sleep(0.05)  # the library's threads still spin for a moment after their work, and there are two cores
        pairs.append((here, seconds(lambda image=image: ask(client, gateway, image, "modest"))))
    times = arrivals(LOAD * library, duration)
    own = latencies_of_library(images, purify, times)
    through = latencies_of_gateway(client, gateway, images, times)
    shares = {count: modest_seconds(gateway, images, count, duration) for count in (1, 10)}
    row = {
        "library_images_per_second": library,
        "gateway_images_per_second": throughput,
        "library_seconds_alone": statistics.median(one for one, _ in pairs),
        "gateway_seconds_alone": statistics.median(one for _, one in pairs),
        "overhead_seconds_alone": statistics.median(two - one for one, two in pairs),
        "library_p50_at_70": percentile(own, 50),
        "library_p99_at_70": percentile(own, 99),
        "gateway_p50_at_70": percentile(through, 50),
        "gateway_p99_at_70": percentile(through, 99),
        "modest_seconds_beside_1_client": shares[1],
        "modest_seconds_beside_10_clients": shares[10],
    }
    print(json.dumps({name: round(value, 4) for name, value in row.items()}), flush=True)
    return row


def summary(rows: list[dict[str, float]]) -> dict[str, float]:
    """Medians over the repeats of what the gateway is held to."""

    def median(value: Callable[[dict[str, float]], float]) -> float:
        return statistics.median(map(value, rows))

    return {
        "throughput_share": median(lambda row: row["gateway_images_per_second"] / row["library_images_per_second"]),
        "overhead_seconds_alone": median(lambda row: row["overhead_seconds_alone"]),
        "p99_ratio_at_70": median(lambda row: row["gateway_p99_at_70"] / row["library_p99_at_70"]),
        "slowed_by_10_clients": median(
            lambda row: row["modest_seconds_beside_10_clients"] / row["modest_seconds_beside_1_client"] - 1
        ),
    }


def soak(gateway: Running, images: Tensor, purify: Library, duration: float) -> dict[str, Any]:
    """Load for a long time: the gateway's memory in MiB every ten seconds, and the images that were answered."""
    library = rate(lambda: purify(images), len(images))
    memory, end = list[float](), threading.Event()

    def watch() -> None:
        while not end.wait(10):
            memory.append(round(gateway.memory(), 1))

    watching = threading.Thread(target=watch)
    watching.start()
    with httpx.Client(timeout=120, trust_env=False) as client:
        found = latencies_of_gateway(client, gateway, images, arrivals(LOAD * library, duration), drop=True)
    end.set()
    watching.join()
    third = max(1, len(memory) // 3)
    return {
        "seconds": duration,
        "answered": len(found),
        "p99": percentile(found, 99),
        "memory_mib": memory,
        "memory_mib_first_third": statistics.mean(memory[:third]),
        "memory_mib_last_third": statistics.mean(memory[-third:]),
    }


def arrivals(per_second: float, duration: float) -> list[float]:
    """Seconds at which images come, exponentially distributed gaps between them."""
    generator = torch.Generator().manual_seed(0)
    gaps = -torch.rand(max(1, round(per_second * duration)), generator=generator, dtype=torch.float64).log()
    times: list[float] = (gaps.cumsum(0) / per_second).tolist()
    return times


def latencies_of_library(images: Tensor, purify: Library, times: list[float]) -> list[float]:
    """Seconds from arrival to answer, if one thread takes all images that wait in one call."""
    waiting: queue.SimpleQueue[int | None] = queue.SimpleQueue()
    found, started = list[float](), time.perf_counter()

    def work() -> None:
        while (first := waiting.get()) is not None:
            taken = [first]
            while not waiting.empty() and (another := waiting.get()) is not None:
                taken.append(another)
            purify(images[[number % len(images) for number in taken]])
            now = time.perf_counter() - started
            found.extend(now - times[number] for number in taken)

    worker = threading.Thread(target=work)
    worker.start()
    for number, moment in enumerate(times):
        time.sleep(max(0.0, started + moment - time.perf_counter()))
        waiting.put(number)
    while len(found) < len(times):
        time.sleep(0.01)
    waiting.put(None)
    worker.join()
    return found


def latencies_of_gateway(
    client: httpx.Client, gateway: Running, images: Tensor, times: list[float], *, drop: bool = False
) -> list[float]:
    """Seconds from arrival to answer of requests with one image each.

    drop: do not send, after the last arrival, what waits for a client. A machine that others use, too, may lag behind.
    """
    started = time.perf_counter()

    def send(number: int) -> float:
        ask(client, gateway, images[number % len(images)], "modest")
        return time.perf_counter() - started - times[number]

    with ThreadPoolExecutor(CLIENTS) as pool:
        sent = []
        for number, moment in enumerate(times):
            time.sleep(max(0.0, started + moment - time.perf_counter()))
            sent.append(pool.submit(send, number))
        pool.shutdown(cancel_futures=drop)
        return [one.result() for one in sent if not one.cancelled()]


def ask(client: httpx.Client, gateway: Running, image: Tensor, tenant: str) -> None:
    """Have one image ``(3, 32, 32)`` labelled."""
    content, headers = write_message({}, "inputs", [("input-0", "FP32", image[None].numpy(), True)])
    while True:
        answer = client.post(gateway.infer, content=content, headers={**headers, "X-API-Key": KEYS[tenant]})
        if answer.status_code != 429:
            answer.raise_for_status()
            return
        time.sleep(float(answer.headers["Retry-After"]))


def ask_all(client: httpx.Client, gateway: Running, images: Tensor) -> None:
    """Have images labelled, by many clients at once."""
    with ThreadPoolExecutor(CLIENTS) as pool:
        for _ in pool.map(lambda image: ask(client, gateway, image, "modest"), images):
            pass


def modest_seconds(gateway: Running, images: Tensor, greedy: int, duration: float) -> float:
    """The median seconds for an image of a tenant with one client, beside ``greedy`` clients of another tenant."""
    end = threading.Event()

    def send() -> None:
        with httpx.Client(timeout=120, trust_env=False) as client:
            while not end.is_set():
                for image in images:
                    if not end.is_set():
                        ask(client, gateway, image, "greedy")

    with ThreadPoolExecutor(greedy) as pool, httpx.Client(timeout=120, trust_env=False) as client:
        for _ in range(greedy):
            pool.submit(send)
        time.sleep(1.0)
        found, started = [], time.perf_counter()
        for image in itertools.cycle(images):
            taken = seconds(lambda image=image: ask(client, gateway, image, "modest"))
            since = time.perf_counter() - started
            if since > duration / 3:  # until then, what was begun before it came is finished
                found.append(taken)
            if since > duration:
                break
        end.set()
    return statistics.median(found)


def percentile(values: list[float], percent: int) -> float:
    """The smallest value that is at least as large as this percentage of all."""
    return sorted(values)[max(0, -(-len(values) * percent // 100) - 1)]


def rate(work: Callable[[], object], count: int) -> float:
    """Images a second."""
    return count / seconds(work)


def seconds(work: Callable[[], object]) -> float:
    """How long it takes."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
