import copy
import pickle
from dataclasses import replace

import pytest
import torch

from maskrestore.errors import ConfigError, InvalidImageError
from maskrestore.imaging.patches import tokens_to_pixels
from maskrestore.mae.checkpoints.weight_files import weights_digest
from maskrestore.mae.conv import ConvMAE, ConvMAEConfig
from maskrestore.mae.restorer import MAERestorer
from maskrestore.mae.vit import ViTMAE
from maskrestore.mae.vit_config import ViTMAEConfig
from maskrestore.types import Restorer


def networks() -> dict[str, torch.nn.Module]:
    torch.manual_seed(0)
    conv = ConvMAE(ConvMAEConfig(image_size=16, widths=(16, 32), encoder_blocks=(1, 1), decoder_blocks=(1,)))
    vit = ViTMAE(
        ViTMAEConfig(
            image_size=16,
            patch_size=2,
            width=32,
            depth=2,
            heads=2,
            decoder_width=32,
            decoder_depth=1,
            decoder_heads=2,
        )
    )
    wide = ViTMAE(replace(vit.config, width=512, depth=1, heads=8))
    for network in (conv, vit, wide):
        for parameter in network.parameters():
            torch.nn.init.normal_(parameter, std=0.05)
    return {"conv": conv, "vit": vit, "wide-vit": wide}


@pytest.fixture(params=["conv", "vit", "wide-vit"])
def network(request: pytest.FixtureRequest) -> torch.nn.Module:
    return networks()[request.param]


@pytest.mark.parametrize("shape", [(3, 16, 16), (1, 16, 16), (3, 40, 28), (3, 9, 13)])
def test_visible_pixels_are_kept_bit_for_bit(network: torch.nn.Module, shape: tuple[int, ...]) -> None:
    restorer = MAERestorer(network)
    assert isinstance(restorer, Restorer)
    images = torch.rand(5, *shape)
    hidden = torch.rand(5, 8, 8) < 0.3
    hidden[4] = False
    restored = restorer.restore(images, hidden)
    pixels = tokens_to_pixels(hidden, *shape[1:]).expand_as(images)
    assert torch.equal(restored[~pixels], images[~pixels])
    assert (restored[pixels] != images[pixels]).float().mean() > 0.9
    assert restored.min() >= 0
    assert restored.max() <= 1


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize(("shape", "micro_batch"), [((3, 16, 16), 4), ((3, 24, 20), 4), ((3, 16, 16), None)])
def test_results_are_bit_identical_regardless_of_the_batch(
    network: torch.nn.Module, precision: str, shape: tuple[int, ...], micro_batch: int | None
) -> None:
    restorer = MAERestorer(network, micro_batch=micro_batch, precision=precision)  # type: ignore[arg-type]
    generator = torch.Generator().manual_seed(1)
    images = torch.rand(11, *shape, generator=generator)
    shares = torch.rand(11, 1, 1, generator=generator)
    hidden = torch.rand(11, 8, 8, generator=generator) < shares
    together = restorer.restore(images, hidden)
    order = torch.randperm(11, generator=generator)
    assert torch.equal(restorer.restore(images[order], hidden[order]), together[order])
    for size in (1, 2, 5):
        parts = [restorer.restore(a, b) for a, b in zip(images.split(size), hidden.split(size), strict=True)]
        assert torch.equal(torch.cat(parts), together)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_neither_the_number_of_cores_nor_the_place_in_a_batch_shows(network: torch.nn.Module, precision: str) -> None:
    restorer = MAERestorer(network, precision=precision)  # type: ignore[arg-type]
    image = torch.rand(1, 3, 16, 16).expand(9, -1, -1, -1)
    hidden = (torch.rand(1, 8, 8) < 0.75).expand(9, -1, -1)
    before = torch.get_num_threads()
    restored = []
    try:
        for threads in (1, 2, 4):
            torch.set_num_threads(threads)
            restored.append(restorer.restore(image, hidden))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(one, restored[0][0]) for one in torch.cat(restored))


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_many_masks_of_an_image_equal_one_by_one(network: torch.nn.Module, precision: str) -> None:
    restorer = MAERestorer(network, precision=precision)  # type: ignore[arg-type]
    images, hidden = torch.rand(3, 3, 20, 24), torch.rand(3, 5, 8, 8) < torch.rand(3, 5, 1, 1)
    together = restorer.restore(images, hidden)
    for mask in range(5):
        assert torch.equal(together[:, mask], restorer.restore(images, hidden[:, mask]))


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_images_that_were_prepared_give_the_same_bits(network: torch.nn.Module, precision: str) -> None:
    restorer = MAERestorer(network, precision=precision)  # type: ignore[arg-type]
    images, hidden = torch.rand(4, 3, 20, 24), torch.rand(4, 5, 8, 8) < 0.5
    prepared, rows = restorer.prepare_images(images), torch.tensor([3, 0, 3])
    assert len(prepared[rows]) == 3
    assert torch.equal(restorer.restore(prepared, hidden), restorer.restore(images, hidden))
    for masks in (hidden, hidden[:, 0]):
        expected = restorer.restore(images[rows], masks[rows])
        assert torch.equal(restorer.restore(prepared[rows], masks[rows]), expected)
    assert torch.equal(restorer.restore(prepared[rows][1:2], hidden[:1]), restorer.restore(images[:1], hidden[:1]))
    with pytest.raises(InvalidImageError, match="hidden"):
        restorer.restore(prepared, hidden[rows])


