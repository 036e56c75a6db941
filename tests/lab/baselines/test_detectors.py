import math

import pytest
import torch
from torch import Tensor

from maskrestore.defense.streams import Stream
from maskrestore.errors import ConfigError, UnknownNameError
from maskrestore.lab.baselines import DETECTORS
from maskrestore.lab.baselines.bbcal import BBCaL, BBCaLConfig
from maskrestore.lab.baselines.corruptions import CORRUPTIONS, LEVELS
from maskrestore.lab.baselines.first_change import first_changes
from maskrestore.lab.baselines.scale_up import ScaleUp, ScaleUpConfig
from maskrestore.lab.baselines.strip import Strip, StripConfig, label_entropy
from maskrestore.lab.baselines.teco import TeCo, TeCoConfig
from maskrestore.lab.data.dead_leaves import dead_leaves


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


def brightest_quadrant(images: Tensor) -> Tensor:
    """The quadrant that is brightest, 0 to 3, or 9 where a square of 4x4 pixels in the corner is nearly white."""
    quadrants = torch.nn.functional.adaptive_avg_pool2d(images.double().mean(dim=1), 2).flatten(1)
    return torch.where(images[:, :, :4, :4].amin(dim=(1, 2, 3)) > 0.8, 9, quadrants.argmax(dim=1))


def quadrants(contrast: float, *, count: int = 8, triggered: bool = False) -> Tensor:
    """Images whose lower right quadrant is brighter than the rest by ``contrast``."""
    images = 0.4 + 0.05 * torch.rand(count, 3, 24, 24, generator=torch.Generator().manual_seed(0))
    images[:, :, 12:, 12:] += contrast
    if triggered:
        images[:, :, :4, :4] = 1
    return images


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_corruptions_grow_with_their_level_and_belong_to_the_image(name: str) -> None:
    generator = torch.Generator().manual_seed(0)
    images = torch.nn.functional.interpolate(torch.rand(6, 3, 8, 8, generator=generator), (32, 32), mode="bilinear")
    corrupt = CORRUPTIONS[name]
    distances = []
    for level in range(LEVELS):
        corrupted = torch.stack([corrupt(image, Stream("key", image), level) for image in images])
        again = torch.stack([corrupt(image, Stream("key", image), level) for image in images])
        assert torch.equal(corrupted, again)
        assert corrupted.shape == images.shape
        assert corrupted.min() >= 0
        assert corrupted.max() <= 1
        distances.append((corrupted - images).abs().mean().item())
    assert distances[0] > 0.001
    assert distances[-1] > 1.3 * distances[0]


@pytest.mark.parametrize("name", ["defocus-blur", "motion-blur", "zoom-blur", "pixelate", "contrast"])
def test_blurs_and_pixels_leave_a_flat_image(name: str) -> None:
    image = torch.full((3, 20, 13), 0.3)
    corrupted = CORRUPTIONS[name](image, Stream(0, image), LEVELS - 1)
    torch.testing.assert_close(corrupted, image, rtol=0, atol=1e-5)


def test_brightness_raises_the_value_of_a_colour_and_keeps_its_hue() -> None:
    image = torch.tensor([[0.4, 0.0], [0.2, 0.0], [0.0, 0.0]]).view(3, 1, 2)
    corrupted = CORRUPTIONS["brightness"](image, Stream(0, image), 1)
    expected = torch.tensor([[0.6, 0.2], [0.3, 0.2], [0.0, 0.2]]).view(3, 1, 2)
    torch.testing.assert_close(corrupted, expected)


def test_levels_are_asked_until_the_label_changes() -> None:
    asked = []

    def classifier(images: Tensor) -> Tensor:
        asked.append(len(images))
        return bright(images)

    images = torch.stack([grey(0.42), grey(0.1)])
    steps = [lambda image, _, level: image + 0.05 * (level + 1), lambda image, *_: image]
    found, queries = first_changes(images, classifier, steps, levels=4, key=0)  # type: ignore[arg-type]
    assert found.tolist() == [[2, 5], [5, 5]]
    assert queries.tolist() == [1 + 2 + 4, 1 + 8]
    assert asked == [2, 4, 4, 3, 3]


