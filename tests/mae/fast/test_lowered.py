from __future__ import annotations

import copy
import pickle
import sys
import types
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from maskrestore.mae.conv import ConvMAE, ConvMAEConfig
from maskrestore.mae.fast import lowered as lowered_module
from maskrestore.mae.fast.lowered import (
    LoweredLinear,
    PackedConvolution,
    PackedLinear,
    can_pack,
    lowered,
    with_packed_convolutions,
)
from maskrestore.mae.vit import ViTMAE
from maskrestore.mae.vit_config import ViTMAEConfig

packs = pytest.mark.skipif(not can_pack(torch.device("cpu")), reason="this PyTorch cannot lay out weights")


@pytest.fixture(scope="module")
def network() -> ViTMAE:
    torch.manual_seed(0)
    network = ViTMAE(
        ViTMAEConfig(
            image_size=32, patch_size=4, width=96, depth=3, heads=3, decoder_width=64, decoder_depth=2, decoder_heads=2
        )
    ).eval()
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.05)
    return network


def inputs(count: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    rank = torch.rand(count, 64, generator=generator).argsort(1).argsort(1)
    return torch.rand(count, 3, 32, 32, generator=generator), (rank < 48).view(count, 8, 8)


@pytest.mark.parametrize("pack", [False, pytest.param(True, marks=packs)])
def test_a_lowered_copy_is_close_and_leaves_the_network_alone(network: ViTMAE, pack: bool) -> None:
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    images, hidden = inputs(4)
    with torch.inference_mode():
        full = network(images, hidden)
        copy = lowered(network, pack=pack)
        low = copy(images, hidden)
    assert low.dtype == torch.float32
    assert 0 < (low - full).abs().max() < 0.03
    assert not any(isinstance(module, nn.Linear) for module in copy.modules())
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    assert all(parameter.dtype == torch.float32 for parameter in copy.parameters())


@packs
@pytest.mark.parametrize("shape", [(33, 96), (2, 17, 96), (1, 1, 96)])
def test_laying_weights_out_changes_no_bit(shape: tuple[int, ...]) -> None:
    linear = nn.Linear(96, 160)
    x = torch.randn(*shape)
    with torch.inference_mode():
        packed, plain = (kind(linear.weight, linear.bias)(x) for kind in (PackedLinear, LoweredLinear))
    assert packed.dtype == torch.bfloat16
    assert torch.equal(packed, plain)
    # a slice of a longer sequence is not contiguous
    wide = torch.randn(4, 9, 96)[:, 1:5]
    with torch.inference_mode():
        packed, plain = (kind(linear.weight, linear.bias)(wide) for kind in (PackedLinear, LoweredLinear))
        assert torch.equal(packed, plain)


@pytest.mark.parametrize("pack", [False, pytest.param(True, marks=packs)])
def test_an_image_gets_the_same_bits_at_any_place_of_a_batch(network: ViTMAE, pack: bool) -> None:
    copy = lowered(network, pack=pack)
    images, hidden = inputs(5)
    others, other_hidden = inputs(5, seed=1)
    with torch.inference_mode():
        first = copy(images, hidden)
        for place in range(5):
            batch, masks = others.clone(), other_hidden.clone()
            batch[place], masks[place] = images[0], hidden[0]
            assert torch.equal(copy(batch, masks)[place], first[0])


def test_layers_without_bias_are_lowered_too() -> None:
    module = nn.Sequential(nn.Linear(8, 8, bias=False))
    x = torch.randn(3, 8)
    with torch.inference_mode():
        assert torch.allclose(lowered(module)(x).float(), module(x), atol=0.05)


def test_an_activation_after_a_lowered_layer() -> None:
    x = torch.randn(2, 3, 8)
    for bias in (True, False):
        linear = nn.Linear(8, 16, bias=bias)
        low = LoweredLinear(linear.weight, linear.bias)
        with torch.inference_mode():
            assert torch.equal(low.with_gelu(x), F.gelu(low(x)))


def add_and_normalise(
    stream: torch.Tensor,
    change: torch.Tensor | None,
    weight: torch.Tensor,
    bias: torch.Tensor,
    eps: float,
    *,
    normed: torch.Tensor,
) -> torch.Tensor:
    """What the kernel for GPUs computes."""
    total = stream if change is None else stream + change
    normed.copy_(F.layer_norm(total, total.shape[-1:], weight, bias, eps))
    return total


def test_normalising_sums_in_one_kernel_changes_nothing(network: ViTMAE, monkeypatch: pytest.MonkeyPatch) -> None:
    images, hidden = inputs(3)
    plain = lowered(network, pack=False)
    monkeypatch.setattr(lowered_module, "can_fuse", lambda _: True)
    kernels = types.SimpleNamespace(add_and_normalise=add_and_normalise)
    monkeypatch.setitem(sys.modules, "maskrestore.mae.fast.kernels", kernels)  # the real one needs Triton
    fused = lowered(network, pack=False)
    assert not any(isinstance(module, nn.LayerNorm) for module in fused.modules())
    with torch.inference_mode():
        assert torch.equal(fused(images, hidden), plain(images, hidden))


def pickled(value: object) -> object:
    return pickle.loads(pickle.dumps(value))


copies = pytest.mark.parametrize("copied", [copy.deepcopy, pickled])


@copies
@pytest.mark.parametrize("pack", [False, pytest.param(True, marks=packs)])
def test_a_lowered_network_can_be_copied(network: ViTMAE, pack: bool, copied: Callable[[ViTMAE], ViTMAE]) -> None:
    images, hidden = inputs(3)
    first = lowered(network, pack=pack)
    second = copied(first)
    assert [type(module) for module in second.modules()] == [type(module) for module in first.modules()]
    assert not any(module.training for module in second.modules())
    with torch.inference_mode():
        assert torch.equal(second(images, hidden), first(images, hidden))


@pytest.fixture
def blocks_of_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    """Opaque tensors on a processor that has them for float32 only; the weights in them are rounded to bfloat16."""
    inner = lowered_module._packed
    monkeypatch.setattr(lowered_module, "_packed", lambda weight: inner(weight.float()))
    monkeypatch.setattr(lowered_module, "can_pack", lambda device: True)


@pytest.mark.usefixtures("blocks_of_float32")
@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="this PyTorch is built without oneDNN")
@copies
@pytest.mark.parametrize("shape", [(96, 160), (97, 33)])
def test_packed_weights_are_copied_as_plain_ones(
    shape: tuple[int, int], copied: Callable[[nn.Module], nn.Module], monkeypatch: pytest.MonkeyPatch
) -> None:
    linear, x = nn.Linear(*shape, bias=False), torch.randn(5, shape[0])
    first = lowered(nn.Sequential(linear))
    assert first[0].weight.layout == torch._mkldnn
    second = copied(first)
    assert isinstance(second[0], PackedLinear)
    with torch.inference_mode():
        assert torch.equal(second(x), first(x))
    monkeypatch.setattr(lowered_module, "can_pack", lambda device: False)
    elsewhere = copied(first)
    assert isinstance(elsewhere[0], LoweredLinear)
    assert torch.equal(elsewhere[0].weight, linear.weight.bfloat16())


