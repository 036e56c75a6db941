"""A classifier that fails: what that costs, what is kept, when a run waits and when it stops."""

import random
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from fakes import MeanRestorer, PatchTriggerClassifier, plain_images
from maskrestore import BDMAE, ModuleClassifier, StreamItem, StreamResult
from maskrestore.classifiers import CallableClassifier
from maskrestore.classifiers.answer_cache import AnswerCache
from maskrestore.defense.asking import Asker, Asking
from maskrestore.defense.oracle import Budget
from maskrestore.errors import ClassifierStoppedError, InvalidImageError, QueryBudgetError, RetryLater

TRIGGER = PatchTriggerClassifier()


@pytest.fixture(autouse=True)
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """What would have been waited, without waiting."""
    found: list[float] = []
    monkeypatch.setattr("maskrestore.classifiers.retrying.time.sleep", found.append)
    monkeypatch.setattr(random, "uniform", lambda low, high: high)
    return found


class Api:
    """Answers pictures one by one, whatever the size of the call, and raises what ``fault`` returns."""

    def __init__(self, fault: Callable[["Api", Tensor], Exception | None]) -> None:
        self.fault = fault
        self.sent = 0
        """Pictures that it was sent; those after a failure in a call are not."""

    def __call__(self, images: Tensor) -> list[int]:
        labels = []
        for image in images:
            self.sent += 1
            error = self.fault(self, image)
            if error is not None:
                raise error
            labels += TRIGGER(image[None]).tolist()
        return labels


class Streaming(Api):
    """The same, answering three at a time, the last first."""

    def answers(self, pictures: Iterable[Tensor]) -> Iterator[tuple[int, Tensor | Exception]]:
        flying: list[tuple[int, Tensor | Exception]] = []
        for place, picture in enumerate(pictures):
            try:
                flying.append((place, torch.tensor(self(picture))))
            except Exception as error:
                flying.append((place, error))
            if len(flying) == 3:
                yield from reversed(flying)
                flying = []
        yield from flying


def never(api: Api, image: Tensor) -> None:
    return None


def after(count: int, error: Callable[[], Exception]) -> Callable[[Api, Tensor], Exception | None]:
    """A fault at each picture after the first ``count``."""
    return lambda api, image: error() if api.sent > count else None


def at(count: int, error: Callable[[], Exception]) -> Callable[[Api, Tensor], Exception | None]:
    """A fault at one picture only."""
    return lambda api, image: error() if api.sent == count else None


def ask(classifier: Any, pictures: Tensor, *, budget: int | None = None, **how: Any) -> tuple[Any, Any, int]:
    """Ask about pictures of as many images. Returns labels, errors and the queries that were spent."""
    counted = Budget(budget)
    boxed = classifier if hasattr(classifier, "answers") else CallableClassifier(classifier)
    labels, errors = Asker(boxed, counted, Asking(**how)).ask(pictures, range(len(pictures)), set())
    return labels, errors, counted.spent


KINDS = pytest.mark.parametrize("kind", [Api, Streaming])


@KINDS
def test_a_failure_costs_the_image_that_it_is_about(kind: type[Api]) -> None:
    pictures = plain_images(20)
    bad = pictures[7].clone()
    api = kind(lambda api, image: RuntimeError("no") if torch.equal(image, bad) else None)
    labels, errors, spent = ask(api, pictures)
    assert list(errors) == [7]
    assert str(errors[7]) == "no"
    others = [number for number in range(20) if number != 7]
    assert torch.equal(labels[others], TRIGGER(pictures)[others])
    assert spent == (40 if kind is Api else 20)  # a call, which failed, and each picture alone


