import dataclasses
import multiprocessing
import os
import time

import pytest
import torch

from maskrestore.errors import ConfigError, DataError
from maskrestore.lab.measure.costs import MemoryMeter, counted_passes
from maskrestore.lab.measure.detection import DetectorUnderTest, detect, detection_records
from maskrestore.lab.measure.record_files import cell_records
from maskrestore.lab.paper.cells import Case, Variant, expand
from maskrestore.lab.paper.scales import SCALES
from maskrestore.lab.runner.results_folder import ResultsFolder
from maskrestore.lab.runner.run_cells import run_cells
from maskrestore.runtime.locks import try_lock
from maskrestore.statistics import auroc
from toy_evaluation import CornerAttack, make_dataset, make_victim
from toy_resources import RedCorner, ToyResources

CASES = (Case(dataset="cifar10", attack="corners"), Case(dataset="gtsrb", attack="corners"))


def cells(*defenses, cases=CASES, repeats=1):
    entries = [(case, Variant(defense=name)) for case in cases for name in defenses or ("none", "blur-weak")]
    scale = dataclasses.replace(SCALES["smoke"], init="clean", epochs=None)  # victims that start from clean ones
    return expand(entries, scale, repeats=repeats)


def states(outcomes):
    return [outcome.state for outcome in outcomes]


def test_every_cell_is_a_record_and_is_made_once(tmp_path):
    toy = ToyResources(tmp_path)
    assert states(run_cells(cells(), tmp_path, toy.make())) == ["measured"] * 4
    record = ResultsFolder(tmp_path).record_of(cells()[1])
    assert (record.clean_images, record.triggered_images, record.seed) == (4, 4, 0)
    assert (record.before.asr.value, record.after.asr.value, record.after.ba.value) == (1.0, 0.0, 1.0)
    assert states(run_cells(cells(repeats=2), tmp_path, toy.make())) == ["kept"] * 4 + ["measured"] * 4
    assert len(toy.measured) == 8
    assert not list(tmp_path.rglob("*.lock"))


def test_a_record_of_the_same_evaluation_stands_for_a_cell(tmp_path):
    toy = ToyResources(tmp_path)
    first, *others = cells()
    run_cells([first], tmp_path / "earlier", toy.make())
    record = ResultsFolder(tmp_path / "earlier").record_of(first)
    cost = dataclasses.replace(record.cost, seconds=12.5)
    earlier = cell_records(tmp_path / "earlier.jsonl")
    earlier.append(dataclasses.replace(record, name="by-another-name", cost=cost))
    resources = toy.make(known=[earlier.path])
    assert states(run_cells(cells(), tmp_path, resources)) == ["measured"] * 4
    results = ResultsFolder(tmp_path)
    assert results.record_of(first).cost.seconds == 12.5
    for other in others:
        assert results.record_of(other).digest not in resources.known


def test_a_failed_cell_is_noted_and_the_others_go_on(tmp_path):
    toy = ToyResources(tmp_path, broken=frozenset({"blur-weak"}))
    outcomes = run_cells(cells(), tmp_path, toy.make())
    assert states(outcomes) == ["measured", "failed", "measured", "failed"]
    assert outcomes[1].message == "RuntimeError: blur-weak has no weights"
    failures = ResultsFolder(tmp_path).failures
    assert failures.get(outcomes[1].name).error == outcomes[1].message
    toy.broken = frozenset()
    again = run_cells(cells(), tmp_path, toy.make())
    assert states(again) == ["kept", "failed", "kept", "failed"]
    assert again[1].message == outcomes[1].message
    assert states(run_cells(cells(), tmp_path, toy.make(), retry=True)) == ["kept", "measured"] * 2
    assert not failures.read()


def test_without_its_victim_a_cell_is_missing_unless_it_may_be_trained(tmp_path):
    toy = ToyResources(tmp_path, trained=False)
    assert states(run_cells(cells(), tmp_path, toy.make())) == ["missing"] * 4
    assert not list(tmp_path.rglob("*.jsonl"))
    assert states(run_cells(cells(), tmp_path, toy.make(train=True))) == ["measured"] * 4
    poisoned = [cells()[0].victim, cells()[2].victim]
    # The clean victims come first, each once.
    assert toy.trainings == [digest for one in poisoned for digest in (one.clean().digest(), one.digest())]


def test_cells_with_records_need_no_victim(tmp_path):
    run_cells(cells(), tmp_path, ToyResources(tmp_path).make())
    toy = ToyResources(tmp_path, trained=False)
    assert states(run_cells(cells(), tmp_path, toy.make(train=True))) == ["kept"] * 4
    assert toy.trainings == []


