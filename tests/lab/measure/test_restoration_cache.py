import copy
import dataclasses

import pytest
import torch

from fakes import MeanRestorer, PatchTriggerClassifier, plain_images
from maskrestore.defense.bdmae import BDMAE
from maskrestore.defense.profiles import PROFILES
from maskrestore.lab.measure.restoration_cache import CachedClassifier, CachedRestorer
from maskrestore.lab.paper.catalogue import EXPERIMENTS
from maskrestore.lab.paper.cells import Case, Variant, expand
from maskrestore.lab.paper.layouts import Curves
from maskrestore.lab.paper.scales import SCALES, cells_of, measured_speeds
from maskrestore.lab.runner.results_folder import ResultsFolder
from maskrestore.lab.runner.run_cells import run_cells
from maskrestore.mae.choice import named_restorer
from maskrestore.runtime.settings import with_settings
from toy_resources import ToyResources

PAPER = PROFILES["paper"]


class CountingRestorer(MeanRestorer):
    """Counts the masks that it restores."""

    restored = 0

    def restore(self, images, hidden):
        if hidden.ndim == 3:  # where the other shape ends, too
            self.restored += len(hidden)
        return super().restore(images, hidden)


def triggered(count=6):
    classifier = PatchTriggerClassifier(row=2, column=2)
    images = plain_images(count)
    images[::2] = classifier.stamp(images[::2])
    return images, classifier


@pytest.mark.parametrize(
    "changed",
    [
        {},
        {"restoration.thresholds": (0.5,), "restoration.max_restored": 1.0},
        {"refinement.steps": 3},
        {"refinement": None, "scores.label_weight": 0.0},
        {"masks.rounds": 2},
        {"masks.hidden_ratio": 0.5},
        {"refinement.neighbour_bonus": 0.0},
    ],
)
def test_what_is_cached_is_the_same_bit_for_bit(changed):
    images, classifier = triggered()
    restorer, asked = CachedRestorer(MeanRestorer()), CachedClassifier(classifier)
    for config in (PAPER, with_settings(PAPER, changed), PAPER):
        expected = BDMAE(MeanRestorer(), config).purify(images, classifier)
        found = BDMAE(restorer, config).purify(images, asked)
        for field in dataclasses.fields(expected):
            one, other = getattr(found, field.name), getattr(expected, field.name)
            assert (one is None and other is None) or torch.equal(one, other), field.name


def test_each_restoration_is_made_once_and_each_picture_asked_about_once():
    images, classifier = triggered()
    inner, pictures = CountingRestorer(), []

    def classify(batch):
        pictures.append(len(batch))
        return classifier(batch)

    restorer, asked = CachedRestorer(inner), CachedClassifier(classify)
    BDMAE(restorer, with_settings(PAPER, {"refinement.steps": 10})).purify(images, asked)
    made, seen = inner.restored, sum(pictures)
    # Fewer steps are the beginning of more; only the final restorations may be others.
    fewer = with_settings(PAPER, {"refinement.steps": 4})
    BDMAE(restorer, fewer).purify(images, asked)
    assert inner.restored - made <= len(images) * len(fewer.restoration.thresholds)
    assert sum(pictures) - seen <= len(images)
    made, seen = inner.restored, sum(pictures)
    BDMAE(restorer, fewer).purify(images.flip(0), asked)  # in another order
    assert (inner.restored, sum(pictures)) == (made, seen)


def test_a_picture_that_a_batch_holds_twice_is_asked_about_once():
    batches = []
    asked = CachedClassifier(lambda batch: batches.append(len(batch)) or batch[:, 0, 0, 0].long())
    images = torch.tensor([0.0, 1.0, 0.0]).view(3, 1, 1, 1)
    assert asked(images).tolist() == [0, 1, 0]
    assert asked(images[:2]).tolist() == [0, 1]
    assert batches == [2]


