import math

import pytest
import torch
from torch import Tensor

from fakes import MeanRestorer, PatchTriggerClassifier, colour_labels, plain_images
from maskrestore.classifiers import CountingClassifier
from maskrestore.defense import BDMAE, PROFILES, within
from maskrestore.defense.beyond_paper.filters import FILTERS, filtered
from maskrestore.defense.beyond_paper.whole_image import WholeImageConfig
from maskrestore.errors import ConfigError
from maskrestore.runtime.settings import with_settings
from maskrestore.types import Classifier

TARGET = 9
SIDE = 32
ALONE = with_settings(PROFILES["default"], {"moved": None, "squares": None, "fragile": None})
"""What earlier stages leave open is left to the filters."""
SMALL = WholeImageConfig().filters
"""Filters for small images."""
COLUMNS = torch.arange(SIDE).float()
BARS = 0.08 * torch.sin(2 * math.pi * 6 * COLUMNS / SIDE).expand(3, SIDE, SIDE)
SLOPE = 0.08 * torch.cos(2 * math.pi * COLUMNS / SIDE).expand(3, SIDE, SIDE)
RAMP = 0.08 * torch.sin(2 * math.pi * COLUMNS / SIDE).expand(3, SIDE, SIDE)
MARKS = torch.zeros(3, SIDE, SIDE)
MARKS[:, 3::8, 3::8] = 0.2
NOISE = 0.15 * (2 * torch.rand(3, SIDE, SIDE, generator=torch.Generator().manual_seed(3)) - 1)


class PatternClassifier:
    """Answers ``TARGET`` where an image goes with a pattern, else :func:`colour_labels`."""

    def __init__(self, pattern: Tensor, least: float = 0.5) -> None:
        self.pattern = pattern
        self.least = least

    def __call__(self, images: Tensor) -> Tensor:
        centred = images - images.mean(dim=(2, 3), keepdim=True)
        share = (centred * self.pattern).sum(dim=(1, 2, 3)) / self.pattern.square().sum()
        return torch.where(share > self.least, TARGET, colour_labels(images))


def smooth_images(count: int) -> Tensor:
    return plain_images(count, size=SIDE).mean(dim=(2, 3), keepdim=True).expand(-1, -1, SIDE, SIDE).contiguous()


@pytest.mark.parametrize("name", SMALL)
def test_a_pattern_over_the_whole_image_is_filtered_out(name: str) -> None:
    pattern = {"periodic": BARS, "marks": MARKS, "slow": SLOPE, "fine": NOISE}[name]
    # Less of the faint ones is enough; then hiding a quarter of the tokens does not help.
    victim = PatternClassifier(pattern, {"fine": 0.4, "marks": 0.3}.get(name, 0.6))
    clean = smooth_images(6)
    stamped = (clean + pattern).clamp(0, 1)
    assert (victim(stamped) == TARGET).all()
    # To this victim fine clouds look like marks.
    grids = (1,) if name == "marks" else (20, 12)
    config = with_settings(ALONE, {"whole_image.filters": (name,), "whole_image.cloud_grids": grids})
    assert (
        (BDMAE(MeanRestorer(), with_settings(config, {"whole_image": None})).purify(stamped, victim).labels)
        .eq(TARGET)
        .all()
    )
    result = BDMAE(MeanRestorer(), config).purify(stamped, victim)
    assert torch.equal(result.labels, colour_labels(clean))
    assert result.hidden is not None
    assert result.hidden.all()
    assert torch.equal(result.images, filtered(stamped, name))
    assert torch.equal(victim(result.images), result.labels)


def test_a_pattern_that_brings_no_label_along_stays() -> None:
    images = (smooth_images(6) + BARS).clamp(0, 1)

    def fragile(pictures: Tensor) -> Tensor:
        """Each image has a label of its own, which any filter takes."""
        same = (pictures.unsqueeze(1) == images).flatten(2).all(dim=2)
        return torch.where(same.any(dim=1), TARGET, colour_labels(pictures))

    result = BDMAE(MeanRestorer(), ALONE).purify(images, fragile)
    assert (result.labels == TARGET).all()
    assert torch.equal(result.images, images)