def test_ready_victims_come_first_and_their_cells_together(tmp_path):
    lab = ToyResources(tmp_path, trained=False).make(train=True)
    lab.train(cells()[2].victim, lambda state: None)
    order = []
    run_cells(
        [one for pair in zip(cells()[:2], cells()[2:], strict=True) for one in pair],
        tmp_path,
        lab,
        report=lambda outcome: order.append(outcome.cell.case.dataset),
    )
    assert order == ["gtsrb", "gtsrb", "cifar10", "cifar10"]


def test_victims_of_pictures_are_trained_without_a_cell(tmp_path):
    toy = ToyResources(tmp_path, trained=False)
    victim = cells()[0].victim
    assert run_cells([], tmp_path, toy.make(train=True), victims=[victim, victim]) == []
    assert toy.trainings == [victim.clean().digest(), victim.digest()]


def test_training_that_fails_is_not_tried_for_every_cell(tmp_path):
    toy = ToyResources(tmp_path, trained=False)
    tries = []

    def diverges(config, report):
        tries.append(config)
        raise ConfigError("training diverged")

    toy._train = diverges
    outcomes = run_cells(cells(cases=CASES[:1]), tmp_path, toy.make(train=True))
    assert states(outcomes) == ["failed", "failed"]
    assert "training diverged" in outcomes[1].message
    assert len(tries) == 1


def test_training_that_fails_is_reported_without_cells_too(tmp_path):
    toy = ToyResources(tmp_path, trained=False)
    victim = cells()[0].victim

    def diverges(config, report):
        raise ConfigError("training diverged")

    toy._train = diverges
    reported = []
    assert run_cells([], tmp_path, toy.make(train=True), victims=[victim], report=reported.append) == []
    ((task, state, message),) = [(one.task, one.state, one.message) for one in reported]
    assert (task, state) == (victim.clean(), "failed")  # the one that it starts from, and it with it
    assert "training diverged" in message


def test_a_cell_that_another_process_has_is_left_to_it(tmp_path):
    toy = ToyResources(tmp_path)
    (first, *_) = cells()
    with ResultsFolder(tmp_path).lock(first) as ours:
        assert ours
        assert states(run_cells(cells(), tmp_path, toy.make())) == ["elsewhere", "measured", "measured", "measured"]
    assert states(run_cells(cells(), tmp_path, toy.make())) == ["measured", "kept", "kept", "kept"]


def test_other_cells_come_first_while_another_process_trains_a_victim(tmp_path, monkeypatch):
    toy = ToyResources(tmp_path, trained=False)
    lab = toy.make(train=True)
    busy = try_lock(lab.victim_file(cells()[0].victim.clean()).with_suffix(".lock"))
    busy.__enter__()
    clock = [0.0]

    def sleep(seconds):
        clock[0] += seconds
        busy.__exit__(None, None, None)

    monkeypatch.setattr(time, "sleep", sleep)
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    order = []
    outcomes = run_cells(cells("none"), tmp_path, lab, report=lambda outcome: order.append(outcome.cell.case.dataset))
    assert order == ["gtsrb", "cifar10"]
    assert states(outcomes) == ["measured", "measured"]


def test_an_interrupted_cell_goes_on(tmp_path):
    toy = ToyResources(tmp_path)
    lab = toy.make()

    def stop(worker, note):
        if "4/8" in note:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_cells(cells("blur-weak"), tmp_path, lab, progress=stop)
    (partial,) = tmp_path.rglob("*.partial.jsonl")
    assert states(run_cells(cells("blur-weak"), tmp_path, lab)) == ["measured"] * 2
    assert not partial.exists()


def _hold(path, held):
    with try_lock(path) as ours:
        held.put(ours)
        time.sleep(60)


def _work(folder):
    run_cells(cells("none", "blur-weak", "flip", "jpeg", repeats=3), folder, ToyResources(folder).make())


def test_the_lock_of_a_process_that_dies_is_free(tmp_path):
    context = multiprocessing.get_context("fork")
    held = context.Queue()
    process = context.Process(target=_hold, args=(tmp_path / "a.lock", held))
    process.start()
    assert held.get(timeout=20)
    with try_lock(tmp_path / "a.lock") as ours:
        assert not ours
    os.kill(process.pid, 9)
    process.join()
    assert (tmp_path / "a.lock").exists()
    with try_lock(tmp_path / "a.lock") as ours:
        assert ours
    assert not (tmp_path / "a.lock").exists()