def test_a_full_memory_begins_anew():
    images, _ = triggered(4)
    hidden = torch.zeros(4, 8, 8, dtype=torch.bool)
    hidden[:, :2] = True  # a quarter of 3 x 16 x 16 floats, 768 bytes an image, beside what an entry takes
    inner = CountingRestorer()
    restorer = CachedRestorer(inner, capacity=4 * 768 + 3 * 600)
    expected = MeanRestorer().restore(images, hidden)
    for _ in range(3):
        assert torch.equal(restorer.restore(images[:3], hidden[:3]), expected[:3])
    assert inner.restored == 3
    assert torch.equal(restorer.restore(images, hidden), expected)
    assert inner.restored == 4
    # The fourth is all that it kept.
    restorer.restore(images[3:], hidden[3:])
    assert inner.restored == 4
    restorer.restore(images[:1], hidden[:1])
    assert inner.restored == 5


def test_shapes_are_told_apart():
    wide, high = torch.zeros(1, 3, 4, 8), torch.zeros(1, 3, 8, 4)
    asked = CachedClassifier(lambda batch: torch.full((len(batch),), batch.shape[-1]))
    assert [asked(images).item() for images in (wide, high, wide)] == [8, 4, 8]
    hidden = torch.ones(1, 4, 4, dtype=torch.bool)
    restorer = CachedRestorer(MeanRestorer(4))
    assert [restorer.restore(images, hidden).shape for images in (wide, high, wide)] == [
        images.shape for images in (wide, high, wide)
    ]


def test_a_cached_restorer_tells_what_the_restorer_is():
    restorer = named_restorer("mae-tiny-32")
    cached = copy.copy(CachedRestorer(restorer))
    for name in ("grid", "device", "precision", "weights_digest"):
        assert getattr(cached, name) == getattr(restorer, name)
    assert CachedRestorer(MeanRestorer()).weights_digest is None


def test_curves_share_work_and_tables_do_not():
    for name, experiment in EXPERIMENTS.items():
        for cell in cells_of(experiment, SCALES["local"]):
            assert cell.scale.shares_restorations == isinstance(experiment, Curves), name
            assert not isinstance(experiment, Curves) or cell.count == SCALES["local"].curve_images


def test_seconds_of_shared_work_are_told_apart(tmp_path):
    entry = (Case(dataset="cifar10", attack="corners"), Variant(defense="blur-weak"))
    table = SCALES["smoke"]
    curve = dataclasses.replace(table, shares_restorations=True)
    alone, shared = expand([entry], table)[0], expand([entry], curve)[0]
    assert alone.name != shared.name
    other = expand([entry, (entry[0], Variant(defense="none"))], curve)[1]
    resources = ToyResources(tmp_path).make()
    made, pictures, forgotten = resources.victim, [], []

    def victim(config):
        found = made(config)
        return dataclasses.replace(
            found, classifier=lambda batch: pictures.extend(map(str, batch.tolist())) or found.classifier(batch)
        )

    defense = resources.defense
    sharing = dataclasses.replace(
        resources,
        victim=victim,
        defense=lambda cell: dataclasses.replace(defense(cell), shares_restorations=cell.scale.shares_restorations),
        forget=lambda: forgotten.append(len(pictures)),
    )
    run_cells([alone, shared, other], tmp_path, sharing)
    # As the victim is loaded, and again for curves: each picture was asked about as it came and as it was purified.
    assert forgotten == [0, 2 * (4 + 4)]
    of_curves = pictures[16:]
    assert set(of_curves) == set(pictures[:16])
    assert len(set(of_curves)) == len(of_curves)
    records = [ResultsFolder(tmp_path).record_of(cell) for cell in (alone, shared)]
    assert [record.cost.shared_restorations for record in records] == [False, True]
    assert records[0].after == records[1].after
    environment = records[0].environment
    assert measured_speeds(records[1:], environment) == {}
    assert measured_speeds(records, environment) == measured_speeds(records[:1], environment) != {}