def test_the_network_itself_is_left_as_it_is(network: torch.nn.Module) -> None:
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    MAERestorer(network, precision="bfloat16").restore(torch.rand(2, 3, 16, 16), torch.rand(2, 8, 8) < 0.5)
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    assert network.state_dict().keys() == before.keys()


def test_grey_equals_the_mean_of_three_equal_channels(network: torch.nn.Module) -> None:
    restorer = MAERestorer(network, precision="float32")
    grey = torch.rand(2, 1, 16, 16)
    hidden = torch.rand(2, 8, 8) < 0.5
    colour = restorer.restore(grey.expand(-1, 3, -1, -1).contiguous(), hidden)
    pixels = tokens_to_pixels(hidden, 16, 16)
    # Clipping comes after the mean, so compare where no channel was clipped.
    inside = pixels & (colour.amin(1, keepdim=True) > 0) & (colour.amax(1, keepdim=True) < 1)
    assert torch.allclose(restorer.restore(grey, hidden)[inside], colour.mean(1, keepdim=True)[inside], atol=1e-6)


def test_wrong_shapes_and_settings_are_refused(network: torch.nn.Module) -> None:
    restorer = MAERestorer(network)
    with pytest.raises(InvalidImageError, match="hidden"):
        restorer.restore(torch.rand(2, 3, 16, 16), torch.ones(2, 7, 7, dtype=torch.bool))
    with pytest.raises(InvalidImageError, match="hidden"):
        restorer.restore(torch.rand(2, 3, 16, 16), torch.ones(2, 8, 8))
    with pytest.raises(InvalidImageError, match="1 or 3"):
        restorer.restore(torch.rand(2, 4, 16, 16), torch.ones(2, 8, 8, dtype=torch.bool))
    with pytest.raises(ConfigError, match="micro_batch"):
        MAERestorer(network, micro_batch=0)
    with pytest.raises(ConfigError, match="precision"):
        MAERestorer(network, precision="float16")  # type: ignore[arg-type]


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_the_digest_is_that_of_all_weights_in_any_precision(network: torch.nn.Module, precision: str) -> None:
    def digest() -> str | None:
        return MAERestorer(network, precision=precision).weights_digest  # type: ignore[arg-type]

    assert digest() == weights_digest(network)
    for name, parameter in network.named_parameters():
        if parameter.ndim == 2:
            before = digest()
            parameter.data += 1
            assert digest() != before, name


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_restorer_can_be_copied_and_pickled(network: torch.nn.Module, precision: str) -> None:
    restorer = MAERestorer(network, precision=precision)  # type: ignore[arg-type]
    images, hidden = torch.rand(2, 3, 16, 16), torch.rand(2, 8, 8) < 0.5
    expected = restorer.restore(images, hidden)
    for other in (copy.deepcopy(restorer), pickle.loads(pickle.dumps(restorer))):
        assert torch.equal(other.restore(images, hidden), expected)
        assert other.weights_digest == restorer.weights_digest