@KINDS
@pytest.mark.parametrize(
    "later",
    [
        lambda: RetryLater(30),
        lambda: TimeoutError("slow"),
        lambda: ConnectionResetError("gone"),
        lambda: type("Limited", (Exception,), {"status_code": 429})("429"),
    ],
)
def test_after_a_wait_nothing_that_was_answered_is_asked_again(
    kind: type[Api], later: Callable[[], Exception], waits: list[float]
) -> None:
    pictures = plain_images(20)
    api = kind(at(8, later))
    asker_notes: list[str] = []
    labels, errors, spent = ask(api, pictures, told=asker_notes.append)
    assert not errors
    assert torch.equal(labels, TRIGGER(pictures))
    assert waits == [30.0 if isinstance(later(), RetryLater) else 1.0]
    assert any("waiting" in note for note in asker_notes)
    if kind is Streaming:
        assert (api.sent, spent) == (21, 21)  # each once, and the one that was refused once more
    else:
        assert api.sent == 8 + 20  # the answers of a call that raises never arrive
        assert spent == 20 + 20


@KINDS
def test_five_errors_in_a_row_stop_the_run(kind: type[Api], waits: list[float]) -> None:
    pictures = plain_images(40)
    api = kind(after(0, lambda: ValueError("the line\nis dead")))
    _, errors, _ = ask(api, pictures)
    assert len(errors) == 40
    assert sum(isinstance(error, ValueError) for error in errors.values()) in (5, 6)
    stopped = [error for error in errors.values() if isinstance(error, ClassifierStoppedError)]
    assert "failed 5 times in a row, at last with ValueError: the line is dead" in str(stopped[0])
    assert api.sent <= 7
    assert not waits


@KINDS
def test_errors_with_answers_in_between_do_not_stop_it(kind: type[Api]) -> None:
    pictures = plain_images(40)
    bad = {number for number in range(40) if number % 3}
    pictures[sorted(bad), 0, 0, 0] = 1.0
    api = kind(lambda api, image: ValueError("no") if image[0, 0, 0] == 1 else None)
    labels, errors, _ = ask(api, pictures)
    assert set(errors) == bad
    assert torch.equal(labels[::3], TRIGGER(pictures)[::3])


@KINDS
def test_images_that_it_does_not_take_do_not_stop_it(kind: type[Api]) -> None:
    api = kind(lambda api, image: InvalidImageError("grey") if api.sent < 35 else None)
    _, errors, _ = ask(api, plain_images(20))
    assert not any(isinstance(error, ClassifierStoppedError) for error in errors.values())


@KINDS
def test_a_run_does_not_wait_for_ever(kind: type[Api], waits: list[float]) -> None:
    api = kind(after(4, lambda: RetryLater(100)))
    labels, errors, _spent = ask(api, plain_images(20), longest_wait=250)
    assert waits == [100, 100]
    assert api.sent <= 20
    assert isinstance(errors[19], ClassifierStoppedError)
    assert "waits for 250 s at most until an answer arrives: ask again in 100 s" in str(errors[19])
    if kind is Streaming:
        assert set(errors) == set(range(4, 20))
        assert torch.equal(labels[:4], TRIGGER(plain_images(20))[:4])


def test_waits_grow_and_begin_anew_with_an_answer(waits: list[float]) -> None:
    pattern = iter([*[RetryLater()] * 8, None, RetryLater(0), None])
    asker = Asker(CallableClassifier(Api(lambda api, image: next(pattern))), Budget(), Asking())
    asker.ask(plain_images(1), [0], set())
    assert waits == [1, 2, 4, 8, 16, 32, 60, 60]
    asker.ask(plain_images(1), [0], set())
    assert waits[8:] == [0.1]  # never none at all: else "retry in 0 seconds" would not end


@pytest.mark.parametrize("seconds", [float("nan"), float("inf"), -5.0])
def test_times_that_are_none_do_not_matter(seconds: float, waits: list[float]) -> None:
    _, errors, _ = ask(Streaming(at(2, lambda: RetryLater(seconds))), plain_images(3))
    assert not errors
    assert waits in ([1.0], [0.1])


@KINDS
def test_what_is_sent_again_counts_in_the_budget(kind: type[Api]) -> None:
    _labels, errors, spent = ask(kind(at(8, RetryLater)), plain_images(20), budget=20)
    assert spent == 20
    assert errors
    assert all(isinstance(error, QueryBudgetError) for error in errors.values())


