"""Streams: mixed sizes in bounded memory, one fault costs one image, images join and leave between rounds."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields

import pytest
import torch
from test_contracts import mixed_images, small_module, small_network
from torch import Tensor

from fakes import MeanRestorer, PatchTriggerClassifier, plain_images
from maskrestore import BDMAE, PROFILES, MAERestorer, ModuleClassifier, Purification, StreamItem, StreamResult
from maskrestore.classifiers import as_classifier
from maskrestore.defense.oracle import Budget
from maskrestore.errors import ClassifierError, ClassifierOutputError, ConfigError, InvalidImageError, QueryBudgetError

TRIGGER = PatchTriggerClassifier()


def assert_same(one: Purification | None, other: Purification) -> None:
    assert one is not None
    for field in fields(Purification):
        a, b = getattr(one, field.name), getattr(other, field.name)
        assert (a is None and b is None) or torch.equal(a, b), field.name


def various() -> list[Tensor]:
    """Images of three shapes, one of them grey; some carry the trigger."""
    grey = torch.rand(1, 16, 16, generator=torch.Generator().manual_seed(2))
    images = [*mixed_images(4), *plain_images(2, size=24), grey]
    return [images[place] for place in (0, 4, 1, 6, 2, 5, 3)]


def items(images: list[Tensor]) -> list[StreamItem]:
    return [StreamItem(id=f"image {number}", image=image) for number, image in enumerate(images)]


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("chunk", [1, 3, 64])
def test_a_stream_of_mixed_sizes_gives_the_bits_of_each_image_alone(profile: str, chunk: int) -> None:
    def answer(images: Tensor) -> Tensor:
        return TRIGGER(images.expand(-1, 3, -1, -1))

    defense = BDMAE(MeanRestorer(), profile, chunk_size=chunk)
    found = list(defense.purify_stream(items(various()), answer))
    assert [one.id for one in found] == [f"image {number}" for number in range(7)]
    for one, image in zip(found, various(), strict=True):
        assert_same(one.result, defense.purify(image, answer))
        assert one.error is None
        assert one.seconds > 0


def test_in_any_order_the_first_to_be_settled_come_first() -> None:
    images = [*plain_images(2), *TRIGGER.stamp(plain_images(2))]
    defense = BDMAE(MeanRestorer(), "fast")
    ordered = list(defense.purify_stream(items(images), TRIGGER))
    found = list(defense.purify_stream(items(images), TRIGGER, ordered=False))
    assert [one.id for one in ordered] == ["image 0", "image 1", "image 2", "image 3"]
    assert [one.id for one in found] == ["image 2", "image 3", "image 0", "image 1"]  # clean ones take longer
    for one in found:
        (same,) = (other.result for other in ordered if other.id == one.id)
        assert same is not None
        assert_same(one.result, same)


def test_items_are_read_as_they_are_needed() -> None:
    read = []

    def reading() -> Iterator[StreamItem]:
        for item in items(list(plain_images(10))):
            read.append(item.id)
            yield item

    results = BDMAE(MeanRestorer(), chunk_size=2).purify_stream(reading(), TRIGGER)
    assert read == []
    next(results)
    assert len(read) == 3  # a chunk of two, and the item that did not fit


def test_an_image_that_is_none_costs_no_other_image_anything() -> None:
    wrong = [torch.full((3, 8, 8), torch.nan), plain_images(2), "a text"]
    stream = items([wrong[0], *plain_images(1), wrong[1], wrong[2]])  # type: ignore[list-item]
    found = list(BDMAE(MeanRestorer()).purify_stream(stream, TRIGGER))
    assert [type(one.error) for one in found] == [InvalidImageError, type(None), InvalidImageError, InvalidImageError]
    assert "expected one image for each item, got 2 for 'image 2'" in str(found[2].error)


@pytest.mark.parametrize("profile", PROFILES)
def test_a_classifier_that_fails_at_one_image_loses_only_that_one(profile: str) -> None:
    images = mixed_images(5)
    poison = images[3].clone()

    def refusing(pictures: Tensor) -> Tensor:
        # It knows the image by its last rows, which no trigger covers.
        if (pictures[..., 12:, 12:] == poison[..., 12:, 12:]).flatten(1).all(dim=1).any():
            raise RuntimeError("no answer")
        return TRIGGER(pictures)

    defense = BDMAE(MeanRestorer(), profile)
    found = list(defense.purify_stream(items(list(images)), refusing))
    assert [one.id for one in found] == [f"image {number}" for number in range(5)]
    assert isinstance(found[3].error, RuntimeError)
    for number in (0, 1, 2, 4):
        assert_same(found[number].result, defense.purify(images[number], TRIGGER))


def test_an_image_that_the_budget_may_not_suffice_for_is_not_begun() -> None:
    defense = BDMAE(MeanRestorer(), "default")
    budget = Budget(150)
    found = list(defense.purify_stream(items(list(mixed_images(8))), TRIGGER, budget=budget))
    done = [one for one in found if one.result is not None]
    assert 0 < len(done) < 8
    assert found[: len(done)] == done  # the first ones
    assert sum(int(one.result.queries) for one in done if one.result) == budget.spent <= 150
    assert 150 - budget.spent < defense.config.max_queries
    for one in found[len(done) :]:
        assert isinstance(one.error, QueryBudgetError)
        assert "and an image may take 47" in str(one.error)


def test_budgets_are_checked() -> None:
    with pytest.raises(ConfigError, match="got -1"):
        Budget(-1)
    budget = Budget(3)
    budget.spend(2)
    with pytest.raises(QueryBudgetError, match="2 more queries would exceed the budget of 3: 2 are spent"):
        budget.spend(2)
    assert budget.spent == 2
    with pytest.raises(ClassifierError):
        BDMAE(MeanRestorer()).purify_stream([], "model.onnx")  # type: ignore[arg-type]


def test_what_is_no_image_costs_no_query_whatever_the_budget() -> None:
    stream = [StreamItem(id=0, image="a text"), StreamItem(id=1, image=plain_images(1)), StreamItem(id=2, image="text")]
    found = list(BDMAE(MeanRestorer()).purify_stream(stream, TRIGGER, budget=5))
    assert [type(one.error) for one in found] == [InvalidImageError, QueryBudgetError, InvalidImageError]


def test_what_is_no_item_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"StreamItem\(id=\.\.\., image=\.\.\.\), got Tensor"):
        list(BDMAE(MeanRestorer()).purify_stream([plain_images(1)], TRIGGER))  # type: ignore[list-item]


def test_a_pipeline_checks_its_classifier_its_images_and_their_ids() -> None:
    defense = BDMAE(MeanRestorer())
    with pytest.raises(ClassifierError):
        defense.pipeline("model.onnx")  # type: ignore[arg-type]
    scores = defense.pipeline(lambda images: torch.rand(len(images), 5))  # not labels
    scores.submit(["a"], plain_images(1))
    (result,) = scores.step()
    assert isinstance(result.error, ClassifierOutputError)
    assert len(scores) == 0
    pipeline = defense.pipeline(TRIGGER, budget=1000)
    with pytest.raises(ConfigError, match="expected an id for each of 3 images, got 1 ids"):
        pipeline.submit(["a"], plain_images(3))
    with pytest.raises(InvalidImageError, match="255"):
        pipeline.submit(["a"], 255 * plain_images(1))


class Calls:
    """A classifier that counts its calls."""

    def __init__(self) -> None:
        self.sizes: list[int] = []

    def __call__(self, images: Tensor) -> Tensor:
        self.sizes.append(len(images))
        return TRIGGER(images)


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("real", [False, True], ids=["fake", "network"])
def test_images_may_join_between_rounds_and_get_their_own_bits(profile: str, real: bool) -> None:
    restorer = MAERestorer(small_network(), micro_batch=4) if real else MeanRestorer()
    classifier = ModuleClassifier(small_module(), micro_batch=4) if real else Calls()
    images = mixed_images(6)
    defense = BDMAE(restorer, profile)
    expected = [defense.purify(image, classifier) for image in images]
    alone = len(classifier.sizes) if isinstance(classifier, Calls) else 0
    budget = Budget()
    pipeline = defense.pipeline(classifier, budget)
    found: list[StreamResult] = []
    for number in range(0, 6, 2):
        pipeline.submit([number, number + 1], images[number : number + 2])
        found += pipeline.step()
        found += pipeline.step()
    assert len(pipeline) == 6 - len(found)
    while len(pipeline):
        found += pipeline.step()
    assert sorted(one.id for one in found) == list(range(6))  # type: ignore[type-var]
    for one in found:
        assert isinstance(one.id, int)
        assert_same(one.result, expected[one.id])
    assert budget.spent == sum(int(one.queries) for one in expected)
    if isinstance(classifier, Calls):
        assert len(classifier.sizes) - alone < alone / 2  # questions of a round are asked together
    assert pipeline.step() == []


def test_cohorts_that_share_a_round_do_not_share_a_fault() -> None:
    images = mixed_images(4)

    def refusing(pictures: Tensor) -> Tensor:
        if (pictures[..., 12:, 12:] == images[2, :, 12:, 12:]).flatten(1).all(dim=1).any():
            raise RuntimeError("no answer")
        return TRIGGER(pictures)

    defense = BDMAE(MeanRestorer(), "paper")
    pipeline = defense.pipeline(refusing, Budget())
    for first in (0, 2):
        pipeline.submit([first, first + 1], images[first : first + 2])
    found: dict[object, StreamResult] = {}
    while len(pipeline):
        found |= {one.id: one for one in pipeline.step()}
    assert {one for one, result in found.items() if result.error is not None} == {2}
    for number in (0, 1, 3):
        assert_same(found[number].result, defense.purify(images[number], TRIGGER))


def test_several_threads_may_purify_at_once() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        restorer = MAERestorer(small_network(), micro_batch=4)
        classifier = ModuleClassifier(small_module(), micro_batch=4)
        batches = [mixed_images(6, seed=seed) for seed in range(4)]
        defense = BDMAE(restorer, "paper")
        expected = [defense.purify(batch, classifier) for batch in batches]
        found: dict[int, Purification] = {}
        threads: dict[int, int] = {}

        def purify(number: int) -> None:
            found[number] = defense.purify(batches[number], classifier)
            threads[number] = torch.get_num_threads()

        workers = [threading.Thread(target=purify, args=(number,)) for number in range(4)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        for number, result in enumerate(expected):
            assert_same(found[number], result)
        assert threads == dict.fromkeys(range(4), 2)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_images_that_are_dropped_ask_no_further_question_and_change_no_other() -> None:
    images = mixed_images(4)
    asked: list[int] = []

    def classify(pictures: Tensor) -> Tensor:
        asked.append(len(pictures))
        return TRIGGER(pictures)

    defense = BDMAE(MeanRestorer(), "default")
    expected = defense.purify(images, TRIGGER)
    pipeline = defense.pipeline(classify)
    pipeline.submit([0, 1], images[:2])
    pipeline.submit([2, 3], images[2:])
    results = {one.id: one for one in pipeline.step()}
    pipeline.drop([1, 2, 3, "unknown"])
    assert len(pipeline) == 1 - len(results)
    asked.clear()
    while len(pipeline):
        results |= {one.id: one for one in pipeline.step()}
    assert set(results) == {0}
    assert_same(results[0].result, expected.select(slice(0, 1)))
    assert sum(asked) <= int(expected.queries[0]), "questions about one image only"


def test_asked_about_apart_each_image_gets_the_same_bits_and_a_late_answer_holds_no_other() -> None:
    images = mixed_images(5)
    late = threading.Event()

    def classify(pictures: Tensor) -> Tensor:
        if pictures.shape[-1] == 24:
            assert late.wait(20)
        return TRIGGER(pictures)

    defense = BDMAE(MeanRestorer(), "fast")
    expected = defense.purify(images, TRIGGER)
    results: dict[object, StreamResult] = {}
    with ThreadPoolExecutor(8) as threads:
        pipeline = defense.pipeline(classify, apart=threads)
        pipeline.submit(["late"], plain_images(1, size=24))
        for number, image in enumerate(images):
            pipeline.submit([number], image)
        while len(pipeline) > 1:
            results |= {one.id: one for one in pipeline.step()}
        assert set(results) == set(range(len(images))), "all but the late one"
        late.set()
        while len(pipeline):
            results |= {one.id: one for one in pipeline.step()}
    for number in range(len(images)):
        assert_same(results[number].result, expected.select(slice(number, number + 1)))
    assert_same(results["late"].result, defense.purify(plain_images(1, size=24), TRIGGER))


def test_asked_about_apart_an_error_costs_its_own_image() -> None:
    def classify(pictures: Tensor) -> Tensor:
        if pictures.shape[-1] == 24:
            raise ClassifierError("not this size")
        return TRIGGER(pictures)

    with ThreadPoolExecutor(2) as threads:
        pipeline = BDMAE(MeanRestorer(), "fast").pipeline(classify, apart=threads)
        pipeline.submit([0, 1], mixed_images(2))
        pipeline.submit([2], plain_images(1, size=24))
        results: dict[object, StreamResult] = {}
        while len(pipeline):
            results |= {one.id: one for one in pipeline.step()}
    assert "not this size" in str(results[2].error)
    assert results[0].error is None
    assert results[1].error is None


def test_asked_about_apart_images_may_have_a_classifier_of_their_own() -> None:
    image = mixed_images(1)
    defense = BDMAE(MeanRestorer(), "fast")
    results: dict[object, StreamResult] = {}
    with ThreadPoolExecutor(2) as threads:
        pipeline = defense.pipeline(TRIGGER, apart=threads)
        pipeline.submit([0], image)
        pipeline.submit([1], image, as_classifier(lambda pictures: torch.full((len(pictures),), 9)))
        while len(pipeline):
            results |= {one.id: one for one in pipeline.step()}
    assert_same(results[0].result, defense.purify(image, TRIGGER))
    assert results[1].result is not None
    assert results[1].result.labels.tolist() == [9]
    with pytest.raises(ConfigError, match="asked about apart"):
        defense.pipeline(TRIGGER).submit([0], image, TRIGGER)
