"""What every user may rely on: batch invariance, replay, counted queries, untouched pixels, nothing lost."""

import os
import pickle
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from fakes import MeanRestorer, PatchTriggerClassifier, colour_labels, plain_images
from maskrestore import (
    BDMAE,
    PROFILES,
    BDMAEConfig,
    CountingClassifier,
    MAERestorer,
    ModuleClassifier,
    Purification,
    fast,
    protect,
    with_settings,
    within,
)
from maskrestore.defense.batching import Limits
from maskrestore.defense.streams import key_fingerprint
from maskrestore.errors import (
    ClassifierError,
    ConfigError,
    InvalidImageError,
    PurificationInterruptedError,
    QueryBudgetError,
)
from maskrestore.imaging.patches import tokens_to_pixels
from maskrestore.mae.conv import ConvMAE, ConvMAEConfig

TRIGGER = PatchTriggerClassifier()


def mixed_images(count: int, seed: int = 0) -> Tensor:
    """Every second image carries the trigger."""
    images = plain_images(count, seed=seed)
    images[::2] = TRIGGER.stamp(images[::2])
    return images


def small_network() -> ConvMAE:
    torch.manual_seed(0)
    network = ConvMAE(ConvMAEConfig(image_size=16, widths=(16, 32), encoder_blocks=(1, 1), decoder_blocks=(1,)))
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    return network


def small_module() -> torch.nn.Module:
    torch.manual_seed(1)
    layers = [
        torch.nn.Conv2d(3, 16, 3),
        torch.nn.ReLU(),
        torch.nn.Flatten(),
        torch.nn.Linear(16 * 14 * 14, 5),
    ]
    return torch.nn.Sequential(*layers)


def assert_identical(actual: Purification, expected: Purification) -> None:
    for field in fields(Purification):
        a, b = getattr(actual, field.name), getattr(expected, field.name)
        assert (a is None and b is None) or torch.equal(a, b), f"{field.name} differs"


def rows(result: Purification, index: Tensor) -> Purification:
    return result.select(index)


@pytest.fixture(scope="module", params=["paper", "default"])
def config(request: pytest.FixtureRequest) -> BDMAEConfig:
    return PROFILES[request.param]


@settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(order=st.permutations(range(9)), size=st.integers(1, 9), chunk=st.integers(1, 9))
def test_an_image_gets_the_same_bits_in_any_batch(config: BDMAEConfig, order: list[int], size: int, chunk: int) -> None:
    restorer = MAERestorer(small_network(), micro_batch=4)
    classifier = ModuleClassifier(small_module(), micro_batch=4)
    images = mixed_images(9)
    together = BDMAE(restorer, config, chunk_size=9).purify(images, classifier)
    defense = BDMAE(restorer, config, chunk_size=chunk)
    index = torch.tensor(order)
    parts = [defense.purify(part, classifier) for part in images[index].split(size)]
    assert_identical(Purification.concatenate(parts), rows(together, index))


class Rounds:
    """Counts the calls of a restorer, and of a classifier behind it."""

    def __init__(self) -> None:
        self.restorations, self.questions = 0, 0

    grid = 8

    def restore(self, images: Tensor, hidden: Tensor) -> Tensor:
        self.restorations += 1
        return MeanRestorer(self.grid).restore(images, hidden)

    def ask(self, images: Tensor) -> Tensor:
        self.questions += 1
        return TRIGGER(images)


@pytest.mark.parametrize("count", [1, 9])
def test_the_paper_takes_twelve_rounds_for_any_number_of_images(count: int) -> None:
    rounds = Rounds()
    result = BDMAE(rounds, "paper").purify(mixed_images(count), rounds.ask)
    assert result.queries.max() == 47
    assert rounds.restorations == 12  # all random masks, ten steps of both chains, all final restorations
    assert rounds.questions == 13  # the images, all random masks, ten steps, the purified images


@pytest.mark.parametrize("schedule", [lambda config: config, fast, lambda config: within(config, 1)])
def test_an_image_is_embedded_once(config: BDMAEConfig, schedule: Callable[[BDMAEConfig], BDMAEConfig]) -> None:
    network, embedded = small_network(), []
    embed = network.embed
    network.embed = lambda images: embedded.append(len(images)) or embed(images)  # type: ignore[method-assign]
    BDMAE(MAERestorer(network, precision="float32"), schedule(config)).purify(mixed_images(5), TRIGGER)
    assert embedded == [1] * 5