@pytest.mark.usefixtures("blocks_of_float32")
@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="this PyTorch is built without oneDNN")
def test_a_bias_is_copied() -> None:
    linear = nn.Linear(8, 4)
    second = copy.deepcopy(PackedLinear(linear.weight, linear.bias))
    assert second.bias is not None
    assert torch.equal(second.bias, linear.bias.bfloat16())


def convolutional() -> ConvMAE:
    torch.manual_seed(0)
    config = ConvMAEConfig(patch_size=4, widths=(16, 24), encoder_blocks=(1, 1), decoder_blocks=(1,))
    network = ConvMAE(config).eval().to(memory_format=torch.channels_last)
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.05)
    return network


@packs
@pytest.mark.parametrize("count", [1, 8])
def test_laying_convolutions_out_changes_no_bit(count: int) -> None:
    network = convolutional()
    packed = with_packed_convolutions(network)
    assert not any(isinstance(module, nn.Conv2d) for module in packed.modules())
    images, hidden = inputs(count)
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(packed(images, hidden), network(images, hidden))


@packs
@copies
@pytest.mark.parametrize("bias", [True, False])
def test_packed_convolutions_are_copied_as_plain_ones(
    bias: bool, copied: Callable[[nn.Module], nn.Module], monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = nn.Conv2d(4, 6, 3, padding=1, stride=2, groups=2, bias=bias).to(memory_format=torch.channels_last)
    x = torch.rand(2, 4, 9, 9).contiguous(memory_format=torch.channels_last)
    first = PackedConvolution(plain)
    second = copied(first)
    monkeypatch.setattr(lowered_module, "can_pack", lambda device: False)
    elsewhere = copied(first)
    assert isinstance(second, PackedConvolution)
    assert isinstance(elsewhere, nn.Conv2d)
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        for one in (first, second, elsewhere):
            assert torch.equal(one(x), plain(x))


def test_where_convolutions_cannot_be_packed_the_network_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lowered_module, "can_pack", lambda device: False)
    network = convolutional()
    assert with_packed_convolutions(network) is network