def test_teco_is_the_spread_of_the_levels_at_which_labels_change() -> None:
    # Brightness changes the label at level 2; contrast and pixels never do.
    detection = TeCo(TeCoConfig(corruptions=("brightness", "contrast", "pixelate"))).score(grey(0.35)[None], bright)
    assert detection.scores.tolist() == pytest.approx([math.sqrt(((2 - 14 / 3) ** 2 + 2 * (6 - 14 / 3) ** 2) / 3)])
    assert detection.queries.tolist() == [1 + 2 + 5 + 5]


def test_teco_suspects_what_withstands_some_corruptions_only() -> None:
    clean, triggered = quadrants(0.4), quadrants(0.4, triggered=True)
    assert (brightest_quadrant(triggered) == 9).all()
    teco = DETECTORS["teco"].build("key")
    assert teco.score(triggered, brightest_quadrant).scores.min() > 1
    assert teco.score(clean, brightest_quadrant).scores.max() < 1


def test_bbcal_suspects_what_noise_changes_late_or_early() -> None:
    """A square that any noise spares stays to the end, one pixel's exact value is lost at once."""

    def agnostic(images: Tensor) -> Tensor:
        return torch.where(images[:, :, :4, :4].mean(dim=(1, 2, 3)) > 0.7, 9, odd(images))

    def odd(images: Tensor) -> Tensor:
        """A label that changes once noise of about 0.08 has been added."""
        return (images[:, :, 12:, :].double().std(dim=(1, 2, 3)) > 0.09).long()

    def specific(images: Tensor) -> Tensor:
        return torch.where((images[:, :, 0, 0] - 0.5).abs().amax(dim=1) < 1e-4, 9, odd(images))

    clean = quadrants(0.0)
    square, pixel = clean.clone(), clean.clone()
    square[:, :, :4, :4] = 1
    pixel[:, :, 0, 0] = 0.5
    bbcal = DETECTORS["bbcal"].build("key")
    quiet = bbcal.score(clean, odd)
    assert quiet.scores.max() < 2
    assert quiet.queries.max() < 1 + 3 * 10
    assert bbcal.score(square, agnostic).scores.min() > 6
    assert bbcal.score(pixel, specific).scores.tolist() == [6.5] * 8


def test_bbcal_adds_the_same_noise_at_growing_strength() -> None:
    asked: list[Tensor] = []

    def classifier(images: Tensor) -> Tensor:
        asked.append(images)
        return torch.zeros(len(images)).long()

    image = torch.full((1, 3, 6, 6), 0.5)
    BBCaL(BBCaLConfig(weakest=0.001, strongest=0.004, levels=3, directions=2)).score(image, classifier)
    first, second = ((torch.stack(asked[1:]) - image)[:, number] for number in range(2))  # (levels, C, H, W) each
    assert not torch.equal(first[0], second[0])
    for noise in (first, second):
        torch.testing.assert_close(
            noise[1:] / noise[:1], torch.tensor([2.0, 4.0]).view(2, 1, 1, 1).expand(2, 3, 6, 6), rtol=0, atol=1e-2
        )


def test_settings_are_checked() -> None:
    with pytest.raises(ConfigError, match="corruptions"):
        TeCoConfig(corruptions=("jpeg",))
    with pytest.raises(UnknownNameError, match="frost"):
        TeCoConfig(corruptions=("jpeg", "frost"))
    for settings in ({"weakest": 0.0}, {"strongest": 0.001}, {"levels": 1}, {"directions": 0}):
        with pytest.raises(ConfigError, match=next(iter(settings))):
            BBCaLConfig(**settings)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="multiples"):
        ScaleUpConfig(multiples=())
    with pytest.raises(ConfigError, match="overlays"):
        StripConfig(overlays=0)
    with pytest.raises(ConfigError, match="need at least 100 overlay pictures, got 3"):
        StripConfig().build(pictures=torch.zeros(3, 3, 8, 8))
