import pytest
import torch

from maskrestore.mae.micro_batches import MicroBatching, padded

GRID = 4


def masks(*visible: int) -> torch.Tensor:
    """One mask ``(g, g)`` for each number of visible tokens."""
    tokens = torch.arange(GRID * GRID)
    return torch.stack([(tokens >= count).view(GRID, GRID) for count in visible])


def groups(settings: dict[str, object], hidden: torch.Tensor) -> list[tuple[list[int], tuple[int, int], int]]:
    defaults: dict[str, object] = {"grid": GRID, "skips_hidden": True, "width": 768, "on_gpu": False, "size": None}
    batching = MicroBatching(**{**defaults, **settings})  # type: ignore[arg-type]
    return [(group.masks.tolist(), group.visible, group.micro_batch) for group in batching.groups(hidden)]


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        # A wide ViT on a CPU: each number of visible tokens, up to 256 tokens with the class token.
        ({}, [([0, 3], (4, 4), 51), ([1], (5, 5), 42), ([2], (0, 0), 256)]),
        # A narrow one, and any ViT on a GPU: each quarter, and the range between two of them.
        ({"width": 192}, [([0, 3], (4, 4), 8), ([1], (5, 8), 8), ([2], (0, 0), 8)]),
        ({"on_gpu": True}, [([0, 3], (4, 4), 64), ([1], (5, 8), 64), ([2], (0, 0), 64)]),
        # A convolutional network: all masks that hide some tokens but not all.
        ({"skips_hidden": False}, [([0, 1, 3], (1, 16), 8), ([2], (0, 0), 8)]),
        ({"skips_hidden": False, "on_gpu": True}, [([0, 1, 3], (1, 16), 32), ([2], (0, 0), 32)]),
        ({"size": 3}, [([0, 3], (4, 4), 3), ([1], (5, 5), 3), ([2], (0, 0), 3)]),
    ],
)
def test_masks_are_grouped_by_their_number_of_visible_tokens(
    settings: dict[str, object], expected: list[tuple[list[int], tuple[int, int], int]]
) -> None:
    assert groups(settings, masks(4, 5, 0, 4, 16)) == expected  # the last mask hides nothing


def test_padding_repeats_the_first_index() -> None:
    assert padded(torch.tensor([5, 2]), 4).tolist() == [5, 2, 5, 5]
    assert padded(torch.tensor([5, 2]), 2).tolist() == [5, 2]
    assert padded(torch.tensor([], dtype=torch.long), 4).tolist() == []