def test_filters_and_their_results_do_not_depend_on_the_batch() -> None:
    images = (smooth_images(5) + NOISE).clamp(0, 1)
    images[1] = smooth_images(2)[1]
    victim = PatternClassifier(NOISE, 0.6)
    together = BDMAE(MeanRestorer(), ALONE).purify(images, victim)
    for row, image in enumerate(images):
        alone = BDMAE(MeanRestorer(), ALONE).purify(image, victim)
        for name in ("images", "labels", "queries", "hidden"):
            assert torch.equal(getattr(together, name)[row], getattr(alone, name)[0]), name
    for name in FILTERS:
        assert torch.equal(filtered(images, name)[2:3], filtered(images[2:3], name))


@pytest.mark.parametrize("limit", [26, 29, 33, 40, 47])
def test_filters_spend_what_is_left_and_no_more(limit: int) -> None:
    stamped = (smooth_images(2) + SLOPE).clamp(0, 1)
    counting = CountingClassifier(PatternClassifier(SLOPE))
    config = within(PROFILES["default"], limit)
    result = BDMAE(MeanRestorer(), config).purify(stamped, counting)
    assert counting.queries == int(result.queries.sum())
    assert int(result.queries.max()) <= config.max_queries <= limit


def test_small_images_are_filtered_before_squares_take_the_queries() -> None:
    clean = smooth_images(2)
    found = []
    for squares in ({"squares.threshold": 0.0}, {"squares": None}):
        config = with_settings(PROFILES["default"], {**squares, "moved": None, "fragile": None})
        found.append(BDMAE(MeanRestorer(), config).purify((clean + BARS).clamp(0, 1), PatternClassifier(BARS, 0.6)))
    assert torch.equal(found[0].labels, colour_labels(clean))
    assert torch.equal(found[0].queries, found[1].queries)


def test_changes_together_spare_the_queries_of_each_and_miss_no_pattern() -> None:
    clean = smooth_images(2)
    images = torch.cat([clean, (clean + SLOPE).clamp(0, 1)])
    victim = PatternClassifier(SLOPE, 0.3)
    together = PROFILES["fast"]
    assert together.whole_image is not None
    each = with_settings(together, {"whole_image.together": ()})
    first, alone = (BDMAE(MeanRestorer(), config).purify(images, victim) for config in (together, each))
    assert torch.equal(first.labels, alone.labels)
    assert torch.equal(first.labels, colour_labels(torch.cat([clean, clean])))
    spared = 1 + 1 + len(SMALL) - len(together.whole_image.together)  # a mirrored copy, a noisy one, filters
    assert torch.equal(alone.queries[:2] - first.queries[:2], torch.full((2,), spared))


def test_noise_in_one_picture_with_filters_is_that_of_the_look_for_fragile_triggers() -> None:
    images = plain_images(4, size=SIDE)

    def warped(pictures: Tensor) -> Tensor:
        """These very images are taken for the target."""
        same = (pictures.unsqueeze(1) == images).flatten(2).all(dim=2).any(dim=1)
        return torch.where(same, TARGET, colour_labels(pictures))

    config = with_settings(
        PROFILES["fast"], {"whole_image.together": ("noise+fine",), "whole_image.filters": ("slow",)}
    )
    result = BDMAE(MeanRestorer(), config).purify(images, warped)
    assert torch.equal(result.labels, colour_labels(images))
    off = with_settings(config, {"fragile": None})
    assert (BDMAE(MeanRestorer(), off).purify(images, warped).labels == TARGET).all()


def test_fast_finds_a_pattern_over_the_whole_image() -> None:
    clean = smooth_images(2)
    result = BDMAE(MeanRestorer(), "fast").purify((clean + BARS).clamp(0, 1), PatternClassifier(BARS, 0.3))
    assert torch.equal(result.labels, colour_labels(clean))


def not_in_rough_pictures(victim: Classifier, limit: float) -> Classifier:
    """Where neighbouring pixels differ by more than ``limit`` in the mean, the answer is :func:`colour_labels`."""

    def classifier(images: Tensor) -> Tensor:
        rough = (images[..., 1:, :] - images[..., :-1, :]).abs().mean(dim=(1, 2, 3)) > limit
        return torch.where(rough, colour_labels(images), victim(images))

    return classifier


FINE_GRIDS = (20, 12, 10)
"""Clouds that hide no smooth pattern. Their neighbouring pixels differ by about 0.14, 0.09 and 0.07."""
SLOW_ALONE = with_settings(ALONE, {"whole_image.filters": ("slow",), "whole_image.cloud_grids": FINE_GRIDS})


