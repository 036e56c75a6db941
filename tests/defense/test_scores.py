import pytest
import torch

from maskrestore.defense.beyond_paper.consensus import consensus
from maskrestore.defense.beyond_paper.contrast import contrast_scores
from maskrestore.defense.restoration import fuse
from maskrestore.defense.scores import MaskConfig, ScoreConfig, flip_scores, image_scores, random_masks
from maskrestore.defense.streams import Stream


def streams(count: int, key: int = 0) -> list[Stream]:
    return [Stream(key, torch.full((3, 4, 4), index / 10)) for index in range(count)]


@pytest.mark.parametrize("grid", [14, 16, 5])
@pytest.mark.parametrize(("ratio", "per_round"), [(0.75, 5), (0.5, 2), (0.9, 3), (0.75, 11)])
def test_masks_hide_the_ratio_exactly_and_every_token_in_each_round(grid: int, ratio: float, per_round: int) -> None:
    config = MaskConfig(hidden_ratio=ratio, per_round=per_round)
    hidden = random_masks(streams(4), grid, config)
    assert hidden.shape == (4, 5, per_round, grid, grid)
    visible = (~hidden).flatten(3).sum(dim=3)
    assert (visible == round((1 - ratio) * grid * grid)).all()
    assert hidden.any(dim=2).all()


def test_masks_differ_between_rounds_images_and_keys_and_replay() -> None:
    config = MaskConfig()
    hidden = random_masks(streams(2), 16, config)
    assert not torch.equal(hidden[0], hidden[1])
    assert not torch.equal(hidden[0, 0], hidden[0, 1])
    assert torch.equal(hidden, random_masks(streams(2), 16, config))
    assert not torch.equal(hidden, random_masks(streams(2, key=1), 16, config))


def test_first_four_visible_sets_partition_the_tokens() -> None:
    hidden = random_masks(streams(1), 16, MaskConfig())
    assert ((~hidden[:, :, :4]).sum(dim=2) == 1).all()


def test_flip_scores_follow_the_definition() -> None:
    hidden = torch.tensor([[[[1, 0], [1, 1]], [[1, 1], [0, 0]]]], dtype=torch.bool)
    flipped = torch.tensor([[True, False]])
    assert flip_scores(flipped, hidden).tolist() == [[[0.5, 0.0], [0.5, 0.5]]]


def test_contrast_removes_flips_that_happen_wherever_the_mask_is() -> None:
    generator = torch.Generator().manual_seed(0)
    hidden = torch.rand(1, 400, 4, 4, generator=generator) < 0.75
    anywhere = torch.rand(1, 400, generator=generator) < 0.6
    assert flip_scores(anywhere, hidden).min() > 0.35
    assert contrast_scores(anywhere, hidden).max() < 0.2
    trigger = hidden[:, :, 1, 2]  # the label flips exactly when token (1, 2) is hidden
    assert contrast_scores(trigger, hidden)[0, 1, 2] == 1
    assert contrast_scores(trigger, hidden).flatten().sort().values[-2] < 0.3


def test_windows_see_a_trigger_that_works_while_any_of_its_tokens_is_visible() -> None:
    generator = torch.Generator().manual_seed(1)
    hidden = torch.rand(1, 200, 6, 6, generator=generator) < 0.75
    gone = hidden[:, :, 2:4, 3:5].flatten(2).all(dim=2)  # the label flips only with all four tokens hidden
    alone, together = contrast_scores(gone, hidden), contrast_scores(gone, hidden, (1, 2))
    assert alone[0, 2:4, 3:5].max() < 0.6
    assert (together[0, 2:4, 3:5] == 1).all()
    assert (together >= alone).all()
    assert together[0, :, 0].max() < 0.4


def test_windows_larger_than_one_token_keep_the_grid() -> None:
    hidden = torch.rand(2, 25, 7, 7) < 0.5
    assert contrast_scores(torch.rand(2, 25) < 0.5, hidden, (3,)).shape == (2, 7, 7)


def test_contrast_is_zero_without_evidence() -> None:
    hidden = torch.ones(1, 3, 2, 2, dtype=torch.bool)
    assert contrast_scores(torch.ones(1, 3, dtype=torch.bool), hidden).sum() == 0


def test_image_scores_rise_where_restoration_differs() -> None:
    config = ScoreConfig()
    image = torch.rand(1, 3, 32, 32)
    hidden = random_masks(streams(1), 16, MaskConfig())
    restored = image[:, None, None].repeat(1, 5, 5, 1, 1, 1)
    assert image_scores(image, restored, hidden, config).abs().max() < 1e-5
    restored[..., 20:24, 20:24] = 1 - restored[..., 20:24, 20:24]
    scores = image_scores(image, restored, hidden, config).mean(dim=1)
    assert scores[0, 10:12, 10:12].min() > 0.2
    assert scores[0, :5, :5].abs().max() < 1e-5


def test_fusing_averages_over_hidden_pixels_only() -> None:
    image = torch.zeros(1, 1, 4, 4)
    restored = torch.stack([torch.full((1, 4, 4), 0.2), torch.full((1, 4, 4), 0.6)]).unsqueeze(0)
    hidden = torch.tensor([[[[1, 0], [0, 0]], [[1, 1], [0, 0]]]], dtype=torch.bool)
    fused = fuse(image, restored, hidden)[0, 0]
    assert fused[0, 0].item() == pytest.approx(0.4)
    assert fused[0, 2].item() == pytest.approx(0.6)
    assert fused[2:].abs().sum() == 0


def test_consensus_is_the_share_of_the_most_frequent_other_label() -> None:
    votes = torch.tensor([[1, 1, 1, 2], [3, 3, 1, 1], [5, 5, 5, 5]])
    assert consensus(votes, torch.tensor([0, 3, 5])).tolist() == [0.75, 0.5, 0.0]