def test_two_processes_share_the_cells(tmp_path):
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=_work, args=(tmp_path,)) for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(timeout=60)
        assert worker.exitcode == 0
    wanted = cells("none", "blur-weak", "flip", "jpeg", repeats=3)
    records = cell_records(tmp_path)
    assert records.read().keys() == {one.name for one in wanted}
    assert all(one.after.ca.trials == 4 for one in records.read().values())
    assert records.is_compact()
    assert [path.name for path in tmp_path.iterdir()] == ["cells.jsonl"]


def test_detectors_have_records_of_their_own(tmp_path):
    (outcome,) = run_cells(cells("scale-up", cases=CASES[:1]), tmp_path, ToyResources(tmp_path).make())
    assert outcome.state == "measured"
    results = ResultsFolder(tmp_path)
    record = results.record_of(outcome.cell)
    assert not results.cells.read()
    assert (record.detector, record.auroc.value, record.queries_mean) == ("scale-up", 1.0, 3.0)
    results.detections.path.write_text("{}\n")
    with pytest.raises(DataError, match=r"detections.jsonl, line 1: found record version None"):
        results.record_of(outcome.cell)


def test_an_interrupted_detection_goes_on_and_ends_in_the_same_record(tmp_path):
    class Nervous(RedCorner):
        calls, fails_at = 0, 4

        def score(self, images, classifier):
            self.calls += 1
            if self.calls == self.fails_at:
                raise KeyboardInterrupt
            return super().score(images, classifier)

    def run(detector, folder):
        detector = DetectorUnderTest(detector=detector, name="red", config={}, key_fingerprint="0")
        counts = {"clean_count": 9, "triggered_count": 7, "chunk_size": 3}
        return detect(make_dataset(), CornerAttack(), make_victim(), detector, **counts, out=detection_records(folder))

    nervous = Nervous()
    with pytest.raises(KeyboardInterrupt):
        run(nervous, tmp_path)
    whole = run(nervous, tmp_path)
    assert nervous.calls == 4 + 3  # of six chunks three were done
    assert [path.name for path in tmp_path.iterdir()] == ["detections.jsonl"]
    at_once = run(RedCorner(), tmp_path / "other")
    measured = {"created": "", "seconds": 0.0, "peak_memory": 0}
    assert dataclasses.replace(whole, **measured) == dataclasses.replace(at_once, **measured)


def test_auroc_counts_pairs():
    clean, triggered = torch.tensor([0.0, 1.0, 2.0]), torch.tensor([1.0, 3.0])
    area = auroc(clean, triggered)
    assert area.value == pytest.approx((1 + 0.5 + 0 + 3) / 6)
    assert 0 <= area.low < area.value < area.high <= 1
    assert auroc(triggered, triggered).value == 0.5
    with pytest.raises(ConfigError, match="none NaN"):
        auroc(torch.tensor([float("nan")]), triggered)


def test_auroc_interval_of_chance_is_that_of_the_rank_sum_test():
    # Without any difference Hanley and McNeil's variance is Mann and Whitney's, (N + M + 1) / (12 N M).
    area = auroc(torch.ones(40), torch.ones(25))
    assert area.value == 0.5
    assert area.high - 0.5 == pytest.approx(1.959964 * (66 / (12 * 40 * 25)) ** 0.5, rel=1e-6)
    assert 0.5 - area.low == pytest.approx(area.high - 0.5)


def test_a_detection_uses_the_images_of_the_evaluations():
    detector = DetectorUnderTest(detector=RedCorner(), name="red", config={}, key_fingerprint="0")
    record = detect(make_dataset(), CornerAttack(), make_victim(), detector, clean_count=9, triggered_count=7)
    assert record.auroc.value == 1.0
    assert (record.clean_images, record.triggered_images) == (9, 7)


class Restoring:
    """A defense with a generator."""

    def __init__(self):
        self.restorer = self

    grid = 4

    def restore(self, images, hidden):
        return images


def test_passes_of_a_generator_are_counted():
    defense = Restoring()
    hidden = torch.zeros(3, 4, 4, dtype=torch.bool)
    hidden[:2, 0, 0] = True
    with counted_passes(defense) as counter:
        assert defense.restorer is counter
        assert counter.grid == 4
        counter.restore(torch.zeros(3, 1, 8, 8), hidden)
    assert counter.passes == 2  # nothing is hidden in the third
    assert defense.restorer is defense
    with counted_passes(object()) as counter:
        assert counter is None


def test_memory_is_that_of_the_process_since_the_meter_was_made():
    meter = MemoryMeter()
    before = meter.peak()
    block = torch.ones(30_000_000)
    after = meter.peak()
    assert after - before > 0.9 * 4 * len(block)
    if meter.scope == "process":
        del block
        assert MemoryMeter().peak() < after