@pytest.mark.parametrize(
    ("pattern", "limit", "found"),
    [
        (RAMP, 0.11, True),  # the first cloud contradicts
        (RAMP, 0.08, False),  # so does the second one
        (SLOPE, 0.11, False),  # the pattern is nearly the same in the mirror
        (SLOPE, 0.2, True),  # no cloud contradicts
    ],
)
def test_one_cloud_may_contradict_a_smooth_pattern_if_the_mirror_agrees(
    pattern: Tensor, limit: float, found: bool
) -> None:
    clean = smooth_images(4)
    stamped = (clean + pattern).clamp(0, 1)
    victim = not_in_rough_pictures(PatternClassifier(pattern, 0.6), limit)
    assert (victim(stamped) == TARGET).all()
    result = BDMAE(MeanRestorer(), SLOW_ALONE).purify(stamped, victim)
    assert torch.equal(result.labels, colour_labels(clean) if found else victim(stamped))
    assert torch.equal(result.images, filtered(stamped, "slow") if found else stamped)


def test_other_patterns_need_all_clouds() -> None:
    stamped = (smooth_images(4) + BARS).clamp(0, 1)  # as RAMP, another one in the mirror
    config = with_settings(SLOW_ALONE, {"whole_image.filters": ("periodic",)})
    for limit, found in ((0.11, False), (0.2, True)):
        victim = not_in_rough_pictures(PatternClassifier(BARS, 0.6), limit)
        assert (victim(stamped.flip(3)) != TARGET).all()
        result = BDMAE(MeanRestorer(), config).purify(stamped, victim)
        assert torch.equal(result.labels != TARGET, torch.full((4,), found))


@pytest.mark.parametrize(("grids", "found"), [((20,), False), ((20, 12), False), ((20, 12, 10), True)])
def test_of_two_clouds_none_may_contradict(grids: tuple[int, ...], found: bool) -> None:
    stamped = (smooth_images(4) + RAMP).clamp(0, 1)
    victim = not_in_rough_pictures(PatternClassifier(RAMP, 0.6), 0.11)
    config = with_settings(SLOW_ALONE, {"whole_image.cloud_grids": grids})
    assert torch.equal(BDMAE(MeanRestorer(), config).purify(stamped, victim).labels != TARGET, torch.full((4,), found))


def test_what_the_mirror_says_does_not_depend_on_the_batch() -> None:
    clean = smooth_images(6)
    images = torch.cat([clean[:2], (clean[2:4] + RAMP).clamp(0, 1), (clean[4:] + SLOPE).clamp(0, 1)])
    ramp, slope = (not_in_rough_pictures(PatternClassifier(one, 0.6), 0.11) for one in (RAMP, SLOPE))

    def victim(pictures: Tensor) -> Tensor:
        return torch.where(ramp(pictures) == TARGET, TARGET, slope(pictures))

    together = BDMAE(MeanRestorer(), SLOW_ALONE).purify(images, victim)
    assert ((together.labels == TARGET) == torch.tensor([False, False, False, False, True, True])).all()
    for row, image in enumerate(images):
        alone = BDMAE(MeanRestorer(), SLOW_ALONE).purify(image, victim)
        for name in ("images", "labels", "queries", "hidden", "suspicion"):
            assert torch.equal(getattr(together, name)[row], getattr(alone, name)[0]), name


def test_a_filtered_image_that_is_another_one_in_the_mirror_does_not_agree() -> None:
    stamped = (smooth_images(4) + RAMP + BARS).clamp(0, 1)
    trigger, arrow = not_in_rough_pictures(PatternClassifier(RAMP, 0.6), 0.11), PatternClassifier(BARS, 0.6)

    def signs(images: Tensor) -> Tensor:
        """The bars point to the other side in the mirror."""
        return torch.where(trigger(images) == TARGET, TARGET, torch.where(arrow(images) == TARGET, 1, 2))

    assert (signs(filtered(stamped, "slow")) == 1).all()
    assert (signs(filtered(stamped, "slow").flip(3)) == 2).all()
    assert (signs(stamped.flip(3)) == 2).all()
    result = BDMAE(MeanRestorer(), SLOW_ALONE).purify(stamped, signs)
    assert torch.equal(result.images, stamped)


