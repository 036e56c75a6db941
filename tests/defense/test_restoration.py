import pytest
import torch

from maskrestore.defense.restoration import RestorationConfig, adaptive_masks, fuse


def test_thresholds_apply_as_they_are_when_few_tokens_reach_them() -> None:
    scores = torch.zeros(1, 16, 16)
    scores[0, 0, :6] = torch.tensor([0.65, 0.58, 0.52, 0.46, 0.41, 0.39])
    hidden = adaptive_masks(scores, RestorationConfig())
    assert hidden.flatten(2).sum(dim=2).tolist() == [[1, 2, 3, 4, 5]]


def test_thresholds_rise_until_a_quarter_is_left_and_masks_stay_nested() -> None:
    scores = (
        torch.rand(4, 16, 16, generator=torch.Generator().manual_seed(0)) * torch.tensor([1, 2, 0.5, 30])[:, None, None]
    )
    hidden = adaptive_masks(scores, RestorationConfig())
    counts = hidden[:, -1].flatten(1).sum(dim=1)
    assert (counts <= 64).all()
    assert counts[0] > 50  # not raised further than needed
    assert (hidden[:, :-1] <= hidden[:, 1:]).all()


def test_an_image_does_not_change_the_thresholds_of_another() -> None:
    scores = torch.rand(8, 16, 16, generator=torch.Generator().manual_seed(1)) * 2
    together = adaptive_masks(scores, RestorationConfig())
    for row in range(8):
        assert torch.equal(adaptive_masks(scores[row : row + 1], RestorationConfig())[0], together[row])


def test_large_images_are_fused_in_strips_with_the_same_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    images, restored = torch.rand(2, 3, 13, 9), torch.rand(2, 4, 3, 13, 9)
    hidden = torch.rand(2, 4, 4, 4) > 0.5
    whole = fuse(images, restored, hidden)
    # The same restorations, in another order.
    order = torch.randperm(8)
    source = order.argsort().view(2, 4)
    for pixels in (1, 40, 10**6):
        monkeypatch.setattr("maskrestore.defense.restoration._FUSED_PIXELS", pixels)
        assert torch.equal(fuse(images, restored, hidden), whole)
        assert torch.equal(fuse(images, restored.flatten(0, 1)[order], hidden, source), whole)
    assert torch.equal(fuse(images, restored, torch.zeros_like(hidden)), images)
