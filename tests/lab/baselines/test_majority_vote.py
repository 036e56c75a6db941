from collections import Counter

import pytest
import torch
from torch import Tensor

from maskrestore.errors import ConfigError, UnknownNameError
from maskrestore.lab.baselines.majority_vote import MajorityVote, MajorityVoteConfig


class Recording:
    """Labels by one pixel, in five steps, and keeps what it was asked."""

    def __init__(self) -> None:
        self.calls: list[tuple[Tensor, Tensor]] = []

    def __call__(self, images: Tensor) -> Tensor:
        labels = (images[:, 0, 0, 0] * 5).long().clamp(max=4)
        self.calls.append((images, labels))
        return labels


@pytest.mark.parametrize("noise", ["gaussian", "uniform"])
def test_the_most_frequent_label_of_the_copies_is_the_answer(noise: str) -> None:
    images = torch.rand(20, 3, 6, 6, generator=torch.Generator().manual_seed(0))
    config = MajorityVoteConfig(copies=15, noise=noise, strength=0.2)
    classifier = Recording()
    result = MajorityVote(config).purify(images, classifier)
    (_, original), (copies, votes) = classifier.calls
    assert torch.equal(result.original_labels, original)
    assert copies.shape == (300, 3, 6, 6)
    for row, rows in enumerate(votes.view(20, 15).tolist()):
        counts = Counter(rows)
        winner = max(counts, key=lambda label: (counts[label], label))
        assert int(result.labels[row]) == winner
        assert torch.equal(result.images[row], copies[15 * row + rows.index(winner)])
    assert len(copies.flatten(1).unique(dim=0)) == 300, "copies are equal"
    assert result.queries.tolist() == [16] * 20


def test_noise_has_the_strength_asked_for() -> None:
    grey = torch.full((1, 3, 16, 16), 0.5)
    for noise, std in (("gaussian", 0.1), ("uniform", 0.1 / 3**0.5)):
        classifier = Recording()
        MajorityVote(MajorityVoteConfig(noise=noise, strength=0.1)).purify(grey, classifier)
        added = classifier.calls[1][0] - grey
        assert added.std().item() == pytest.approx(std, rel=0.03)
        assert added.mean().item() == pytest.approx(0, abs=std / 20)
        assert noise == "gaussian" or added.abs().max() <= 0.1 + 1e-6


def test_a_trigger_that_noise_breaks_is_voted_away() -> None:
    def fragile(images: Tensor) -> Tensor:
        """A backdoor that needs one exact value."""
        return torch.where(images[:, 0, 0, 0] == 0.75, 1, 0)

    images = torch.full((2, 1, 4, 4), 0.5)
    images[1, 0, 0, 0] = 0.75
    result = MajorityVote().purify(images, fragile)
    assert result.original_labels.tolist() == [0, 1]
    assert result.labels.tolist() == [0, 0]


def test_settings_are_checked() -> None:
    with pytest.raises(ConfigError, match="copies"):
        MajorityVoteConfig(copies=0)
    with pytest.raises(ConfigError, match="strength"):
        MajorityVoteConfig(strength=0.0)
    with pytest.raises(UnknownNameError, match="gaussian"):
        MajorityVoteConfig(noise="pepper")  # type: ignore[arg-type]