def test_a_restorer_around_another_gets_plain_images() -> None:
    class Around:
        def __init__(self, restorer: MAERestorer) -> None:
            self.restorer = restorer

        grid = 8

        def __getattr__(self, name: str) -> Any:
            return getattr(self.restorer, name)

        def restore(self, images: Tensor, hidden: Tensor) -> Tensor:
            return self.restorer.restore(images.clamp(0, 1), hidden)

    restorer, images = MAERestorer(small_network(), micro_batch=4), mixed_images(3)
    expected = BDMAE(restorer, "paper").purify(images, TRIGGER)
    assert_identical(BDMAE(Around(restorer), "paper").purify(images, TRIGGER), expected)


@pytest.mark.parametrize(("has_device", "most"), [(False, 10), (True, 50)])
def test_of_large_chunks_a_function_gets_few_pictures_at_once(
    monkeypatch: pytest.MonkeyPatch, has_device: bool, most: int
) -> None:
    """As with a restorer on a GPU: what has a device of its own gets all random masks of a chunk in one call."""
    monkeypatch.setattr("maskrestore.defense.bdmae.ON_CPU", Limits(images=32, pixels=None, masked_pixels=1))
    monkeypatch.setattr(BDMAE, "_limits", Limits(images=64, pixels=None, masked_pixels=10**9))
    asked: list[int] = []

    class Box:
        def __call__(self, images: Tensor) -> Tensor:
            asked.append(len(images))
            return TRIGGER(images)

    box = Box()
    if has_device:
        box.device = torch.device("cpu")  # type: ignore[attr-defined]
    BDMAE(MeanRestorer(), "paper").purify(mixed_images(2), CountingClassifier(box))
    assert max(asked) == most


