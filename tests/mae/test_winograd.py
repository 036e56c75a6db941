import pytest
import torch
from torch import nn

from maskrestore.mae.conv import ConvMAE, ConvMAEConfig
from maskrestore.mae.winograd import WinogradConvolution


@pytest.mark.parametrize("shape", [(1, 5, 4, 4), (3, 16, 8, 12), (2, 7, 16, 16)])
def test_it_is_the_convolution(shape: tuple[int, int, int, int]) -> None:
    torch.manual_seed(0)
    plain = nn.Conv2d(shape[1], 6, 3, padding=1)
    x = torch.randn(shape).contiguous(memory_format=torch.channels_last)
    with torch.inference_mode():
        found, expected = WinogradConvolution(plain)(x), plain.double()(x.double())
    assert found.shape == expected.shape
    assert found.is_contiguous(memory_format=torch.channels_last)
    assert (found - expected).abs().max() < 3e-5


def test_an_image_gets_the_same_bits_at_every_place() -> None:
    torch.manual_seed(0)
    fast = WinogradConvolution(nn.Conv2d(48, 48, 3, padding=1))
    images, order = torch.randn(8, 48, 8, 8).contiguous(memory_format=torch.channels_last), torch.randperm(8)
    with torch.inference_mode():
        assert torch.equal(fast(images)[order], fast(images[order]))


@pytest.mark.parametrize(
    ("image_size", "left"),
    # 16, 8 and 4 tokens a side: the last is a single square. 12, 6 and 3: only the first is made up of squares.
    [(32, 4), (24, 8)],
)
def test_a_network_multiplies_less_where_it_can(image_size: int, left: int) -> None:
    torch.manual_seed(0)
    config = ConvMAEConfig(image_size=image_size, widths=(16, 24, 32), encoder_blocks=(1, 1, 2), decoder_blocks=(1, 1))
    network = ConvMAE(config).eval().to(memory_format=torch.channels_last)
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.05)
    fast = network.in_float32()
    plain = [m for blocks in [*fast.encoder, *fast.decoder] for m in blocks.modules() if isinstance(m, nn.Conv2d)]
    assert len(plain) == left
    images = torch.rand(2, 3, image_size, image_size)
    hidden = torch.rand(2, network.grid, network.grid) < 0.5
    with torch.inference_mode():
        difference = (fast(images, hidden) - network(images, hidden)).abs().max()
    assert 0 < difference < 1e-5
