from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
import torch

from maskrestore.runtime.threads import map_on_cores, on_one_core


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
def test_small_work_stays_on_one_core_and_the_number_comes_back() -> None:
    seen: list[int] = []

    def work() -> None:
        seen.append(torch.get_num_threads())
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), on_one_core():
        work()
    assert seen == [1]
    assert torch.get_num_threads() == 3
