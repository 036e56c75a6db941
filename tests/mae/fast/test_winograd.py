from typing import Any

import pytest
import torch
from torch import nn

from maskrestore.errors import ConfigError
from maskrestore.mae.conv import ConvMAE, ConvMAEConfig
from maskrestore.mae.fast.winograd import WinogradConvolution, is_faster
from maskrestore.mae.vit import ViTMAE
from maskrestore.mae.vit_config import VIT_PRESETS


@pytest.mark.parametrize(
    "shape", [(1, 5, 4, 4), (3, 16, 8, 12), (2, 7, 16, 16), (0, 5, 4, 4), (2, 6, 7, 14), (1, 3, 1, 9)]
)
def test_it_is_the_convolution(shape: tuple[int, int, int, int]) -> None:
    torch.manual_seed(0)
    plain = nn.Conv2d(shape[1], 6, 3, padding=1)
    x = torch.randn(shape).contiguous(memory_format=torch.channels_last)
    with torch.inference_mode():
        found, expected = WinogradConvolution(plain)(x), plain.double()(x.double())
    assert found.shape == expected.shape
    assert found.is_contiguous(memory_format=torch.channels_last) or shape[2] % 4 or shape[3] % 4
    assert torch.allclose(found.double(), expected, rtol=0, atol=3e-5)


@pytest.mark.parametrize(("channels", "side"), [(96, 16), (160, 8)])
def test_an_image_gets_the_same_bits_at_every_place(channels: int, side: int) -> None:
    torch.manual_seed(0)
    fast = WinogradConvolution(nn.Conv2d(channels, channels, 3, padding=1))
    images = torch.randn(8, channels, side, side).contiguous(memory_format=torch.channels_last)
    order = torch.randperm(8)
    with torch.inference_mode():
        assert torch.equal(fast(images)[order], fast(images[order]))


@pytest.mark.parametrize(
    "other",
    [
        {"kernel_size": 5, "padding": 2},
        {"padding": 0},
        {"stride": 2},
        {"dilation": 2},
        {"groups": 2},
        {"padding_mode": "reflect"},
        {"bias": False},
    ],
)
def test_other_convolutions_are_refused(other: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="expected a convolution like"):
        WinogradConvolution(nn.Conv2d(8, 8, **{"kernel_size": 3, "padding": 1, **other}))


@pytest.mark.parametrize(
    ("widths", "side", "expected"),
    [
        ((64, 64), 8, True),
        ((48, 64), 8, False),
        ((64, 48), 8, False),
        ((64, 64), 4, False),
        ((64, 64), 5, False),
        ((64, 64), 7, True),
    ],
)
def test_it_pays_for_several_squares_and_many_channels(widths: tuple[int, int], side: int, expected: bool) -> None:
    assert is_faster(nn.Conv2d(*widths, 3, padding=1), side) == expected


def convolutional(image_size: int, width: int = 64) -> ConvMAE:
    torch.manual_seed(0)
    config = ConvMAEConfig(
        image_size=image_size, widths=(width, width, 80), encoder_blocks=(1, 1, 2), decoder_blocks=(1, 1)
    )
    network = ConvMAE(config).eval().to(memory_format=torch.channels_last)
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.02)
    return network


@pytest.mark.parametrize(
    ("image_size", "left"),
    # 16, 8 and 4 tokens a side: the last is a single square. 12, 6 and 3: only the first is made up of squares.
    [(32, 4), (24, 8)],
)
def test_a_network_multiplies_less_where_it_can(image_size: int, left: int) -> None:
    network = convolutional(image_size)
    before = [type(module) for module in network.modules()]
    fast = network.in_float32()
    plain = [m for blocks in [*fast.encoder, *fast.decoder] for m in blocks.modules() if isinstance(m, nn.Conv2d)]
    assert len(plain) == left
    assert [type(module) for module in network.modules()] == before
    images = torch.rand(2, 3, image_size, image_size)
    hidden = torch.rand(2, network.grid, network.grid) < 0.5
    difference = (fast(images, hidden) - network(images, hidden)).abs().max()
    assert 0 < difference < 1e-5


def test_a_network_stays_what_it_is_where_nothing_is_gained() -> None:
    narrow, elsewhere = convolutional(32, width=16), convolutional(32).to("meta")
    assert narrow.in_float32() is narrow
    assert elsewhere.in_float32() is elsewhere
    with torch.device("meta"):
        vit = ViTMAE(VIT_PRESETS["base"])
    assert vit.in_float32() is vit
