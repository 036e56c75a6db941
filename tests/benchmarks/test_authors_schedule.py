"""The baseline that speed is measured against does the same work: same scores for the same masks."""

import pytest
import torch
from torch import nn

from benchmarks import authors_schedule
from maskrestore import BDMAE, PROFILES, CountingClassifier, MAERestorer, ModuleClassifier
from maskrestore.defense.scores import random_masks
from maskrestore.defense.streams import Stream
from maskrestore.mae.conv import ConvMAE, ConvMAEConfig
from maskrestore.mae.vit import ViTMAE
from maskrestore.mae.vit_config import ViTMAEConfig
from maskrestore.types import Classifier

PAPER = PROFILES["paper"]


def networks() -> dict[str, nn.Module]:
    torch.manual_seed(0)
    vit = ViTMAEConfig(
        image_size=16, patch_size=2, width=32, depth=2, heads=2, decoder_width=32, decoder_depth=2, decoder_heads=2
    )
    conv = ConvMAEConfig(image_size=16, widths=(16, 32), encoder_blocks=(1, 1), decoder_blocks=(1,))
    found: dict[str, nn.Module] = {"vit": ViTMAE(vit).eval(), "conv": ConvMAE(conv).eval()}
    for network in found.values():
        for parameter in network.parameters():
            nn.init.normal_(parameter, std=0.1)
    return found


@pytest.fixture(params=["vit", "conv"])
def network(request: pytest.FixtureRequest) -> nn.Module:
    return networks()[request.param]


@pytest.fixture
def classifier() -> ModuleClassifier:
    torch.manual_seed(1)
    return ModuleClassifier(nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16 * 14 * 14, 5)))


def schedule(network: nn.Module, classifier: Classifier) -> authors_schedule.AuthorsSchedule:
    return authors_schedule.AuthorsSchedule(
        network=network, classifier=classifier, config=PAPER, generator=torch.Generator().manual_seed(0)
    )


def smooth_images(count: int) -> torch.Tensor:
    coarse = torch.rand(count, 3, 4, 4, generator=torch.Generator().manual_seed(2))
    return nn.functional.interpolate(coarse, 16, mode="bilinear")


def test_the_same_masks_give_the_same_scores(network: nn.Module, classifier: ModuleClassifier) -> None:
    images = smooth_images(6)
    ours = BDMAE(MAERestorer(network, precision="float32"), PAPER, key="k").purify(images, classifier)
    hidden = random_masks([Stream("k", image) for image in images], 8, PAPER.masks)
    image_scores, label_scores = schedule(network, classifier).trigger_scores(images, hidden, classifier(images))
    assert ours.initial_image_scores is not None
    assert ours.initial_label_scores is not None
    # Labels flip for some images, else these scores would agree trivially.
    assert 0 < label_scores.max() < 1
    assert (label_scores - ours.initial_label_scores).abs().max() <= 1e-6
    assert image_scores.std() > 0.01
    assert (image_scores - ours.initial_image_scores).abs().max() <= 1e-4


def test_one_pass_and_one_query_after_the_other(network: nn.Module, classifier: ModuleClassifier) -> None:
    passes: list[int] = []
    inner = authors_schedule.restored
    asked = CountingClassifier(classifier)

    def counted(*arguments: object) -> torch.Tensor:
        passes.append(len(arguments[1]))  # type: ignore[arg-type]
        return inner(*arguments)  # type: ignore[arg-type]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(authors_schedule, "restored", counted)
        images = smooth_images(3)
        purified, labels = schedule(network, asked).purify(images)
    assert purified.shape == images.shape
    assert torch.equal(labels, classifier(purified))
    assert set(passes) == {3}
    # 25 masks, up to 10 steps for each score, up to 5 thresholds; restorations are fused and asked about once.
    assert 25 <= len(passes) <= 50
    assert asked.queries == 3 * (1 + 25 + 10 * ((len(passes) - 25) // 10) + 1)


def test_shared_masks_hide_three_quarters_and_every_token() -> None:
    hidden = authors_schedule.shared_masks(8, PAPER, torch.Generator().manual_seed(0))
    assert hidden.shape == (5, 5, 8, 8)
    assert (hidden.flatten(2).sum(2) == 48).all()
    assert hidden[:, :4].any(dim=1).all()
