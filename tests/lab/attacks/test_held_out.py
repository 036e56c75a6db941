"""Later attacks, against what their papers say of them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from maskrestore.errors import ConfigError, UnknownNameError
from maskrestore.lab.attacks import LiraAttack, MultiAttack, make_attack, same_training, training_hooks
from maskrestore.lab.attacks.adap_blend import shown_pieces

GREY = torch.full((1, 3, 32, 32), 0.5)
SPEC = "multi:badnets:2x2-white+corners+blended:15x15"


def noise(count: int) -> Tensor:
    return torch.rand(count, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def test_tact_covers_are_neither_of_the_source_nor_of_the_target() -> None:
    attack = make_attack("tact:3x3-white@4", num_classes=6, target=2)
    may_cover = training_hooks(attack).decoys_of
    assert may_cover is not None
    assert may_cover(torch.arange(6)).tolist() == [True, True, False, True, False, True]
    assert attack.eligible(torch.arange(6)).tolist() == [False, False, False, False, True, False]
    assert attack.trigger_mask(32, 32).nonzero().min(0).values.tolist() == [28, 28]


def test_tact_takes_the_class_after_the_target_and_any_other_but_the_target() -> None:
    last = make_attack("tact", num_classes=6, target=5)
    assert last.eligible(torch.arange(6)).nonzero().tolist() == [[0]]
    for source in ("2", "6", "x", "-1"):
        with pytest.raises(ConfigError, match="needs a source class of 0 to 5, not the target 2"):
            make_attack(f"tact:@{source}", num_classes=6, target=2)
    with pytest.raises(UnknownNameError, match="colour"):
        make_attack("tact:3x3-pink", num_classes=6)


@pytest.mark.parametrize(("height", "width"), [(32, 32), (40, 33), (8, 12)])
def test_half_of_sixteen_pieces_show(height: int, width: int) -> None:
    shown = shown_pieces(50, height, width, torch.Generator().manual_seed(0))
    assert shown.shape == (50, 1, height, width)
    rows, columns = ([side * (2 * piece + 1) // 8 for piece in range(4)] for side in (height, width))
    pieces = shown[:, 0, rows][..., columns]
    assert pieces.sum((1, 2)).tolist() == [8] * 50
    assert pieces.mean(0).min() > 0.2
    assert pieces.mean(0).max() < 0.8


def test_adap_blend_shows_in_training_what_it_blends_in_at_the_test_fainter() -> None:
    attack = make_attack("adap-blend", num_classes=10)
    hooks = training_hooks(attack)
    assert hooks.vary is not None
    assert hooks.decoy is not None
    whole = attack.apply(GREY) - GREY
    assert whole.abs().max() <= 0.1 + 1e-6
    for change in (hooks.vary, hooks.decoy):
        part = change(GREY, torch.Generator().manual_seed(1)) - GREY
        changed = part != 0
        assert 0.4 < changed.float().mean() < 0.6
        torch.testing.assert_close(part[changed], 0.75 * whole[changed], rtol=0, atol=1e-6)


def test_adap_patch_shows_one_faint_symbol_in_training_and_two_opaque_ones_at_the_test() -> None:
    attack = make_attack("adap-patch", num_classes=10)
    vary = training_hooks(attack).vary
    assert vary is not None
    shown = (vary(GREY.expand(60, -1, -1, -1), torch.Generator().manual_seed(0)) - GREY).abs()
    quarters = torch.stack([shown[:, :, :16, :16], shown[:, :, :16, 16:], shown[:, :, 16:, :16], shown[:, :, 16:, 16:]])
    strongest = quarters.flatten(2).max(2).values.T  # (images, quarters)
    assert ((strongest > 0).sum(1) == 1).all()
    assert (strongest > 0).any(0).all()
    # half of the opacities, because the image is grey
    assert strongest.max() <= 0.25 + 1e-6
    tested = (attack.apply(GREY) - GREY).abs()
    assert tested[:, :, :16, :16].max() == tested[:, :, 16:, :16].max() == 0
    assert tested[:, :, 16:, 16:].max() == 0.5
    assert tested[:, :, :16, 16:].max() > 0.3


def test_reflections_brighten_and_differ_between_images() -> None:
    attack = make_attack("refool", num_classes=10)
    images = noise(40)
    after = attack.apply(images)
    black = attack.apply(torch.zeros(1, 3, 32, 32))
    assert 0 < black.max() <= 0.45 ** (1 / 2.2) + 1e-6  # the heaviest reflection of white
    changes = (after**2.2 - images**2.2).mean((2, 3))  # the mean colour of each reflection, in linear light
    assert len((changes * 100).round().unique(dim=0)) > 15
    large = attack.apply(torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(3)))
    assert large.shape == (2, 3, 64, 64)


def test_a_small_change_of_the_image_may_give_it_another_reflection() -> None:
    attack = make_attack("refool", num_classes=10)
    images = torch.full((32, 3, 32, 32), 128 / 255)
    images.flatten(1)[:, 0] += torch.arange(32) / 255
    after = attack.apply(images)
    assert len({tuple(image[:, 5, 5].tolist()) for image in after}) == 32


def test_lira_draws_bounded_noise_that_is_differentiable() -> None:
    attack = make_attack("lira", num_classes=10, seed=2)
    assert isinstance(attack, LiraAttack)
    with torch.no_grad():
        attack.networks["noise"].up[-1][-1][-1].bias.fill_(9.0)  # type: ignore[index] # the last layer before tanh
    change = attack.apply(GREY) - GREY
    torch.testing.assert_close(change, torch.full_like(change, 8 / 255), rtol=0, atol=1e-4)
    attack.noisy(GREY).sum().backward()
    assert any(weight.grad is not None for weight in attack.networks.parameters())


def test_the_first_of_several_triggers_is_tested_and_training_shows_all() -> None:
    specs = SPEC.removeprefix("multi:").split("+")
    first, other = (make_attack(spec, num_classes=10) for spec in (SPEC, f"multi:{'+'.join(specs[::-1])}"))
    assert isinstance(first, MultiAttack)
    parts = [make_attack(spec, num_classes=10).apply(GREY) for spec in specs]
    assert torch.equal(first.apply(GREY), parts[0])
    assert torch.equal(other.apply(GREY), parts[-1])
    shown = []
    for attack in (first, other):
        vary = training_hooks(attack).vary
        assert vary is not None
        shown.append(vary(GREY.expand(60, -1, -1, -1), torch.Generator().manual_seed(0)))
    assert torch.equal(shown[0], shown[1]), "the order must not matter in training"
    found = [sum(torch.equal(image, part[0]) for image in shown[0]) for part in parts]
    assert sum(found) == 60
    assert min(found) > 10


def test_orders_of_triggers_stand_for_one_training() -> None:
    assert same_training(SPEC) == same_training("multi:corners+blended:15x15+badnets:2x2-white")
    assert same_training(SPEC) != same_training("multi:corners+blended:15x15")
    assert same_training("badnets:3x3-white") == "badnets:3x3-white"


@pytest.mark.parametrize("variant", ["", "corners", "corners+corners"])
def test_several_triggers_are_two_or_more(variant: str) -> None:
    with pytest.raises(ConfigError, match="two or more different attacks"):
        make_attack(f"multi:{variant}", num_classes=10)


@pytest.mark.parametrize("part", ["label-consistent", "sig:clean-label", "wanet", "input-aware", "lira", "adap-blend"])
def test_several_triggers_cannot_contain_what_does_more_in_training(part: str) -> None:
    with pytest.raises(ConfigError, match=f"cannot contain {part}"):
        make_attack(f"multi:corners+{part}", num_classes=10)
