import pytest
import torch
from torch import Tensor

from fakes import MeanRestorer, PatchTriggerClassifier, colour_labels, plain_images
from maskrestore.classifiers import CountingClassifier
from maskrestore.defense import BDMAE, PROFILES, within
from maskrestore.defense.beyond_paper.filters import filtered
from maskrestore.defense.beyond_paper.squares import least_restorable_squares, square_scores
from maskrestore.runtime.settings import with_settings

TRIGGER = PatchTriggerClassifier(size=5)
SQUARES = with_settings(
    PROFILES["default"],
    {
        "restoration.thresholds": (3.0,),
        "squares.side": 0.375,
        "squares.label_weight": 1.0,
        "squares.threshold": 0.5,
        **dict.fromkeys(("necessity", "moved", "whole_image", "fragile")),
    },
)
"""No attempt reaches its thresholds, so that squares are all that restores anything."""


def corners_and_sides(squares: Tensor) -> list[tuple[int, int, int, int]]:
    """``(K, g, g)`` -> first row, first column, height, width of each."""
    found = []
    for square in squares:
        rows, columns = square.any(dim=1).nonzero(), square.any(dim=0).nonzero()
        found.append((int(rows[0]), int(columns[0]), len(rows), len(columns)))
        assert square.sum() == len(rows) * len(columns)
    return found


def test_squares_are_the_highest_ones_that_lie_apart() -> None:
    scores = torch.zeros(1, 8, 8)
    scores[0, 0:3, 5:8] = 0.5
    scores[0, 4:7, 1:4] = 0.9
    first, second, third = corners_and_sides(least_restorable_squares(scores, 3, 3)[0])
    assert first == (4, 1, 3, 3)
    assert second == (0, 5, 3, 3)
    assert third[2:] == (3, 3)
    for one, other in ((first, second), (first, third), (second, third)):
        assert max(abs(one[0] - other[0]), abs(one[1] - other[1])) >= 2  # more than half of 3


def test_squares_of_an_image_do_not_depend_on_its_batch() -> None:
    scores = torch.rand(6, 9, 9, generator=torch.Generator().manual_seed(1))
    together = least_restorable_squares(scores, 4, 4)
    assert torch.equal(together[2:3], least_restorable_squares(scores[2:3], 4, 4))


@pytest.mark.parametrize(("grid", "side", "places"), [(1, 1, 1), (2, 1, 4), (4, 4, 1), (3, 7, 1), (4, 2, 4)])
def test_where_no_place_is_left_nothing_is_hidden(grid: int, side: int, places: int) -> None:
    hidden = least_restorable_squares(torch.rand(2, grid, grid), places + 2, side)
    assert hidden[:, 0].flatten(1).any(dim=1).all()
    filled = hidden.flatten(2).any(dim=2).sum(dim=1)
    assert (filled <= places).all()
    assert not hidden[:, places:].any()


def test_a_square_is_as_suspicious_as_its_tokens_and_the_masks_make_it() -> None:
    image_scores = torch.tensor([[0.8, 0.4], [0.0, 0.0]]).expand(2, 2, 2)
    squares = torch.tensor([[[1, 1], [0, 0]], [[0, 0], [1, 1]], [[0, 0], [0, 0]]]).bool().expand(2, 3, 2, 2)
    scores = square_scores(image_scores, squares, torch.tensor([1.0, 0.2]), 0.25)
    # 0.75 * (0.8 + 0.4) / 2 + 0.25 * 1.0, and so on; a square of nothing is not suspicious
    torch.testing.assert_close(scores, torch.tensor([[0.7, 0.25, -torch.inf], [0.5, 0.05, -torch.inf]]))


def test_a_trigger_that_no_attempt_removes_is_removed_as_a_square() -> None:
    clean = plain_images(8)
    stamped = TRIGGER.stamp(clean)
    without = BDMAE(MeanRestorer(), with_settings(SQUARES, {"squares": None})).purify(stamped, TRIGGER)
    assert (without.labels == TRIGGER.target).all()
    result = BDMAE(MeanRestorer(), SQUARES).purify(stamped, TRIGGER)
    assert torch.equal(result.labels, colour_labels(clean))
    assert result.hidden is not None
    for hidden in result.hidden:
        assert corners_and_sides(hidden[None])[0][2:] == (3, 3)  # 0.375 of 8 tokens


