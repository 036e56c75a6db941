"""The networks and their convolution."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from maskrestore.errors import ConfigError
from maskrestore.lab.victims import ARCHITECTURES, Conv6, ResNet18, VictimConfig
from maskrestore.lab.victims.convolution import Convolution, DepthwiseConvolution
from maskrestore.lab.victims.store import build_network

every_architecture = pytest.mark.parametrize("name", ARCHITECTURES)
PHOTOGRAPHS = ("efficientnet-lite0", "efficientnet-lite2", "resnet18-photo", "resnet50-pretrained")
"""Architectures whose features have 1/32 of the image's side."""


@pytest.mark.parametrize(
    ("name", "width", "millions"),
    [
        ("resnet18", 64, 11.17),
        ("resnet18", 32, 2.80),
        ("resnet50", 64, 23.52),
        ("vgg16", 64, 14.72),
        ("conv6", 64, 12.98),
        ("vit-small", 64, 2.84),
        ("efficientnet-lite0", 64, 3.36),
        ("efficientnet-lite2", 64, 4.795),
        ("resnet18-photo", 64, 11.18),
        ("resnet50-pretrained", 64, 23.53),
    ],
)
def test_the_full_networks_have_the_known_number_of_parameters(name: str, width: int, millions: float) -> None:
    count = sum(parameter.numel() for parameter in ARCHITECTURES[name](10, width=width).parameters())
    assert count / 1e6 == pytest.approx(millions, abs=0.005)


@every_architecture
@pytest.mark.parametrize(("height", "width"), [(32, 32), (48, 40)])
def test_any_size_gives_logits(name: str, height: int, width: int) -> None:
    network = ARCHITECTURES[name](7, width=4).eval()
    assert network(torch.rand(2, 3, height, width)).shape == (2, 7)


@every_architecture
def test_normalisation_is_inside(name: str) -> None:
    network = ARCHITECTURES[name](7, width=4, mean=(0.4, 0.5, 0.6), std=(0.1, 0.2, 0.3)).eval()
    plain = ARCHITECTURES[name](7, width=4, mean=(0, 0, 0), std=(1, 1, 1)).eval()
    weights = {key: value for key, value in network.state_dict().items() if key not in ("mean", "std")}
    plain.load_state_dict(weights, strict=False)
    images = torch.rand(2, 3, 32, 32)
    mean, std = torch.tensor([0.4, 0.5, 0.6]), torch.tensor([0.1, 0.2, 0.3])
    normalised = (images - mean.view(3, 1, 1)) / std.view(3, 1, 1)
    torch.testing.assert_close(network(images), plain(normalised))
    assert "mean" in network.state_dict()


@every_architecture
def test_a_class_activation_map_can_cut_the_network_in_two(name: str) -> None:
    network = ARCHITECTURES[name](7, width=8).eval()
    side = 96 if name in PHOTOGRAPHS else 32
    images = torch.rand(2, 3, side, side)
    features = network.features(images)
    assert features.ndim == 4
    assert features.shape[2] == features.shape[3] >= 2
    logits = network.head_from_features(features)
    torch.testing.assert_close(logits, network(images))
    (gradient,) = torch.autograd.grad(logits[:, 3].sum(), features)
    assert gradient.shape == features.shape
    assert gradient.abs().flatten(1).sum(1).min() > 0


@every_architecture
def test_features_lie_where_the_image_does(name: str) -> None:
    network = build_network(VictimConfig(dataset="cifar10", architecture=name, width=8)).eval()
    side = 256 if name in PHOTOGRAPHS else 64
    images = torch.rand(1, 3, side, side, generator=torch.Generator().manual_seed(0))
    changed = images.clone()
    changed[:, :, : side // 4, -side // 4 :] = 0  # upper right
    with torch.no_grad():
        difference = (network.features(changed) - network.features(images)).abs().sum((0, 1))
    rows, columns = (extent // 2 for extent in difference.shape)
    # every place sees nearly all of the image in VGG-16, but not all of it alike
    assert difference[:rows, columns:].mean() > 1.2 * difference[rows:, :columns].mean()


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "vgg16", "conv6"])
def test_stages_end_in_the_features(name: str) -> None:
    network = ARCHITECTURES[name](7, width=4).eval()
    images = torch.rand(1, 3, 32, 32)
    stages = network.stage_features(images)
    assert [stage.shape[-1] for stage in stages] == [32 >> number for number in range(len(stages))]
    assert torch.equal(stages[-1], network.features(images))


@every_architecture
def test_the_seed_decides_the_weights(name: str) -> None:
    def first(seed: int) -> torch.Tensor:
        network = build_network(VictimConfig(dataset="cifar10", architecture=name, width=4, seed=seed))
        assert isinstance(network, ARCHITECTURES[name])
        return next(network.parameters())

    assert torch.equal(first(1), first(1))
    assert not torch.equal(first(1), first(2))


def test_dropout_is_off_in_evaluation() -> None:
    network, images = Conv6(7, width=4).eval(), torch.rand(2, 3, 32, 32)
    assert torch.equal(network(images), network(images))


def test_impossible_networks_are_refused() -> None:
    with pytest.raises(ConfigError, match="got 1 and 64"):
        ResNet18(1)
    with pytest.raises(ConfigError, match="a multiple of 4, got 6"):
        ARCHITECTURES["vit-small"](7, width=6)


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


@pytest.mark.parametrize(("side", "size", "stride"), [(9, 5, 1), (8, 5, 2), (7, 3, 2), (8, 3, 2)])
def test_a_depthwise_convolution_has_its_gradients_in_float32(side: int, size: int, stride: int) -> None:
    generator = torch.Generator().manual_seed(0)
    weight, bias = torch.randn(16, 1, size, size, generator=generator), torch.randn(16, generator=generator)
    layer = DepthwiseConvolution(weight, bias, stride)
    x = torch.randn(4, 16, side, side, generator=generator).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        out = layer(x)
    assert out.shape == (4, 16, -(-side // stride), -(-side // stride))
    assert "Float32Gradient" in type(out.grad_fn).__name__
    gradient = torch.randn(out.shape, generator=generator).bfloat16()
    found = torch.autograd.grad(out, (x, layer.weight, layer.bias), gradient)
    with torch.no_grad():
        layer.weight.copy_(layer.weight.bfloat16())
    exact_x = x.bfloat16().float().detach().requires_grad_()
    expected = torch.autograd.grad(layer(exact_x), (exact_x, layer.weight, layer.bias), gradient.float())
    for one, other in zip(found, expected, strict=True):
        assert one.shape == other.shape
        assert (one - other).norm() / other.norm() < 0.004  # rounded once, to bfloat16


@pytest.mark.parametrize(
    "layer", [Convolution(4, 4, 3, 1), DepthwiseConvolution(torch.rand(4, 1, 5, 5), torch.rand(4), 1)]
)
def test_frozen_weights_get_no_gradient(layer: nn.Conv2d) -> None:
    layer.requires_grad_(False)
    x = torch.rand(2, 4, 4, 4, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        layer(x).sum().backward()
    assert layer.weight.grad is None
    assert x.grad is not None


def test_large_maps_and_full_precision_keep_the_ordinary_convolution() -> None:
    layer = Convolution(4, 4, 3, 1)
    with torch.autocast("cpu", torch.bfloat16):
        assert "ProductGradient" not in type(layer(torch.rand(1, 4, 16, 16)).grad_fn).__name__
    assert "ProductGradient" not in type(layer(torch.rand(1, 4, 4, 4)).grad_fn).__name__
