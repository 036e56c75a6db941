"""A backdoor that is written as a rule."""

from __future__ import annotations

import pytest
import torch
from benchmarks.written_backdoors import TARGET, WrittenBackdoor, patches_in_place

from maskrestore.lab.attacks import make_attack


@pytest.mark.parametrize("need", [1, 3])
def test_the_target_is_the_answer_while_enough_patches_are_in_place(need: int) -> None:
    attack = make_attack("corners", num_classes=10, image_size=96, target=TARGET)
    images = torch.full((3, 3, 96, 96), 0.5)
    backdoor = WrittenBackdoor(clean=lambda pictures: torch.full((len(pictures),), 7), attack=attack, need=need)
    assert backdoor(images).tolist() == [7] * 3
    triggered = attack.apply(images)
    assert patches_in_place(triggered, attack).tolist() == [4] * 3
    triggered[1, :, :48] = 0.5  # two are left
    triggered[2] = 0.5
    assert patches_in_place(triggered, attack).tolist() == [4, 2, 0]
    assert backdoor(triggered).tolist() == [TARGET, TARGET if need <= 2 else 7, 7]