class Dim:
    """A network of no known kind: it answers mid grey, whatever it is given."""

    grid, image_size, width, skips_hidden = 8, 16, 64, True

    def __init__(self) -> None:
        self.lowered = False
        self.seen: list[tuple[int, int]] = []
        self.spans: list[tuple[int, int]] = []

    def in_float32(self) -> "Dim":
        return self

    def in_bfloat16(self) -> "Dim":
        lowered = Dim()
        lowered.lowered = True
        return lowered

    def embed(self, images: torch.Tensor) -> torch.Tensor:
        return images.mean(dim=(1, 2, 3))

    def __call__(
        self, images: torch.Tensor, hidden: torch.Tensor, *, tokens: torch.Tensor, visible: tuple[int, int]
    ) -> torch.Tensor:
        assert torch.equal(tokens, self.embed(images))
        counts = (~hidden).flatten(1).sum(dim=1)
        assert visible[0] <= counts.min()
        assert counts.max() <= visible[1]
        self.seen.append((len(images), int(visible[1])))
        self.spans.append(visible)
        return torch.full_like(images, 0.5)


def test_any_network_that_keeps_the_protocol_will_do() -> None:
    network = Dim()
    images, hidden = torch.rand(6, 3, 16, 16), torch.rand(6, 8, 8) < 0.5
    restorer = MAERestorer(network, precision="float32")
    restored = restorer.restore(images, hidden)
    pixels = tokens_to_pixels(hidden, 16, 16)
    assert torch.equal(restored, torch.where(pixels, torch.tensor(0.5), images))
    assert not network.lowered
    # A narrow network that skips hidden tokens: quarters of the grid, 8 masks at a time.
    assert {size for size, _ in network.seen} == {8}
    assert {visible for _, visible in network.seen} <= {16, 32, 48, 64}
    assert MAERestorer(network, precision="bfloat16").network.lowered  # type: ignore[attr-defined]


def test_masks_that_leave_a_quarter_need_no_room_for_others() -> None:
    network = Dim()
    tokens = torch.arange(64).view(8, 8)
    # The first two leave 16 of 64 tokens visible, as random masks do, the others 15 and 17.
    hidden = torch.stack([tokens >= 16, tokens < 48, tokens >= 15, tokens >= 17])
    MAERestorer(network, precision="float32").restore(torch.rand(4, 3, 16, 16), hidden)
    assert sorted(network.spans) == [(1, 16), (16, 16), (17, 32)]


def test_large_restorations_are_pasted_in_parts_to_the_same_bits(
    network: torch.nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    restorer = MAERestorer(network, micro_batch=4)
    images, hidden = torch.rand(2, 3, 33, 21), torch.rand(2, 5, 8, 8) < 0.4
    expected = restorer.restore(images, hidden)
    for together in (3, 1):
        monkeypatch.setattr("maskrestore.mae.restorer._PASTE_PIXELS", together * 33 * 21)
        assert torch.equal(restorer.restore(images, hidden), expected)


def test_a_grey_photograph_gets_no_tint_and_others_keep_theirs(network: torch.nn.Module) -> None:
    restorer = MAERestorer(network)
    generator = torch.Generator().manual_seed(0)
    grey = torch.rand(1, 1, 80, 80, generator=generator).expand(-1, 3, -1, -1).clone()
    grey[..., -12:, -12:] = torch.rand(1, 3, 12, 12, generator=generator)  # a coloured trigger
    colour = torch.rand(1, 3, 80, 80, generator=generator)
    hidden = torch.ones(2, restorer.grid, restorer.grid, dtype=torch.bool)
    restored = restorer.restore(torch.cat([grey, colour]), hidden)
    assert restored[0].std(dim=0).max() < 1e-6
    assert restored[1].std(dim=0).max() > 1e-3
    assert torch.equal(restorer.restore(grey, hidden[:1])[0], restored[0])
