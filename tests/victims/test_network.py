"""The network and its convolution."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from maskrestore.errors import ConfigError
from maskrestore.victims import ResNet18
from maskrestore.victims.convolution import Convolution


@pytest.mark.parametrize(
    ("width", "millions"),
    [(64, 11.17), (32, 2.80)],
)
def test_resnet18_has_the_known_number_of_parameters(width: int, millions: float) -> None:
    count = sum(parameter.numel() for parameter in ResNet18(10, width=width).parameters())
    assert count / 1e6 == pytest.approx(millions, abs=0.005)


def test_resnet18_takes_any_size_and_normalises_inside() -> None:
    network = ResNet18(7, width=4, mean=(0.4, 0.5, 0.6), std=(0.1, 0.2, 0.3)).eval()
    assert network(torch.rand(2, 3, 32, 32)).shape == (2, 7)
    assert network(torch.rand(1, 3, 17, 40)).shape == (1, 7)
    plain = ResNet18(7, width=4, mean=(0, 0, 0), std=(1, 1, 1)).eval()
    weights = {name: value for name, value in network.state_dict().items() if name not in ("mean", "std")}
    plain.load_state_dict(weights, strict=False)
    images = torch.rand(2, 3, 32, 32)
    mean, std = torch.tensor([0.4, 0.5, 0.6]), torch.tensor([0.1, 0.2, 0.3])
    normalised = (images - mean.view(3, 1, 1)) / std.view(3, 1, 1)
    torch.testing.assert_close(network(images), plain(normalised))
    assert "mean" in network.state_dict()


def test_impossible_networks_are_refused() -> None:
    with pytest.raises(ConfigError, match="got 1 and 64"):
        ResNet18(1)


@pytest.mark.parametrize(("side", "size", "stride"), [(4, 3, 1), (8, 3, 2), (8, 1, 2), (7, 3, 2)])
def test_the_product_gives_the_gradients_of_the_convolution(side: int, size: int, stride: int) -> None:
    generator = torch.Generator().manual_seed(0)
    layer = Convolution(16, 24, size, stride)
    x = torch.randn(8, 16, side, side, generator=generator).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        out = layer(x)
    assert "ProductGradient" in type(out.grad_fn).__name__
    gradient = torch.randn(out.shape, generator=generator).bfloat16()
    found = torch.autograd.grad(out, (x, layer.weight), gradient)
    inputs = (
        x.bfloat16().float().detach().requires_grad_(),
        layer.weight.bfloat16().float().detach().requires_grad_(),
    )
    exact = F.conv2d(*inputs, stride=stride, padding=size // 2)
    expected = torch.autograd.grad(exact, inputs, gradient.float())
    for one, other in zip(found, expected, strict=True):
        assert one.shape == other.shape
        assert (one - other).norm() / other.norm() < 0.01  # bfloat16 has 8 bits


def test_large_maps_and_full_precision_keep_the_ordinary_convolution() -> None:
    layer = Convolution(4, 4, 3, 1)
    with torch.autocast("cpu", torch.bfloat16):
        assert "ProductGradient" not in type(layer(torch.rand(1, 4, 16, 16)).grad_fn).__name__
    assert "ProductGradient" not in type(layer(torch.rand(1, 4, 4, 4)).grad_fn).__name__
