"""The laboratory on a small Ray cluster: what the pool of processes promises holds here, too."""

import dataclasses
import functools
import os
import threading
import time

import pytest
from test_pool import Sleepy, alive, same_records
from test_run_cells import CASES, cells, states
from typer.testing import CliRunner

from maskrestore.cli.app import app
from maskrestore.distributed.cluster import Share, cluster_size, connect
from maskrestore.errors import ConfigError
from maskrestore.lab.measure.record_files import read_records
from maskrestore.lab.runner.results_folder import ResultsFolder
from maskrestore.lab.runner.run_cells import run_cells, run_cells_in_processes, run_cells_on_ray
from ray_clusters import NODE, small_cluster
from toy_resources import ToyResources

TWO = Share(workers=2, cores=1, gpus=0)
on_ray = functools.partial(run_cells_on_ray, share=TWO)


@pytest.fixture(scope="module")
def cluster():
    with small_cluster(cpus=2) as started, connect(started.address):
        yield started


def wait_for_pids(folder, count):
    """The processes that have left a file with their number, once there are so many."""
    deadline = time.monotonic() + 60
    while len(found := list(folder.glob("*.pid"))) < count:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return [int(path.stem) for path in found]


def test_workers_make_the_same_records_as_one_process(cluster, tmp_path):
    assert str(cluster_size()) == "1 node, 2 cores, 0 GPUs"
    wanted = cells("none", "blur-weak", "flip", "scale-up", repeats=2)
    toy = ToyResources(tmp_path, trained=False)
    notes = []
    outcomes = on_ray(
        wanted,
        tmp_path / "many",
        functools.partial(toy.make, train=True),
        progress=lambda worker, text: notes.append((worker, text)),
    )
    assert states(outcomes) == ["measured"] * len(wanted)
    assert [outcome.cell for outcome in outcomes] == wanted
    run_cells(wanted, tmp_path / "one", toy.make())
    assert {record.environment.threads for record in same_records(wanted, tmp_path)} == {1}
    victims = {one.digest() for cell in wanted for one in (cell.victim, cell.victim.clean())}
    assert sorted(toy.trainings) == sorted(victims)  # each once
    assert {worker for worker, _ in notes} <= {0, 1}
    assert any(text.startswith("training cifar10 clean: 50 %") for _, text in notes)
    assert not list(tmp_path.rglob("*.lock"))
    assert not list(tmp_path.rglob("*.shared"))
    assert states(on_ray(wanted, tmp_path / "many", toy.make)) == ["kept"] * len(wanted)


@pytest.mark.cluster
def test_a_worker_that_dies_fails_its_cell_only_as_a_process_does(cluster, tmp_path):
    toy = ToyResources(tmp_path, deadly=frozenset({"blur-weak"}))
    wanted = cells("blur-weak", "none", "flip")
    outcomes = on_ray(wanted, tmp_path / "ray", toy.make)
    local = run_cells_in_processes(wanted, tmp_path / "local", toy.make, jobs=2, start_method="fork")
    assert states(outcomes) == states(local) == ["failed", "measured", "measured"] * 2
    assert "died (ActorDiedError): it was killed, possibly because memory ran out" in outcomes[0].message
    assert ResultsFolder(tmp_path / "ray").failures.get(outcomes[0].name).error == outcomes[0].message
    again = on_ray(wanted, tmp_path / "ray", ToyResources(tmp_path).make, retry=True)
    assert states(again) == ["measured", "kept", "kept"] * 2


class Settled(ToyResources):
    """The defense ``flip`` takes for ever where it comes first, and says on which node that is."""

    def _defense(self, cell):
        if cell.variant.defense == "flip":
            import ray

            (self.folder / f"{os.getpid()}.pid").write_text(ray.get_runtime_context().get_node_id())
            time.sleep(600)
        return super()._defense(cell)


@pytest.mark.cluster
def test_a_lost_node_fails_its_cell_only(cluster, tmp_path):
    """Only the two added nodes have room for a worker of three cores."""
    nodes = {node.node_id: node for node in (cluster.add_node(num_cpus=3, **NODE) for _ in range(2))}

    def lose_the_node():
        wait_for_pids(tmp_path, 1)
        time.sleep(0.1)  # until it is written
        (path,) = tmp_path.glob("*.pid")
        cluster.remove_node(nodes.pop(path.read_text()), allow_graceful=False)

    thread = threading.Thread(target=lose_the_node)
    thread.start()
    wanted = cells("flip", "none", cases=CASES[:1])
    outcomes = on_ray(wanted, tmp_path, Settled(tmp_path).make, share=dataclasses.replace(TWO, workers=1, cores=3))
    thread.join()
    (left,) = nodes.values()
    cluster.remove_node(left)
    deadline = time.monotonic() + 60
    while cluster_size().cpus > 2:  # Ray takes a while to notice, and other tests count cores
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert states(outcomes) == ["failed", "measured"]
    assert "its node was lost" in outcomes[0].message


@pytest.mark.cluster
def test_no_worker_is_left_after_an_interruption(cluster, tmp_path):
    begun = set()

    def interrupt(worker, text):
        begun.add(worker)
        if len(begun) == 2:
            wait_for_pids(tmp_path, 2)  # until both of them train
            raise KeyboardInterrupt

    make = functools.partial(Sleepy(tmp_path, trained=False).make, train=True)
    with pytest.raises(KeyboardInterrupt):
        on_ray(cells(), tmp_path, make, progress=interrupt)
    children = wait_for_pids(tmp_path, 2)
    deadline = time.monotonic() + 20
    while any(map(alive, children)):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def elsewhere(make, here):
    """Resources that only the process ``here`` can have."""
    if os.getpid() != here:
        raise OSError("no such data")
    return make()


@pytest.mark.cluster
def test_workers_that_cannot_start_are_said(cluster, tmp_path):
    make = functools.partial(elsewhere, ToyResources(tmp_path).make, os.getpid())
    with (
        pytest.warns(
            UserWarning, match=r"a worker could not start and is left out: OSError on the node .*no such data"
        ),
        pytest.raises(ConfigError, match="no worker could start on the Ray cluster; the last one: OSError on the node"),
    ):
        on_ray(cells(), tmp_path, make)
    assert not list(tmp_path.rglob("*.shared"))


@pytest.mark.cluster
def test_the_command_measures_on_the_cluster(cluster, tmp_path, monkeypatch):
    toy = ToyResources(tmp_path / "toy")
    monkeypatch.setattr("maskrestore.cli.lab.reproduce.make_resources", toy.make)
    monkeypatch.chdir(tmp_path)

    def reproduce(*words):
        arguments = ["reproduce", "table2", "--scale", "smoke", "--out", "o", "--only", "none", *words]
        done = CliRunner().invoke(app, arguments, env={"COLUMNS": "120"})
        assert done.exit_code == 0, done.output
        return done.stderr

    planned = reproduce("--plan", "--ray")  # this process is connected already
    assert "Ray cluster with 1 node, 2 cores, 0 GPUs: 2 workers of 1 core\n" in planned
    assert "hours: for 2 workers, each with 1 thread, without the training of victims" in planned
    measured = reproduce("--ray", cluster.address, "--jobs", "1")
    assert "1 worker of 2 cores\n" in measured
    assert "4 measured of 4 cells" in measured
    assert {record.environment.threads for record in read_records(tmp_path / "o")} == {2}
    assert not list(tmp_path.rglob("*.shared"))