def test_large_images_are_scored_round_by_round_to_the_same_bits(
    config: BDMAEConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    images, whole = mixed_images(2), Rounds()
    expected = BDMAE(whole, config, chunk_size=2).purify(images, whole.ask)
    for pixels, parts in ((2 * 16 * 16 // 2, 3), (1, 5)):  # two rounds of five at a time, and one
        limits = Limits(images=32, pixels=None, masked_pixels=pixels)
        monkeypatch.setattr("maskrestore.defense.bdmae.ON_CPU", limits)
        rounds = Rounds()
        assert_identical(BDMAE(rounds, config, chunk_size=2).purify(images, rounds.ask), expected)
        assert rounds.restorations == whole.restorations + parts - 1
        assert rounds.questions == whole.questions + parts - 1


_WORKER = """
import sys, torch
torch.set_num_threads(int(sys.argv[1]))
from pathlib import Path
from test_contracts import BDMAE, MAERestorer, ModuleClassifier, mixed_images, small_module, small_network
from dataclasses import asdict
defense = BDMAE(MAERestorer(small_network(), micro_batch=4))
first, last = int(sys.argv[2]), int(sys.argv[3])
result = defense.purify(mixed_images(6)[first:last], ModuleClassifier(small_module(), micro_batch=4))
torch.save(asdict(result), sys.argv[4])
"""


def test_a_split_over_processes_gives_the_same_bits(tmp_path: Path) -> None:
    parts = []
    for threads, first, last in ((1, 0, 2), (2, 2, 6)):
        out = tmp_path / f"{first}.pt"
        tests = Path(__file__).parent
        path = os.pathsep.join((str(tests), str(tests.parent), *filter(None, sys.path)))
        command = [sys.executable, "-c", _WORKER, str(threads), str(first), str(last), str(out)]
        subprocess.run(command, check=True, env={**os.environ, "PYTHONPATH": path})
        parts.append(Purification(**torch.load(out)))
    defense = BDMAE(MAERestorer(small_network(), micro_batch=4))
    whole = defense.purify(mixed_images(6), ModuleClassifier(small_module(), micro_batch=4))
    assert_identical(Purification.concatenate(parts), whole)


def test_the_same_key_replays_and_another_key_draws_other_masks(config: BDMAEConfig) -> None:
    images = mixed_images(4)

    def purified(key: int | str | bytes) -> Purification:
        return BDMAE(MeanRestorer(), config, key=key).purify(images, TRIGGER)

    assert_identical(purified("secret"), purified(b"secret"))  # from a variable or file it comes as bytes
    for one, other in (("secret", "other"), ("7", 7)):
        first, second = purified(one).initial_image_scores, purified(other).initial_image_scores  # type: ignore[arg-type]
        assert first is not None
        assert second is not None
        assert not torch.equal(first, second)


def test_a_fingerprint_names_a_key_without_holding_it() -> None:
    assert key_fingerprint("secret") == key_fingerprint("secret")
    assert key_fingerprint("secret") == key_fingerprint(b"secret") != key_fingerprint("Secret")
    assert "secret" not in key_fingerprint("secret")
    assert len(key_fingerprint("secret" * 100)) == 16


def test_pixels_outside_hidden_are_the_images_own_bits(config: BDMAEConfig) -> None:
    images = mixed_images(8)
    result = BDMAE(MeanRestorer(), config).purify(images, TRIGGER)
    assert result.hidden is not None
    changed = tokens_to_pixels(result.hidden, 16, 16).expand_as(images)
    assert result.hidden.any()
    assert torch.equal(result.images[~changed], images[~changed])


def test_the_trigger_is_found_and_the_label_recovered(config: BDMAEConfig) -> None:
    clean = plain_images(16)
    stamped = TRIGGER.stamp(clean)
    defense = BDMAE(MeanRestorer(), config)
    assert (TRIGGER(stamped) == TRIGGER.target).all()
    result = defense.purify(stamped, TRIGGER)
    assert (result.original_labels == TRIGGER.target).all()
    assert torch.equal(result.labels, colour_labels(clean))
    assert torch.equal(defense.purify(clean, TRIGGER).labels, colour_labels(clean))


def test_an_image_with_nothing_to_restore_comes_back_bit_for_bit_and_unasked() -> None:
    flat = torch.full((3, 3, 16, 16), 0.25)
    counting = CountingClassifier(TRIGGER)
    result = BDMAE(MeanRestorer()).purify(flat, counting)
    assert torch.equal(result.images, flat)
    assert not result.hidden.any()  # type: ignore[union-attr]
    assert result.queries.tolist() == [
        32,
        32,
        32,
    ]  # the masks, a mirrored copy, a noisy one and four filters; nothing restored
    assert counting.queries == 96


def test_queries_equal_the_classifiers_own_count_and_stay_within_47(config: BDMAEConfig) -> None:
    images = mixed_images(8)
    total = 0
    for image in images:
        counting = CountingClassifier(TRIGGER)
        result = BDMAE(MeanRestorer(), config).purify(image, counting)
        assert result.queries.item() == counting.queries <= config.max_queries <= 47
        total += counting.queries
    together = CountingClassifier(TRIGGER)
    assert BDMAE(MeanRestorer(), config).purify(images, together).queries.sum() == together.queries == total


def test_protect_is_a_drop_in_replacement() -> None:
    images = mixed_images(4)
    shielded = BDMAE(MeanRestorer()).protect(TRIGGER)
    labels = shielded(images)
    assert labels.dtype == torch.int64
    assert torch.equal(labels, BDMAE(MeanRestorer()).purify(images, TRIGGER).labels)


def test_a_protected_function_is_asked_about_a_chunk_at_a_time() -> None:
    asked: list[int] = []

    def counted(images: Tensor) -> Tensor:
        asked.append(len(images))
        return TRIGGER(images)

    images = mixed_images(3)
    labels = protect(counted, restorer=MeanRestorer(), chunk_size=1, key=0)(images)
    assert max(asked) == 25
    assert torch.equal(labels, protect(TRIGGER, restorer=MeanRestorer(), key=0)(images))


def test_protect_takes_names_and_a_limit_and_can_be_sent_to_another_process() -> None:
    images = mixed_images(2)
    counting = CountingClassifier(TRIGGER)
    shielded = protect(counting, profile="paper-fast", max_queries=12, key="a secret")
    labels = shielded(images)
    assert counting.queries <= 24
    expected = BDMAE("mae-tiny-32", within(fast(PROFILES["paper"]), 12), key=b"a secret").purify(images, TRIGGER)
    assert torch.equal(labels, expected.labels)
    copied = pickle.loads(pickle.dumps(protect(colour_labels, restorer=MeanRestorer(), key=0)))
    assert torch.equal(copied(images), protect(colour_labels, restorer=MeanRestorer(), key=0)(images))


def test_protect_without_a_key_warns() -> None:
    with pytest.warns(UserWarning, match="predict the masks"):
        protect(TRIGGER, restorer=MeanRestorer())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"profile": "papre"}, "unknown profile 'papre'; known: default, fast, paper, paper-fast"),
        ({"profile": 3}, "expected a BDMAEConfig or the name of a profile, got int"),
        ({"restorer": 3}, "expected a restorer or the name of one, got int"),
        ({"key": ""}, "the key is empty"),
        ({"key": 1.5}, "expected a text, bytes or a whole number as key, got a float"),
    ],
)
def test_what_makes_no_sense_is_refused_before_an_image_is_seen(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        protect(TRIGGER, **({"restorer": MeanRestorer(), "key": 0} | arguments))


def test_a_path_is_no_classifier() -> None:
    with pytest.raises(ClassifierError, match="load_classifier"):
        protect("model.onnx", restorer=MeanRestorer(), key=0)  # type: ignore[arg-type]


@pytest.mark.parametrize("shape", [(1, 16, 16), (3, 24, 16), (3, 7, 9), (3, 40, 33)])
def test_any_size_and_grey_images_work(shape: tuple[int, ...]) -> None:
    images = torch.rand(2, *shape)
    result = BDMAE(MeanRestorer()).purify(images, colour_labels)
    assert result.images.shape == images.shape
    assert result.images.min() >= 0
    assert result.images.max() <= 1


def test_bytes_and_floats_of_the_same_image_give_the_same_result() -> None:
    image = (mixed_images(1)[0] * 255).round().to(torch.uint8)
    defense = BDMAE(MeanRestorer())
    assert_identical(defense.purify(image, TRIGGER), defense.purify(image.float() / 255, TRIGGER))


@pytest.mark.parametrize(
    "images",
    [
        torch.full((1, 3, 8, 8), torch.nan),
        torch.full((1, 3, 8, 8), 1.5),
        torch.zeros(8),
        torch.zeros(0, 3, 8, 8),
    ],
)
def test_bad_images_are_refused_before_any_query(images: Tensor) -> None:
    counting = CountingClassifier(TRIGGER)
    with pytest.raises(InvalidImageError):
        BDMAE(MeanRestorer()).purify(images, counting)
    assert counting.queries == 0


def test_a_classifier_that_raises_half_way_loses_nothing_that_was_finished() -> None:
    images = plain_images(6)
    whole = BDMAE(MeanRestorer()).purify(images[:4], TRIGGER)
    budget = CountingClassifier(TRIGGER, budget=int(whole.queries.sum()) + 5)
    with pytest.raises(PurificationInterruptedError, match="4 of 6") as caught:
        BDMAE(MeanRestorer(), chunk_size=2).purify(images, budget)
    assert isinstance(caught.value.__cause__, QueryBudgetError)
    assert caught.value.partial is not None
    assert_identical(caught.value.partial, whole)


@pytest.mark.parametrize(
    "answer",
    [
        lambda x: torch.rand(len(x), 10),
        lambda x: torch.rand(len(x)),
        lambda x: torch.zeros(len(x) + 1).long(),
    ],
)
def test_answers_that_are_not_labels_are_refused(answer: object) -> None:
    with pytest.raises(PurificationInterruptedError, match="expected"):
        BDMAE(MeanRestorer()).purify(plain_images(2), answer)  # type: ignore[arg-type]


def test_refinement_keeps_the_sum_of_both_scores(config: BDMAEConfig) -> None:
    refining = with_settings(config, {"refinement.steps": 10})
    result = BDMAE(MeanRestorer(), refining).purify(mixed_images(6), TRIGGER)
    moved = 0
    for before, after in (
        (result.initial_image_scores, result.image_scores),
        (result.initial_label_scores, result.label_scores),
    ):
        assert before is not None
        assert after is not None
        assert torch.allclose(before.sum(dim=(1, 2)), after.sum(dim=(1, 2)), atol=1e-3)
        moved += int((before != after).sum())
    assert moved > 0


def test_settings_of_the_class_are_checked() -> None:
    with pytest.raises(ConfigError, match="chunk_size"):
        BDMAE(MeanRestorer(), chunk_size=0)


def test_the_former_arguments_still_work_and_say_what_to_use() -> None:
    images = mixed_images(2)
    with pytest.warns(DeprecationWarning, match="profile="):
        former = protect(TRIGGER, restorer=MeanRestorer(), config="paper", schedule="fast", key=0)
    assert torch.equal(former(images), protect(TRIGGER, restorer=MeanRestorer(), profile="paper-fast", key=0)(images))
    with pytest.warns(DeprecationWarning, match="profile="), pytest.raises(ConfigError, match="got 'faster'"):
        protect(TRIGGER, restorer=MeanRestorer(), schedule="faster", key=0)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="both profile= and config="):
        protect(TRIGGER, restorer=MeanRestorer(), profile="fast", config="paper", key=0)
