from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import nn

from maskrestore.errors import ConfigError
from maskrestore.mae.conv import ConvMAE, ConvMAEConfig
from maskrestore.mae.fast import quantized as quantized_module
from maskrestore.mae.fast.quantized import can_quantize, quantized
from maskrestore.mae.restorer import MAERestorer
from maskrestore.mae.vit import ViTMAE
from maskrestore.mae.vit_config import ViTMAEConfig

needs_int8 = pytest.mark.skipif(not can_quantize(torch.device("cpu")), reason="this processor has no fast int8")

LAYERS = [
    (nn.Linear(96, 160), (2, 17, 96)),
    (nn.Linear(33, 7, bias=False), (300, 33)),
    (nn.Conv2d(8, 12, 3, padding=1), (3, 8, 9, 7)),
    (nn.Conv2d(4, 6, 2, stride=2, bias=False), (2, 4, 8, 8)),
]
every_layer = pytest.mark.parametrize(("layer", "shape"), LAYERS, ids=lambda value: type(value).__name__)


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    values = torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
    return values.contiguous(memory_format=torch.channels_last) if values.ndim == 4 else values


def by_hand(layer: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """The same rounding in float64, where the sums are as exact as whole numbers."""
    dims = (1, 2, 3) if x.ndim == 4 else (-1,)
    scale = x.abs().amax(dims, keepdim=True).double() / 127
    weight = layer.weight.detach().double()
    step = weight.flatten(1).abs().amax(1).view(-1, *[1] * (weight.ndim - 1)) / 127
    rounded, numbers = (weight / step).round() * step, (x.double() / scale).round()
    plain = copy.deepcopy(layer).double()
    plain.weight, plain.bias = nn.Parameter(rounded), None
    bias = 0 if layer.bias is None else layer.bias.detach().double()
    return plain(numbers) * scale + (bias[:, None, None] if layer.bias is not None and x.ndim == 4 else bias)


@needs_int8
@every_layer
def test_products_are_those_of_the_rounded_numbers(layer: nn.Module, shape: tuple[int, ...]) -> None:
    x = random(*shape)
    kind = nn.Linear if isinstance(layer, nn.Linear) else nn.Conv2d
    (low,) = quantized(nn.Sequential(layer), kind)
    with torch.inference_mode():
        found, expected = low(x), by_hand(layer, x)
        full = layer(x)
    assert found.dtype == torch.bfloat16
    # A few numbers lie so near the middle between two that float32 rounds them the other way.
    torch.testing.assert_close(found.double(), expected, atol=0.02, rtol=0.01)
    assert 0 < (found.float() - full).abs().max() < 0.06


@needs_int8
@every_layer
def test_what_shares_a_batch_changes_nothing(layer: nn.Module, shape: tuple[int, ...]) -> None:
    kind = nn.Linear if isinstance(layer, nn.Linear) else nn.Conv2d
    (low,) = quantized(nn.Sequential(layer), kind)
    x, others = random(*shape), 50 * random(*shape, seed=1)
    with torch.inference_mode():
        expected = low(x)
        others[-1] = x[-1]
        assert torch.equal(low(others)[-1], expected[-1])
        assert torch.equal(low(torch.zeros(shape))[0], low(torch.zeros(shape))[-1])


@needs_int8
@pytest.mark.parametrize("family", ["vit", "conv"])
def test_a_restorer_in_int8_is_close_and_can_be_copied(family: str) -> None:
    torch.manual_seed(0)
    if family == "vit":
        network: nn.Module = ViTMAE(
            ViTMAEConfig(
                **{"image_size": 32, "patch_size": 4, "width": 96, "depth": 2, "heads": 3},
                **{"decoder_width": 64, "decoder_depth": 1, "decoder_heads": 2},
            )
        )
    else:
        network = ConvMAE(ConvMAEConfig(patch_size=4, widths=(16, 24), encoder_blocks=(1, 1), decoder_blocks=(1,)))
    images = torch.rand(5, 3, 32, 32)
    hidden = torch.rand(5, 64).argsort(1).argsort(1).view(5, 8, 8) < torch.tensor([3, 48, 48, 20, 48])[:, None, None]
    low, full = MAERestorer(network, precision="int8"), MAERestorer(network, precision="float32")
    assert low.precision == "int8"
    assert low.weights_digest == full.weights_digest
    restored = low.restore(images, hidden)
    assert 0 < (restored - full.restore(images, hidden)).abs().max() < 0.03
    assert torch.equal(low.restore(images[1:2], hidden[1:2]), restored[1:2])
    for other in (copy.deepcopy(low), pickle.loads(pickle.dumps(low))):
        assert torch.equal(other.restore(images, hidden), restored)


def test_where_int8_is_not_fast_it_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quantized_module, "can_quantize", lambda device: False)
    with pytest.raises(ConfigError, match="VNNI"):
        quantized(nn.Sequential(nn.Linear(4, 4)), nn.Linear)