def test_a_slow_function_gets_few_pictures_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    now, sizes = 0.0, []

    def slow(images: Tensor) -> Tensor:
        nonlocal now
        sizes.append(len(images))
        now += 0.1 * len(images)
        return TRIGGER(images)

    monkeypatch.setattr("maskrestore.defense.asking.time.monotonic", lambda: now)
    asker = Asker(CallableClassifier(slow), Budget(), Asking())
    for _ in range(2):
        labels, _ = asker.ask(plain_images(70), range(70), set())
        assert torch.equal(labels, TRIGGER(plain_images(70)))
    assert sizes == [70, 32, 32, 6]


def test_a_function_gets_few_large_pictures_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []

    def classify(images: torch.Tensor) -> torch.Tensor:
        sizes.append(len(images))
        return images[:, 0, 0, 0].round().long()

    images = torch.rand(3, 3, 32, 32)
    expected = BDMAE(MeanRestorer()).purify(images, classify)
    assert max(sizes) > 2
    for pixels, most in ((2 * 32 * 32, 2), (1, 1)):
        sizes.clear()
        monkeypatch.setattr("maskrestore.defense.asking._PIXELS_OF_A_CALL", pixels)
        found = BDMAE(MeanRestorer()).purify(images, classify)
        assert max(sizes) == most
        assert torch.equal(found.images, expected.images)
        assert torch.equal(found.queries, expected.queries)


def test_a_model_on_this_machine_is_asked_image_by_image_if_it_fails() -> None:
    class Choosy(torch.nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            assert not (images[:, 0, 0, 0] == 1).any(), "too bright"
            return torch.stack([images.mean((1, 2, 3)), images.amax((1, 2, 3))], dim=1)

    pictures = plain_images(12)
    pictures[4, 0, 0, 0] = 1
    budget = Budget()
    asker = Asker(ModuleClassifier(Choosy(), micro_batch=4), budget, Asking())
    _labels, errors = asker.ask(pictures, [number // 3 for number in range(12)], set())
    assert set(errors) == {1}
    assert budget.spent == 24


def test_a_pipeline_of_a_server_neither_waits_nor_stops(waits: list[float]) -> None:
    pipeline = BDMAE(MeanRestorer(), "fast").pipeline(Api(after(0, RetryLater)))
    for number in range(8):
        pipeline.submit([number], plain_images(1, seed=number))
    found: list[StreamResult] = []
    while len(pipeline):
        found += pipeline.step()
    assert len(found) == 8
    assert all(isinstance(one.error, RetryLater) for one in found)
    assert not waits


@pytest.mark.parametrize("profile", ["paper", "fast"])
def test_images_that_fail_in_the_middle_do_not_change_the_others(profile: str) -> None:
    images = TRIGGER.stamp(plain_images(6))
    defense = BDMAE(MeanRestorer(), profile)
    clean = [defense.purify(image, TRIGGER) for image in images]
    failed_at_some = False
    for count in (3, 9, 40, 80, 150):
        api = Streaming(at(count, lambda: RuntimeError("no")))
        stream = [StreamItem(id=number, image=image) for number, image in enumerate(images)]
        found = list(defense.purify_stream(stream, api))
        assert [one.id for one in found] == list(range(6))
        assert sum(one.error is not None for one in found) <= 1
        for one, expected in zip(found, clean, strict=True):
            if one.result is not None:
                assert torch.equal(one.result.images, expected.images)
                assert torch.equal(one.result.queries, expected.queries)
                assert torch.equal(one.result.labels, expected.labels)
            else:
                failed_at_some = True
    assert failed_at_some


def test_answers_survive_the_run(tmp_path: Any) -> None:
    pictures = plain_images(20)
    cache = AnswerCache(tmp_path / "answers.sqlite", "a model")
    api = Streaming(after(12, lambda: RuntimeError("dead")))
    ask(api, pictures, cache=cache)
    cache.close()
    again = AnswerCache(tmp_path / "answers.sqlite", "a model")
    fresh = Streaming(never)
    labels, errors, spent = ask(fresh, pictures, cache=again)
    assert (fresh.sent, spent, again.found) == (8, 8, 12)
    assert not errors
    assert torch.equal(labels, TRIGGER(pictures))
    other = AnswerCache(tmp_path / "answers.sqlite", "another model")
    assert ask(Streaming(never), pictures, cache=other)[2] == 20
