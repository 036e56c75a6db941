"""The parts of ``benchmarks.gateway`` that need no gateway."""

import statistics
import threading

import pytest
import torch
from benchmarks.gateway import arrivals, latencies_of_library, percentile, signs, summary
from torch import Tensor

from maskrestore import BDMAE, Purification
from maskrestore.lab.data.signs import load_signs
from maskrestore.lab.victims import load_packaged_victim


def test_images_come_at_random_times_at_the_wanted_rate() -> None:
    times = arrivals(50.0, 40.0)
    gaps = [later - earlier for earlier, later in zip([0.0, *times], times, strict=False)]
    assert len(times) == 2000
    assert min(gaps) > 0
    assert statistics.mean(gaps) == pytest.approx(1 / 50, rel=0.1)
    assert statistics.stdev(gaps) == pytest.approx(1 / 50, rel=0.2)  # of exponentially distributed ones


def test_percentiles() -> None:
    values = [float(value) for value in range(100, 0, -1)]
    assert (percentile(values, 50), percentile(values, 99), percentile(values, 100)) == (50, 99, 100)
    assert percentile([3.0], 99) == 3


def test_a_tenth_of_the_signs_has_the_trigger() -> None:
    images, victim = signs(40), load_packaged_victim("signs-badnets")
    with torch.no_grad():
        labels = victim.network(images).argmax(1)
    plain = load_signs("test", count=40).images[:].float() / 255
    changed = (images != plain).flatten(1).any(1)
    assert changed.sum() == 4
    assert labels[changed].tolist() == [victim.config.target] * 4


def test_the_library_takes_all_that_wait_in_one_call() -> None:
    class Anything:
        def __call__(self, images: Tensor) -> Tensor:
            return torch.zeros(len(images), dtype=torch.int64)

    calls: list[int] = []
    first = threading.Event()
    defense = BDMAE("mae-tiny-32", "fast", key=0)

    def purify(images: Tensor) -> Purification:
        calls.append(len(images))
        first.wait(0.3)
        return defense.purify(images[:1], Anything())

    found = latencies_of_library(torch.zeros(3, 3, 32, 32), purify, [0.0, 0.05, 0.1, 0.15])
    assert calls == [1, 3]
    assert len(found) == 4
    assert found[0] >= 0.3
    assert found[1] > found[2] > found[3]


def test_the_summary_has_medians_of_what_the_gateway_is_held_to() -> None:
    row = {
        "library_images_per_second": 40.0,
        "gateway_images_per_second": 36.0,
        "overhead_seconds_alone": 0.004,
        "library_p99_at_70": 0.5,
        "gateway_p99_at_70": 0.6,
        "modest_seconds_beside_1_client": 0.1,
        "modest_seconds_beside_10_clients": 0.11,
    }
    found = summary([row, {**row, "gateway_images_per_second": 30.0}, {**row, "gateway_images_per_second": 38.0}])
    assert found["throughput_share"] == pytest.approx(0.9)
    assert found["p99_ratio_at_70"] == pytest.approx(1.2)
    assert found["slowed_by_10_clients"] == pytest.approx(0.1)