@pytest.mark.parametrize("missing", [0, 1])
def test_the_mirror_is_asked_only_if_queries_are_left(missing: int) -> None:
    stamped = (smooth_images(2) + RAMP).clamp(0, 1)
    victim = not_in_rough_pictures(PatternClassifier(RAMP, 0.6), 0.11)
    before = BDMAE(MeanRestorer(), with_settings(ALONE, {"whole_image": None})).purify(stamped, victim).queries
    limit = int(before.max()) + 1 + len(FINE_GRIDS) + 2 - missing  # filtered, on clouds, and both in the mirror
    result = BDMAE(MeanRestorer(), with_settings(SLOW_ALONE, {"whole_image.query_limit": limit})).purify(
        stamped, victim
    )
    assert (result.labels == TARGET).all() == bool(missing)
    assert int(result.queries.max()) == limit - missing


def photographs(count: int) -> tuple[Tensor, Tensor]:
    """Images of one colour each, large enough for photographs, and a texture over all of them."""
    images = plain_images(count, size=96).mean(dim=(2, 3), keepdim=True).expand(-1, -1, 96, 96).contiguous()
    return images, 0.15 * (2 * torch.rand(3, 96, 96, generator=torch.Generator().manual_seed(4)) - 1)


@pytest.mark.parametrize("profile", ["default", "fast"])
def test_a_texture_over_a_photograph_is_blurred(profile: str) -> None:
    images, texture = photographs(3)
    stamped = (images + texture).clamp(0, 1)
    victim = PatternClassifier(texture, 0.6)
    config = PROFILES[profile]
    result = BDMAE(MeanRestorer(), config).purify(stamped, victim)
    assert torch.equal(result.labels, colour_labels(images))
    assert torch.equal(result.images, filtered(stamped, "blurred"))
    without = BDMAE(MeanRestorer(), with_settings(config, {"whole_image": None})).purify(stamped, victim)
    assert (without.labels == TARGET).all()


