import torch

from maskrestore.defense.refinement import connected_sets, top_tokens, updated_scores


def test_top_tokens_prefers_the_first_of_equals() -> None:
    scores = torch.tensor([[[0.5, 0.1], [0.5, 0.5]]])
    assert top_tokens(scores, torch.tensor([2])).tolist() == [[[True, False], [True, False]]]
    assert top_tokens(scores, torch.tensor([0])).sum() == 0


def grown(scores: torch.Tensor, size: int, bonus: float, seed: int = 0) -> torch.Tensor:
    count, grid = scores.shape[0], scores.shape[-1]
    candidates = top_tokens(scores, torch.full((count,), 2 * size))
    noise = torch.rand(count, size, grid * grid, generator=torch.Generator().manual_seed(seed))
    tested = connected_sets(scores, candidates, torch.full((count,), size), noise, bonus)
    assert (tested <= candidates).all()
    assert (tested.flatten(1).sum(dim=1) == size).all()
    return tested


def test_sets_have_the_size_stay_among_candidates_and_start_at_the_best() -> None:
    scores = torch.rand(6, 16, 16, generator=torch.Generator().manual_seed(1))
    best = scores.flatten(1).argmax(dim=1)
    for size in (1, 7, 40):
        tested = grown(scores, size, 0.5)
        assert tested.flatten(1).gather(1, best.unsqueeze(1)).all()


def test_the_neighbour_bonus_makes_sets_connected() -> None:
    scores = 0.3 + 0.01 * torch.rand(20, 16, 16, generator=torch.Generator().manual_seed(2))

    def contacts(tested: torch.Tensor) -> int:
        return int((tested[:, 1:] & tested[:, :-1]).sum() + (tested[:, :, 1:] & tested[:, :, :-1]).sum())

    assert contacts(grown(scores, 20, 2.0)) > 1.5 * contacts(grown(scores, 20, 0.0))


def test_each_map_grows_alone() -> None:
    scores = torch.rand(3, 8, 8, generator=torch.Generator().manual_seed(3))
    sizes = torch.tensor([2, 5, 9])
    candidates = top_tokens(scores, 2 * sizes)
    noise = torch.rand(3, 9, 64, generator=torch.Generator().manual_seed(4))
    together = connected_sets(scores, candidates, sizes, noise, 0.5)
    for row in range(3):
        alone = connected_sets(
            scores[row : row + 1], candidates[row : row + 1], sizes[row : row + 1], noise[row : row + 1], 0.5
        )
        assert torch.equal(alone[0], together[row])


def test_update_keeps_the_sum_and_touches_candidates_only() -> None:
    scores = torch.rand(2, 8, 8, generator=torch.Generator().manual_seed(5))
    candidates = top_tokens(scores, torch.tensor([10, 10]))
    tested = top_tokens(scores, torch.tensor([5, 5]))
    updated = updated_scores(scores, tested, candidates, torch.tensor([True, False]), 0.05)
    assert torch.equal(updated[~candidates], scores[~candidates])
    assert torch.allclose(updated.sum(dim=(1, 2)), scores.sum(dim=(1, 2)), atol=1e-4)
    change = updated - scores
    assert torch.allclose(change[0][tested[0]], torch.tensor(0.05))
    assert torch.allclose(change[1][tested[1]], torch.tensor(-0.05))
    rest = candidates & ~tested
    assert torch.allclose(change[0][rest[0]], torch.tensor(-0.05))