@pytest.mark.parametrize(
    ("label_weight", "threshold", "found"), [(1, 0.999, True), (0.25, 0.99, True), (0.25, 0.999, False)]
)
def test_both_s_i_and_the_masks_make_a_square_worth_hiding(label_weight: float, threshold: float, found: bool) -> None:
    """Every mask changes the label here, and S_i is 0.996."""
    config = with_settings(SQUARES, {"squares.label_weight": label_weight, "squares.threshold": threshold})
    labels = BDMAE(MeanRestorer(), config).purify(TRIGGER.stamp(plain_images(4)), TRIGGER).labels
    assert (labels != TRIGGER.target).tolist() == [found] * 4


def test_squares_are_tested_on_clouds_of_pixel_noise() -> None:
    def lost_in_noise(images: Tensor) -> Tensor:
        """The trigger, unless the picture is rough beside it: 1/3 from pixel to pixel in noise, under 0.2 elsewhere."""
        rough = images[..., 16:].diff(dim=3).abs().mean(dim=(1, 2, 3)) > 0.25
        return torch.where(rough, TRIGGER.target + 1, TRIGGER(images))

    stamped = TRIGGER.stamp(plain_images(4, size=32))
    assert (BDMAE(MeanRestorer(), SQUARES).purify(stamped, TRIGGER).labels != TRIGGER.target).all()
    assert (BDMAE(MeanRestorer(), SQUARES).purify(stamped, lost_in_noise).labels == TRIGGER.target).all()


def test_an_image_gets_the_same_bits_in_any_batch() -> None:
    images = plain_images(6)
    images[::2] = TRIGGER.stamp(images[::2])
    together = BDMAE(MeanRestorer(), SQUARES).purify(images, TRIGGER)
    assert len(together.queries.unique()) > 1
    for row, image in enumerate(images):
        alone = BDMAE(MeanRestorer(), SQUARES).purify(image, TRIGGER)
        for name in ("images", "labels", "queries", "hidden", "scores"):
            assert torch.equal(getattr(together, name)[row], getattr(alone, name)[0]), name


def test_images_that_few_masks_change_are_not_asked_about_again() -> None:
    counting = CountingClassifier(colour_labels)
    result = BDMAE(MeanRestorer(), SQUARES).purify(plain_images(4), counting)
    assert result.queries.tolist() == [26] * 4
    assert counting.queries == 4 * 26