@pytest.mark.parametrize("sides", [(224, 300), (500, 448), (160, 128)])
def test_a_blur_takes_texture_and_leaves_the_colours_of_a_picture_of_any_shape(sides: tuple[int, int]) -> None:
    picture = torch.full((1, 3, *sides), 0.4)
    picture[..., : sides[1] // 2] = 0.6
    texture = 0.2 * (torch.rand(1, 3, *sides, generator=torch.Generator().manual_seed(7)) - 0.5)
    blurred = filtered(picture + texture, "blurred")
    assert blurred.shape == picture.shape
    away = (blurred - picture).abs()
    assert away[..., : sides[1] // 4].mean() < 0.5 * texture.abs().mean()
    assert away[..., : sides[1] // 4].amax() < 0.1


def test_detail_of_a_photograph_that_is_lost_in_noise_stays() -> None:
    """The edges of an object are enough on smooth clouds, as a pattern is, but not on noise in every pixel."""
    images, texture = photographs(2)
    detailed = (images + texture).clamp(0, 1)

    def object_of_edges(pictures: Tensor) -> Tensor:
        rough = (pictures[..., 1:] - pictures[..., :-1]).abs().mean(dim=(1, 2, 3))
        found = PatternClassifier(texture, 0.6)(pictures)
        return torch.where(rough < 0.2, found, colour_labels(pictures))

    assert (object_of_edges(detailed) == TARGET).all()
    result = BDMAE(MeanRestorer(), "default").purify(detailed, object_of_edges)
    assert (result.labels == TARGET).all()
    assert torch.equal(result.images, detailed)
    smooth = with_settings(PROFILES["default"], {"photographs.filter_grids": (20, 12, 4, 8)})
    assert (BDMAE(MeanRestorer(), smooth).purify(detailed, object_of_edges).labels != TARGET).all()


def test_photographs_have_filters_of_their_own() -> None:
    images = plain_images(1, size=96)
    default = PROFILES["default"]
    few, more = (
        BDMAE(MeanRestorer(), with_settings(default, settings)).purify(images, colour_labels).queries
        for settings in ({"whole_image": None}, {"whole_image.filters": ("slow", "marks")})
    )
    assert (more - few).tolist() == [1]


@pytest.mark.parametrize(
    "settings",
    [
        {"filters": ()},
        {"filters": ("sharp",)},
        {"together": ("fine+sharp",)},
        {"together": ("fine", "slow+fine")},
        {"cloud_grids": ()},
        {"query_limit": 0},
    ],
)
def test_settings_are_checked(settings: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match="whole_image"):
        WholeImageConfig(**settings)  # type: ignore[arg-type]


def test_a_small_patch_is_left_to_the_stages_that_restore_it() -> None:
    trigger = PatchTriggerClassifier()
    clean = plain_images(4)
    result = BDMAE(MeanRestorer(), PROFILES["default"]).purify(trigger.stamp(clean), trigger)
    assert torch.equal(result.labels, colour_labels(clean))
    assert result.hidden is not None
    assert not result.hidden.flatten(1).all(dim=1).any()


@pytest.mark.parametrize("name", FILTERS)
def test_filters_stay_on_the_device_of_the_image(name: str) -> None:
    """The device ``meta`` has shapes and no numbers, and refuses to be mixed with another one, as a GPU does."""
    image = torch.empty(3, SIDE, SIDE, device="meta")
    filtered_image = FILTERS[name].apply(image)
    assert filtered_image.device.type == "meta"
    assert filtered_image.shape == image.shape


def in_a_corner(images: Tensor, texture: Tensor) -> tuple[Tensor, Tensor]:
    """The texture over the lower right quarter of images, and the tokens there, ``(B, 8, 8)`` bool."""
    half = texture.shape[-1] // 2
    region = torch.zeros(len(images), 8, 8, dtype=torch.bool)
    region[:, 4:, 4:] = True
    pattern = torch.zeros_like(texture)
    pattern[:, half:, half:] = texture[:, half:, half:]
    return pattern, region


@pytest.mark.parametrize(
    ("profile", "grid", "least"),
    [("default", 8, 0.7), ("fast", 14, 0.22)],  # the latter outlives a window, so that group testing clears the image
)
def test_a_texture_over_a_square_of_a_photograph_is_blurred_there(profile: str, grid: int, least: float) -> None:
    images, texture = photographs(2)
    pattern, _ = in_a_corner(images, texture)
    region = torch.zeros(2, grid, grid, dtype=torch.bool)
    region[:, grid // 2 :, grid // 2 :] = True
    stamped, victim = (images + pattern).clamp(0, 1), PatternClassifier(pattern, least)
    config = with_settings(PROFILES[profile], {"restoration.thresholds": (3.0,), "scattered": None})
    result = BDMAE(MeanRestorer(grid), config).purify(stamped, victim)
    assert torch.equal(result.labels, colour_labels(images))
    assert result.hidden is not None
    assert torch.equal(result.hidden, region)
    assert torch.equal(result.images, filtered(stamped, "blurred", region))
    assert torch.equal(result.images[..., :48], stamped[..., :48])


def test_a_square_of_a_photograph_that_shows_an_object_stays() -> None:
    """What is in the square decides, and a blur of it changes the label, but the detail alone says nothing."""
    images, texture = photographs(2)
    pattern, region = in_a_corner(images, texture)
    victim = PatternClassifier(pattern, 0.7)

    def object_there(pictures: Tensor) -> Tensor:
        return torch.where(pictures[..., 48:, 48:].mean(dim=(1, 2, 3)) > 0.8, victim(pictures), 3)

    bright = (0.05 * images + 0.85 + pattern).clamp(0, 1)
    assert (object_there(bright) == TARGET).all()
    assert (object_there(filtered(bright, "blurred", region)) != TARGET).all()
    result = BDMAE(MeanRestorer(), with_settings(PROFILES["default"], {"scattered": None})).purify(bright, object_there)
    assert (result.labels == TARGET).all()
    assert torch.equal(result.images, bright)


def test_one_cloud_may_contradict_a_square_but_not_the_whole_photograph() -> None:
    images, texture = photographs(2)

    def lost_in_noise(pattern: Tensor) -> Classifier:
        def classify(pictures: Tensor) -> Tensor:
            rough = pictures.diff(dim=3).abs().mean(dim=(1, 2, 3)) > 0.28  # 1/3 in noise, less in coarser clouds
            return torch.where(rough, 3, PatternClassifier(pattern, 0.7)(pictures))

        return classify

    square = in_a_corner(images, texture)[0]
    config = with_settings(PROFILES["default"], {"scattered": None})
    for pattern, blurred in ((square, True), (texture, False)):
        stamped, victim = (images + pattern).clamp(0, 1), lost_in_noise(pattern)
        assert (victim(stamped) == TARGET).all()
        assert (victim(filtered(stamped, "blurred")) != TARGET).all()
        result = BDMAE(MeanRestorer(), config).purify(stamped, victim)
        assert (result.labels != TARGET).tolist() == [blurred] * 2
        # A single cloud has to agree.
        one = with_settings(config, {"photographs.filter_grids": (96,)})
        assert (BDMAE(MeanRestorer(), one).purify(stamped, victim).labels == TARGET).all()


@pytest.mark.parametrize("profile", ["default", "fast"])
def test_a_blurred_square_gets_the_same_bits_in_any_batch_within_the_bound(profile: str) -> None:
    images, texture = photographs(3)
    pattern, _ = in_a_corner(images, texture)
    images[:2] = (images[:2] + pattern).clamp(0, 1)
    victim = PatternClassifier(pattern, 0.7)
    for settings in ({}, {"squares.query_limit": 31}, {"squares.query_limit": 60, "squares.count": 1}):
        config = with_settings(PROFILES[profile], settings)
        together = BDMAE(MeanRestorer(), config).purify(images, victim)
        assert together.queries.max() <= config.max_queries
        for row, image in enumerate(images):
            alone = BDMAE(MeanRestorer(), config).purify(image, victim)
            for name in ("images", "labels", "queries", "hidden"):
                assert torch.equal(getattr(together, name)[row], getattr(alone, name)[0]), name


def test_a_texture_in_one_corner_of_a_photograph_is_blurred_in_that_corner() -> None:
    """No square is tried here. Where the blur of just one corner changes the label, the rest stays sharp."""
    images, texture = photographs(2)
    pattern = in_a_corner(images, texture)[0]
    corner = torch.zeros(2, 8, 8, dtype=torch.bool)
    corner[:, 2:, 2:] = True  # 10/14 of 8 tokens
    settings = {**dict.fromkeys(("squares", "scattered")), "restoration.thresholds": (3.0,)}
    config = with_settings(PROFILES["default"], settings)
    used = 0
    for seen, less, region in ((pattern, 0, corner), (pattern, 1, None), (texture, 0, None)):
        stamped, victim = (images + seen).clamp(0, 1), PatternClassifier(seen, 0.4)
        limit = used - less if less else 47  # one query too few for the corners
        limited = with_settings(config, {"whole_image.query_limit": limit})
        result = BDMAE(MeanRestorer(), limited).purify(stamped, victim)
        assert torch.equal(result.labels, colour_labels(images))
        assert torch.equal(result.images, filtered(stamped, "blurred", region))
        used = int(result.queries.max())
        assert used <= limit


@pytest.mark.parametrize(
    ("settings", "queries"),
    [
        ({}, 25),  # 1, five groups, the blur, two squares, the corners, four clouds
        ({"squares": None}, 15),
        ({"squares.query_limit": 16}, 20),  # one square
        ({"whole_image.query_limit": 18}, 17),  # no clouds after the squares
        ({"whole_image.query_limit": 11, "photographs.square_count": 5}, 27),  # four squares have a place
        ({"squares.query_limit": 60, "photographs.square_count": 5}, 35),
    ],
)
def test_squares_before_the_whole_keep_to_the_limits(settings: dict[str, object], queries: int) -> None:
    """Group testing clears grey noise. Its blur and its squares change the label, and clouds have another one."""

    def never_sure(pictures: Tensor) -> Tensor:
        colourful = (pictures[:, 0] - pictures[:, 1]).abs().mean(dim=(1, 2)) > 0.02
        steps = pictures.diff(dim=3).abs()
        soft = ((steps > 1e-4) & (steps < 0.05)).double().mean(dim=(1, 2, 3)) > 0.17
        return torch.where(colourful, 2, soft.long())

    noise = torch.rand(2, 1, 96, 96, generator=torch.Generator().manual_seed(5)).expand(-1, 3, -1, -1)
    config = with_settings(PROFILES["fast"], settings)
    result = BDMAE(MeanRestorer(14), config).purify(noise, never_sure)
    assert result.queries.tolist() == [queries] * 2
    assert queries <= config.max_queries
    assert torch.equal(result.images, noise)
