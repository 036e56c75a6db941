"""Pictures of concurrent requests share their rounds, and each result is the same bits as alone."""

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor

from fakes import MeanRestorer, PatchTriggerClassifier, colour_labels, plain_images
from maskrestore import BDMAE, load_restorer
from maskrestore.classifiers.callable import CallableClassifier
from maskrestore.defense.batching import Limits
from maskrestore.gateway.errors import OverloadedError
from maskrestore.gateway.queues import FairQueue, QueuedPicture
from maskrestore.gateway.scheduler import Purified, Scheduler

FAR = float("inf")
MANY = Limits(images=64, pixels=2**19, masked_pixels=2**19)


@contextmanager
def scheduler(
    defense: BDMAE, classifier: Any, limits: Limits = MANY, *, most: int = 256, lines: int = 1
) -> Iterator[Scheduler]:
    made = Scheduler("test", lambda: defense.pipeline(classifier), FairQueue(most, 2**24), limits, lines=lines)
    try:
        yield made
    finally:
        made.close()


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def assert_same(found: list[Future[Purified]], expected: Any) -> None:
    for place, future in enumerate(found):
        one = future.result(30).purification
        assert torch.equal(one.images[0], expected.images[place])
        assert torch.equal(one.labels[0], expected.labels[place])
        assert torch.equal(one.queries[0], expected.queries[place])
        assert torch.equal(one.scores[0], expected.scores[place])


@pytest.mark.parametrize("lines", [1, 2])
def test_pictures_that_join_at_any_time_get_the_bits_of_the_library(lines: int) -> None:
    attack = PatchTriggerClassifier()
    images = plain_images(24, size=32, seed=5)
    images[::3] = attack.stamp(images[::3])
    restorer = load_restorer("mae-tiny-32")
    defense = BDMAE(restorer, "fast", key=b"secret")
    expected = defense.purify(images, attack)
    assert len(expected.queries.unique()) > 1, "some leave early, some late"
    generator = torch.Generator().manual_seed(0)
    with scheduler(defense, attack, lines=lines) as running:
        futures: list[Future[Purified]] = []
        for image in images:
            futures += running.submit("one", [image], FAR)
            time.sleep(0.02 * float(torch.rand(1, generator=generator)))
        assert_same(futures, expected)


def test_pictures_of_several_sizes_and_tenants_share_a_pipeline() -> None:
    defense = BDMAE(MeanRestorer(), "fast", key=b"secret")
    small, large = plain_images(6), plain_images(6, size=24)
    with scheduler(defense, colour_labels, Limits(images=4, pixels=None, masked_pixels=2**19)) as running:
        futures = [running.submit(name, [*some], FAR) for name, some in (("a", small), ("b", large))]
        for found, some in zip(futures, (small, large), strict=True):
            assert_same(found, defense.purify(some, colour_labels))


class Slow:
    """Holds its answers back until it is let go."""

    def __init__(self) -> None:
        self.asked = threading.Event()
        self.go = threading.Event()
        self.pictures = 0

    def __call__(self, images: Tensor) -> Tensor:
        self.asked.set()
        self.pictures += len(images)
        assert self.go.wait(20)
        return colour_labels(images)


def test_a_picture_that_nobody_waits_for_frees_its_place_and_asks_no_more() -> None:
    slow = Slow()
    defense = BDMAE(MeanRestorer(), "fast", key=b"secret")
    with scheduler(defense, slow, Limits(images=1, pixels=None, masked_pixels=2**19)) as running:
        (first,) = running.submit("a", [plain_images(1)[0]], FAR)
        assert slow.asked.wait(20)
        second, third = running.submit("a", [*plain_images(2, seed=1)], FAR)
        assert (running.working, running.waiting) == (1, 2)
        assert second.cancel()
        assert running.waiting == 1
        assert first.cancel()
        slow.go.set()
        assert third.result(20).purification.labels.tolist() == colour_labels(plain_images(2, seed=1)[1:]).tolist()
        alone = int(third.result().purification.queries)
        assert slow.pictures == alone + 1, "the first picture asked one question, the second none"


def test_two_lines_share_the_places_and_an_idle_one_takes_over() -> None:
    places = threading.Semaphore(0)
    together, most = [0], [0]

    def classify(images: Tensor) -> Tensor:
        together[0] += 1
        most[0] = max(most[0], together[0])
        assert places.acquire(timeout=20)
        together[0] -= 1
        return colour_labels(images)

    images = plain_images(6)
    defense = BDMAE(MeanRestorer(), "fast", key=b"secret")
    with scheduler(defense, CallableClassifier(classify), Limits(2, None, 2**19), lines=2) as running:
        futures = running.submit("a", [images[0]], FAR)
        until(lambda: together[0] == 1)
        futures += running.submit("a", [*images[1:]], FAR)
        until(lambda: together[0] == 2)
        assert (running.working, running.waiting) == (2, 4)
        places.release(10_000)
        assert_same(futures, defense.purify(images, colour_labels))
    assert most[0] == 2, "both lines asked at the same time"


def test_a_full_queue_says_when_to_come_back() -> None:
    slow = Slow()
    with scheduler(BDMAE(MeanRestorer(), "fast", key=0), slow, Limits(1, None, 2**19), most=2) as running:
        running.submit("a", [plain_images(1)[0]], FAR)
        assert slow.asked.wait(20)
        running.submit("a", [*plain_images(2)], FAR)
        with pytest.raises(OverloadedError, match="3 pictures are before these") as error:
            running.submit("a", [plain_images(1)[0]], FAR)
        assert error.value.retry_after >= 1
        (other,) = running.submit("b", [plain_images(1)[0]], FAR)
        slow.go.set()
        assert other.result(20)