@pytest.mark.parametrize("limit", range(26, 48))
def test_squares_spend_what_is_left_and_no_more(limit: int) -> None:
    image = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))

    def whole(images: Tensor) -> Tensor:
        """Every mask changes this label, and no square brings it along."""
        return torch.where((images == image).flatten(1).all(dim=1), 9, 1)

    config = within(SQUARES, limit)
    counting = CountingClassifier(whole)
    result = BDMAE(MeanRestorer(), config).purify(image, counting)
    assert result.queries.item() == counting.queries <= config.max_queries <= limit
    if limit >= 34:  # fewer queries are taken from the masks
        assert counting.queries == 26 + 4 * min(5, (limit - 26) // 4)


def test_squares_that_cannot_be_paid_are_not_restored() -> None:
    class Counting(MeanRestorer):
        masks = 0

        def restore(self, images: Tensor, hidden: Tensor) -> Tensor:
            self.masks += len(hidden) if hidden.ndim == 3 else 0  # several masks of an image come back here as many
            return super().restore(images, hidden)

    restorer = Counting()
    config = with_settings(SQUARES, {"squares.query_limit": 27, "squares.threshold": 0.0})
    BDMAE(restorer, config).purify(TRIGGER.stamp(plain_images(3)), TRIGGER)
    assert restorer.masks == 3 * config.masks.count


def test_squares_heed_their_limit_where_the_rest_may_cost_more() -> None:
    config = with_settings(
        SQUARES, {"refinement.steps": 10, "refinement.candidate_threshold": 10.0, "squares.query_limit": 29}
    )
    assert config.max_queries == 63
    result = BDMAE(MeanRestorer(), config).purify(TRIGGER.stamp(plain_images(3)), TRIGGER)
    assert (result.labels == TRIGGER.target).all()
    assert not result.hidden.any()  # type: ignore[union-attr]


def test_squares_give_way_to_nothing_else() -> None:
    others = ("scattered", "all_to_all", "necessity", "moved", "whole_image", "fragile")
    default = with_settings(PROFILES["default"], dict.fromkeys(others))
    assert default.max_queries == 47
    assert with_settings(default, {"squares": None}).max_queries == 43
    for queries in range(43, 47):
        assert with_settings(within(default, queries), {"squares.query_limit": 47}) == default
        assert within(default, queries).max_queries == queries
    assert within(PROFILES["paper"], 30).squares is None


def test_a_filter_takes_the_place_of_a_restoration_if_it_is_enough() -> None:
    """Noise is lost in a smaller picture. A coarse patch is not, so its restoration stays."""
    noise = torch.zeros(3, 32, 32)
    noise[:, 20:, 20:] = 0.4 * (torch.rand(3, 12, 12, generator=torch.Generator().manual_seed(2)) - 0.5)

    def faint(images: Tensor) -> Tensor:
        share = ((images - images.mean(dim=(2, 3), keepdim=True)) * noise).sum(dim=(1, 2, 3)) / noise.square().sum()
        return torch.where(share > 0.85, TRIGGER.target, colour_labels(images))

    board = torch.tensor([[0.0, 1, 0], [1, 0, 1], [0, 1, 0]])

    def coarse(images: Tensor) -> Tensor:
        """The trigger is a board of 3 x 3 fields, 4 pixels wide; their middles decide."""
        seen = (images[..., 22::4, 22::4] > 0.5).float()
        return torch.where((seen == board).flatten(1).all(dim=1), TRIGGER.target, colour_labels(images))

    with_filters = with_settings(
        PROFILES["default"],
        {
            **{f"squares.{name}": getattr(SQUARES.squares, name) for name in ("side", "label_weight", "threshold")},
            "restoration.thresholds": (3.0,),
            "squares.query_limit": 100,
            "whole_image.query_limit": 1,  # not of the whole image
            **dict.fromkeys(("necessity", "moved", "fragile")),
        },
    )
    clean = plain_images(4, size=32).mean(dim=(2, 3), keepdim=True).expand(-1, -1, 32, 32)
    patched = clean.clone()
    patched[..., 20:, 20:] = board.repeat_interleave(4, 0).repeat_interleave(4, 1)
    for stamped, victim, by_filter in (((clean + noise).clamp(0, 1), faint, True), (patched, coarse, False)):
        result = BDMAE(MeanRestorer(), with_filters).purify(stamped, victim)
        restored = BDMAE(MeanRestorer(), SQUARES).purify(stamped, victim)
        assert (result.labels != TRIGGER.target).all()
        assert result.hidden is not None
        assert restored.hidden is not None
        assert torch.equal(result.hidden, restored.hidden)
        assert torch.equal(result.images, filtered(stamped, "fine", result.hidden)) is by_filter
        assert torch.equal(result.images, restored.images) is not by_filter
        assert (result.queries - restored.queries == 1).all()
        # Where the limit is reached, the restoration is the answer.
        limit = int(restored.queries.max())
        at_the_limit = with_settings(with_filters, {"squares.query_limit": limit})
        assert torch.equal(BDMAE(MeanRestorer(), at_the_limit).purify(stamped, victim).images, restored.images)
        alone = BDMAE(MeanRestorer(), with_filters).purify(stamped[1], victim)
        assert torch.equal(alone.images[0], result.images[1])
