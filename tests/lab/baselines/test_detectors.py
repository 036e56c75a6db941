import math

import pytest
import torch
from torch import Tensor

from maskrestore.errors import ConfigError
from maskrestore.lab.baselines import DETECTORS
from maskrestore.lab.baselines.scale_up import ScaleUp, ScaleUpConfig
from maskrestore.lab.baselines.strip import Strip, StripConfig, dead_leaves, label_entropy


def bright(images: Tensor) -> Tensor:
    return (images.double().mean(dim=(1, 2, 3)) >= 0.5).long()


def backdoored(images: Tensor) -> Tensor:
    """Label 9 where the first pixel is white, else by brightness."""
    return torch.where((images[:, :, 0, 0] == 1).all(dim=1), 9, bright(images))


def grey(value: float, *, triggered: bool = False) -> Tensor:
    image = torch.full((3, 4, 4), value)
    if triggered:
        image[:, 0, 0] = 1
    return image


def test_scale_up_is_the_share_of_multiples_that_keep_the_label() -> None:
    # Dark as they are; bright once the multiple reaches 0.5: from 5, from 7, never, always bright.
    images = torch.stack([grey(0.11), grey(0.08), grey(0.04), grey(0.7)])
    detection = DETECTORS["scale-up"].build().score(images, bright)
    assert detection.scores.tolist() == pytest.approx([0.2, 0.4, 1.0, 1.0])
    assert detection.queries.tolist() == [6] * 4


def test_scale_up_suspects_what_keeps_its_label_when_pixels_saturate() -> None:
    images = torch.stack([grey(0.2), grey(0.2, triggered=True)])
    assert ScaleUp().score(images, backdoored).scores.tolist() == [0.0, 1.0]


def test_scale_up_asks_about_clipped_multiples() -> None:
    asked = []

    def classifier(images: Tensor) -> Tensor:
        asked.append(images)
        return torch.zeros(len(images)).long()

    image = torch.tensor([0.1, 0.3]).view(1, 1, 1, 2)
    ScaleUp(ScaleUpConfig(multiples=(2, 5))).score(image, classifier)
    assert [batch.flatten().tolist() for batch in asked] == [
        pytest.approx([0.1, 0.3]),
        pytest.approx([0.2, 0.6]),
        pytest.approx([0.5, 1.0]),
    ]


def test_entropy_in_bits() -> None:
    votes = torch.tensor([[4, 4, 4, 4], [0, 1, 0, 1], [3, 2, 1, 0], [5, 5, 5, 6]])
    quarter = 0.75 * math.log2(4 / 3) + 0.25 * 2
    assert label_entropy(votes).tolist() == pytest.approx([0.0, 1.0, 2.0, quarter])


def test_strip_on_a_constructed_case() -> None:
    """A quarter of the overlays makes the image bright: the labels have the entropy of 3 : 1."""
    pictures = torch.zeros(100, 3, 4, 4)
    pictures[:25] = 1
    images = torch.stack([grey(0.2), grey(0.2, triggered=True), grey(0.6)])
    detection = StripConfig().build(pictures=pictures).score(images, backdoored)
    # White overlays are the trigger, too: take a classifier without it for the exact value.
    clean = StripConfig().build(pictures=pictures).score(images[:1], bright)
    assert clean.scores.tolist() == pytest.approx([-(0.75 * math.log2(4 / 3) + 0.5)])
    assert detection.scores[1] == 0
    assert detection.scores[0] < 0
    assert detection.queries.tolist() == [100] * 3


def test_strip_adds_and_clips_each_picture_once() -> None:
    asked = []

    def classifier(images: Tensor) -> Tensor:
        asked.append(images)
        return torch.zeros(len(images)).long()

    pictures = torch.linspace(0, 1, 11).view(11, 1, 1, 1).expand(-1, 3, 2, 2)
    Strip(StripConfig(overlays=11), pictures=pictures).score(grey(0.25)[None], classifier)
    (mixed,) = asked
    assert sorted(mixed[:, 0, 0, 0].tolist()) == pytest.approx([min(1.0, 0.25 + i / 10) for i in range(11)])
    asked.clear()
    Strip(StripConfig(overlays=4), pictures=pictures).score(torch.stack([grey(0.0), grey(0.001)]), classifier)
    (mixed,) = asked
    choices = mixed[:, 0, 0, 0].mul(10).round().view(2, 4).tolist()
    assert all(len(set(choice)) == 4 for choice in choices)
    assert set(choices[0]) != set(choices[1])  # each image has its own


def test_a_blind_strip_tells_a_backdoor_from_clean_images() -> None:
    generator = torch.Generator().manual_seed(0)
    clean = 0.3 * torch.rand(12, 3, 24, 24, generator=generator)

    def classifier(images: Tensor) -> Tensor:
        """The quadrant that is brightest, or 9 where the first pixel is white: it stays so under any overlay."""
        quadrants = torch.nn.functional.adaptive_avg_pool2d(images.double().mean(dim=1), 2).flatten(1)
        return torch.where((images[:, :, 0, 0] == 1).all(dim=1), 9, quadrants.argmax(dim=1))

    triggered = clean.clone()
    triggered[:, :, 0, 0] = 1
    strip = DETECTORS["strip"].build("key")
    suspicion = strip.score(triggered, classifier).scores
    assert suspicion.tolist() == [0.0] * 12
    assert strip.score(clean, classifier).scores.max() < -1


def test_rendered_pictures_are_varied_and_belong_to_their_key() -> None:
    pictures = dead_leaves(8, 32, "key")
    assert pictures.shape == (8, 3, 32, 32)
    assert pictures.min() >= 0
    assert pictures.max() <= 1
    assert torch.equal(pictures, dead_leaves(8, 32, "key"))
    assert not torch.equal(pictures, dead_leaves(8, 32, "other"))
    assert all(len(picture.flatten(1).unique(dim=1).T) >= 8 for picture in pictures)  # colours in each
    assert pictures.flatten(1).std(dim=1).min() > 0.1


def test_settings_are_checked() -> None:
    with pytest.raises(ConfigError, match="multiples"):
        ScaleUpConfig(multiples=())
    with pytest.raises(ConfigError, match="overlays"):
        StripConfig(overlays=0)
    with pytest.raises(ConfigError, match="need at least 100 overlay pictures, got 3"):
        StripConfig().build(pictures=torch.zeros(3, 3, 8, 8))
