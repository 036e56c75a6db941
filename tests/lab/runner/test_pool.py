import dataclasses
import functools
import os
import signal
import threading
import time

import pytest
import torch
from test_run_cells import CASES, cells, states

from maskrestore.lab.runner.pool import available_cores, threads_of_a_worker
from maskrestore.lab.runner.results_folder import ResultsFolder
from maskrestore.lab.runner.run_cells import run_cells, run_cells_in_processes
from maskrestore.lab.runner.scheduler import Scheduler
from toy_resources import ToyResources

in_processes = functools.partial(run_cells_in_processes, start_method="fork")  # quicker to start than "spawn"


def without_costs(record):
    """What must not depend on who measured."""
    return dataclasses.replace(record, created="", cost=None, environment=None)


def same_records(wanted, folder):
    """The records in ``many``, which are those in ``one`` but for what they cost."""
    cells = [cell for cell in wanted if not cell.variant.detects]
    many, one = ([ResultsFolder(folder / name).record_of(cell) for cell in cells] for name in ("many", "one"))
    assert list(map(without_costs, many)) == list(map(without_costs, one))
    return many


def test_processes_make_the_same_records_as_one(tmp_path):
    wanted = cells("none", "blur-weak", "flip", "scale-up", repeats=2)
    toy = ToyResources(tmp_path, trained=False)
    notes = []
    outcomes = in_processes(
        wanted,
        tmp_path / "many",
        functools.partial(toy.make, train=True),
        jobs=3,
        progress=lambda worker, text: notes.append((worker, text)),
    )
    assert states(outcomes) == ["measured"] * len(wanted)
    assert [outcome.cell for outcome in outcomes] == wanted
    run_cells(wanted, tmp_path / "one", toy.make())
    assert same_records(wanted, tmp_path)
    # Each victim was trained once, after the clean one that it starts from.
    victims = {one.digest() for cell in wanted for one in (cell.victim, cell.victim.clean())}
    assert sorted(toy.trainings) == sorted(victims)
    for cell in wanted:
        places = [toy.trainings.index(one.digest()) for one in (cell.victim.clean(), cell.victim)]
        assert places == sorted(places)
    assert {worker for worker, _ in notes} == {0, 1, 2}
    assert any(text.startswith("training cifar10 clean: 50 %") for _, text in notes)
    assert not list(tmp_path.rglob("*.lock"))


def test_started_as_users_start_it(tmp_path):
    toy = ToyResources(tmp_path)
    wanted = cells("none", cases=CASES)
    outcomes = run_cells_in_processes(wanted, tmp_path, toy.make, jobs=1)
    assert states(outcomes) == ["measured", "measured"]


def test_a_process_that_dies_fails_its_cell_only(tmp_path):
    toy = ToyResources(tmp_path, deadly=frozenset({"blur-weak"}))
    outcomes = in_processes(cells("blur-weak", "none", "flip"), tmp_path, toy.make, jobs=2)
    assert states(outcomes) == ["failed", "measured", "measured"] * 2
    assert outcomes[0].message == "the process ended by SIGKILL, possibly because memory ran out"
    assert ResultsFolder(tmp_path).failures.get(outcomes[0].name).error == outcomes[0].message
    healthy = ToyResources(tmp_path)
    again = in_processes(cells("blur-weak", "none", "flip"), tmp_path, healthy.make, jobs=2, retry=True)
    assert states(again) == ["measured", "kept", "kept"] * 2
    assert not ResultsFolder(tmp_path).failures.read()


class Sleepy(ToyResources):
    """Training takes for ever; it says who trains."""

    def _train(self, config, report):
        (self.folder / f"{os.getpid()}.pid").touch()
        time.sleep(600)


def test_training_that_dies_fails_the_cells_of_the_victim(tmp_path):
    toy = Sleepy(tmp_path, trained=False)

    def kill_the_first():
        while not (found := list(tmp_path.glob("*.pid"))):
            time.sleep(0.01)
        os.kill(int(found[0].stem), signal.SIGKILL)

    killer = threading.Thread(target=kill_the_first)
    killer.start()
    make = functools.partial(toy.make, train=True)
    outcomes = in_processes(cells(cases=CASES[:1]), tmp_path, make, jobs=2)
    killer.join()
    assert states(outcomes) == ["failed", "failed"]
    assert "training cifar10 clean failed: the process ended by SIGKILL" in outcomes[0].message


def alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_no_process_is_left_after_an_interruption(tmp_path):
    toy = Sleepy(tmp_path, trained=False)

    def interrupt(worker, text):
        deadline = time.monotonic() + 30
        while len(list(tmp_path.glob("*.pid"))) < 2:  # until both of them train
            assert time.monotonic() < deadline
            time.sleep(0.01)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        in_processes(cells(), tmp_path, functools.partial(toy.make, train=True), jobs=2, progress=interrupt)
    children = [int(path.stem) for path in tmp_path.glob("*.pid")]
    assert len(children) == 2
    assert not any(map(alive, children))
    assert not list(tmp_path.rglob("*.lock"))


def test_threads_are_shared():
    cores = available_cores()
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(cores)
        assert threads_of_a_worker(1) == cores
        assert threads_of_a_worker(2) == max(1, cores // 2)
        assert threads_of_a_worker(10 * cores) == 1
        torch.set_num_threads(1)
        assert threads_of_a_worker(1) == 1
    finally:
        torch.set_num_threads(before)


def test_a_worker_keeps_to_its_victim_until_nothing_else_is_left(tmp_path):
    scheduler = Scheduler(cells("none", "flip", "jpeg"), ToyResources(tmp_path).make())
    tasks = [(worker, scheduler.next(worker).case.dataset) for worker in (0, 1, 0, 1, 0)]
    assert tasks == [(0, "cifar10"), (1, "gtsrb"), (0, "cifar10"), (1, "gtsrb"), (0, "cifar10")]
    assert scheduler.next(0).case.dataset == "gtsrb"
    assert scheduler.next(1) is None
    assert not scheduler