def test_what_would_not_be_ready_in_time_is_refused_and_the_rest_is_answered() -> None:
    def classify(images: Tensor) -> Tensor:
        time.sleep(0.02)
        return colour_labels(images)

    one_by_one = Limits(images=1, pixels=None, masked_pixels=2**19)
    with scheduler(BDMAE(MeanRestorer(), "fast", key=0), CallableClassifier(classify), one_by_one) as running:
        for future in running.submit("a", [*plain_images(20)], FAR):
            future.result(30)  # now it is known how long a picture takes
        deadline = time.monotonic() + 1.0
        futures: list[Future[Purified]] = []

        def fill() -> None:
            for _ in range(200):
                futures.extend(running.submit("a", [plain_images(1)[0]], deadline))

        with pytest.raises(OverloadedError) as error:
            fill()
        assert len(futures) >= 3
        assert error.value.retry_after >= 1
        futures += running.submit("b", [plain_images(1)[0]], deadline)  # it does not wait for all of them
        for future in futures:
            future.result(30)
        assert time.monotonic() < deadline + 1.0


def test_closing_finishes_what_was_accepted() -> None:
    with scheduler(BDMAE(MeanRestorer(), "fast", key=0), colour_labels) as running:
        futures = running.submit("a", [*plain_images(20)], FAR)
    assert all(future.done() for future in futures)
    with pytest.raises(OverloadedError):
        running.submit("a", [plain_images(1)[0]], FAR)


def test_a_classifier_that_fails_at_one_picture_costs_that_picture() -> None:
    images = plain_images(3)
    bad = images[1]

    def classify(pictures: Tensor) -> Tensor:
        if any(torch.equal(one, bad) for one in pictures):
            raise ValueError("not this one")
        return colour_labels(pictures)

    with scheduler(BDMAE(MeanRestorer(), "fast", key=0), CallableClassifier(classify)) as running:
        good, failed, other = running.submit("a", [*images], FAR)
        assert good.result(20)
        assert other.result(20)
        assert "not this one" in str(failed.exception(20))


class Breaking(MeanRestorer):
    """Fails in its first calls, also when pictures join."""

    def __init__(self, calls: int) -> None:
        super().__init__()
        self.left = calls

    def restore(self, images: Tensor, hidden: Tensor) -> Tensor:
        self.left -= 1
        if self.left >= 0:
            raise MemoryError("no memory")
        return super().restore(images, hidden)


def test_a_restorer_that_fails_costs_the_pictures_of_that_round_and_no_later_ones() -> None:
    with scheduler(BDMAE(Breaking(2), "fast", key=0), colour_labels) as running:
        (first,) = running.submit("a", [plain_images(1)[0]], FAR)
        assert isinstance(first.exception(20), MemoryError)
        (second,) = running.submit("a", [plain_images(1)[0]], FAR)
        assert isinstance(second.exception(20), MemoryError)
        (third,) = running.submit("a", [plain_images(1)[0]], FAR)
        assert third.result(20)


def waiting(tenant: str, side: int = 16) -> QueuedPicture:
    return QueuedPicture(image=torch.zeros(3, side, side), tenant=tenant, deadline=FAR, accepted=0.0)


def test_tenants_take_turns() -> None:
    queue = FairQueue(100, 2**24)
    queue.add([waiting("greedy") for _ in range(50)])
    queue.add([waiting("modest") for _ in range(3)])
    queue.add([waiting("other")])
    taken = queue.take([], 8, None)
    assert [one.tenant for one in taken] == ["greedy", "modest", "other", "greedy", "modest", "greedy", "modest"]
    assert len(queue) == 47


def test_a_tenant_gets_its_share_of_the_places_and_not_more() -> None:
    queue = FairQueue(100, 2**24)
    queue.add([waiting("greedy") for _ in range(50)])
    working = queue.take([], 8, None)
    assert len(working) == 8, "all places, while nobody else is there"
    queue.add([waiting("modest") for _ in range(3)])
    assert [one.tenant for one in queue.take(working[:6], 8, None)] == ["modest", "modest"]


def test_a_tenant_that_sends_one_picture_after_another_is_not_crowded_out(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr("maskrestore.gateway.queues.time.monotonic", lambda: now)
    queue = FairQueue(100, 2**24)
    queue.add([waiting("greedy") for _ in range(50)])
    queue.add([waiting("modest")])
    working = queue.take([], 8, None)
    assert [one.tenant for one in working] == ["greedy", "modest"], "each half of the machine"
    now += 0.5
    assert queue.take(working[:1], 8, None) == [], "between two pictures of the modest tenant"
    queue.add([waiting("modest")])
    assert [one.tenant for one in queue.take(working[:1], 8, None)] == ["modest"]
    now += 1.5
    assert len(queue.take(working[:1], 8, None)) == 7, "all places again, once the other has gone"


def test_large_pictures_wait_until_there_is_room_and_are_not_overtaken() -> None:
    queue = FairQueue(100, 2**24)
    queue.add([waiting("a"), waiting("a", side=64), waiting("a")])
    first = queue.take([], 8, 1000)
    assert [one.pixels for one in first] == [256]
    assert queue.take(first, 8, 1000) == []
    assert [one.pixels for one in queue.take([], 8, 1000)] == [64 * 64], "alone"


def test_queues_are_bounded_by_pixels_too() -> None:
    queue = FairQueue(100, 1000)
    assert queue.add([waiting("a", side=64)]), "one may always wait"
    assert not queue.add([waiting("a")])
    assert queue.add([waiting("b"), waiting("b")])
