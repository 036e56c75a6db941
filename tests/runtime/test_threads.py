from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Iterator

import pytest
import torch

from maskrestore.runtime.threads import map_on_cores, run_on_one_core


@pytest.fixture
def three_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("three_threads")
def test_calls_run_side_by_side_on_one_core_each() -> None:
    meeting = threading.Barrier(3, timeout=20)  # passed only when three calls are under way at once

    def call(number: int) -> tuple[int, int]:
        meeting.wait()
        return number, torch.get_num_threads()

    assert map_on_cores(call, range(6)) == [(number, 1) for number in range(6)]
    assert torch.get_num_threads() == 3


def test_with_one_thread_everything_stays_in_the_callers() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        assert map_on_cores(lambda _: threading.current_thread(), range(2)) == [threading.current_thread()] * 2
    finally:
        torch.set_num_threads(before)


@pytest.mark.usefixtures("three_threads")
def test_threads_that_start_later_keep_the_number_of_the_caller() -> None:
    map_on_cores(lambda number: number, range(6))
    seen: list[int] = []
    later = threading.Thread(target=lambda: seen.append(torch.get_num_threads()))
    later.start()
    later.join()
    assert seen == [3]


@pytest.mark.usefixtures("three_threads")
def test_an_exception_reaches_the_caller() -> None:
    with pytest.raises(ZeroDivisionError):
        map_on_cores(lambda number: 1 // number, [1, 0, 2])


@pytest.mark.usefixtures("three_threads")
def test_small_work_runs_on_one_core_and_the_number_of_the_caller_stays() -> None:
    assert run_on_one_core(torch.get_num_threads) == 1
    with pytest.raises(ZeroDivisionError):
        run_on_one_core(lambda: 1 // 0)
    assert torch.get_num_threads() == 3


@pytest.mark.usefixtures("three_threads")
def test_work_within_work_stays_on_its_core() -> None:
    assert map_on_cores(lambda _: map_on_cores(lambda _: torch.get_num_threads(), [0, 0]), [0, 0]) == [[1, 1], [1, 1]]


@pytest.mark.usefixtures("three_threads")
def test_several_callers_at_once_get_their_own_results_and_keep_their_number() -> None:
    found: dict[int, list[int]] = {}
    numbers: list[int] = []

    def call(caller: int) -> None:
        for _ in range(20):
            found[caller] = map_on_cores(lambda number: 100 * caller + number, range(8))
        numbers.append(torch.get_num_threads())

    callers = [threading.Thread(target=call, args=(caller,)) for caller in range(4)]
    for one in callers:
        one.start()
    for one in callers:
        one.join()
    assert found == {caller: [100 * caller + number for number in range(8)] for caller in range(4)}
    assert numbers == [3] * 4


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.usefixtures("three_threads")
def test_a_forked_process_has_a_pool_of_its_own() -> None:
    assert map_on_cores(lambda number: number, range(3)) == [0, 1, 2]
    with multiprocessing.get_context("fork").Pool(1) as pool:
        assert pool.apply_async(_sum_on_cores).get(timeout=60) == 45


def _sum_on_cores() -> int:
    return sum(map_on_cores(lambda number: number, range(10)))
