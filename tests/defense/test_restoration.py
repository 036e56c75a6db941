import pytest
import torch

from maskrestore.defense.config import BDMAEConfig
from maskrestore.defense.restoration import adaptive_masks
from maskrestore.errors import ConfigError


def test_thresholds_apply_as_they_are_when_few_tokens_reach_them() -> None:
    scores = torch.zeros(1, 16, 16)
    scores[0, 0, :6] = torch.tensor([0.65, 0.58, 0.52, 0.46, 0.41, 0.39])
    hidden = adaptive_masks(scores, BDMAEConfig())
    assert hidden.flatten(2).sum(dim=2).tolist() == [[1, 2, 3, 4, 5]]


def test_thresholds_rise_until_a_quarter_is_left_and_masks_stay_nested() -> None:
    scores = (
        torch.rand(4, 16, 16, generator=torch.Generator().manual_seed(0)) * torch.tensor([1, 2, 0.5, 30])[:, None, None]
    )
    hidden = adaptive_masks(scores, BDMAEConfig())
    counts = hidden[:, -1].flatten(1).sum(dim=1)
    assert (counts <= 64).all()
    assert counts[0] > 50  # not raised further than needed
    assert (hidden[:, :-1] <= hidden[:, 1:]).all()


def test_an_image_does_not_change_the_thresholds_of_another() -> None:
    scores = torch.rand(8, 16, 16, generator=torch.Generator().manual_seed(1)) * 2
    together = adaptive_masks(scores, BDMAEConfig())
    for row in range(8):
        assert torch.equal(adaptive_masks(scores[row : row + 1], BDMAEConfig())[0], together[row])


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("rounds", 0), ("masks_per_round", 1), ("mask_ratio", 1.0), ("ssim_window", 10), ("ssim_sigma", 0.0),
        ("label_score", "logit"), ("label_weight", 1.5),
        ("contrast_windows", ()), ("contrast_windows", (0,)), ("refinement_steps", -1), ("neighbour_bonus", -0.1),
        ("refinement_rate", -0.1), ("thresholds", (0.4, 0.5)), ("thresholds", ()), ("max_restored", 0.0),
        ("threshold_step", 0.0),
        ("rounds", 2.5), ("rounds", "5"), ("thresholds", 0.5), ("votes", 1.5), ("squares", None),
    ],
)  # fmt: skip
def test_settings_outside_their_range_are_refused_by_name(field: str, value: object) -> None:
    with pytest.raises(ConfigError, match=field):
        BDMAEConfig(**{field: value})  # type: ignore[arg-type]


def test_the_paper_asks_at_most_47_queries() -> None:
    assert BDMAEConfig().max_queries == 47
