import pytest
import torch

from maskrestore.errors import ConfigError
from maskrestore.imaging.resize import resize
from maskrestore.mae.conv import ConvMAE, ConvMAEConfig

SMALL = ConvMAEConfig(image_size=16, widths=(8, 12), encoder_blocks=(1, 1), decoder_blocks=(1,))


def test_shape_and_units() -> None:
    network = ConvMAE(SMALL)
    assert (network.grid, network.image_size) == (8, 16)
    output = network(torch.rand(2, 3, 16, 16), torch.zeros(2, 8, 8, dtype=torch.bool))
    assert output.shape == (2, 3, 16, 16)
    assert output.dtype == torch.float32


def test_hidden_pixels_do_not_reach_the_output() -> None:
    torch.manual_seed(0)
    network = ConvMAE(SMALL)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    hidden = torch.rand(1, 8, 8) < 0.5
    images = torch.rand(1, 3, 16, 16)
    changed = torch.where(
        hidden.repeat_interleave(2, 1).repeat_interleave(2, 2).unsqueeze(1), torch.rand_like(images), images
    )
    assert not torch.equal(images, changed)
    assert torch.equal(network(images, hidden), network(changed, hidden))
    assert not torch.equal(network(images, hidden), network(images, ~hidden))


@pytest.mark.parametrize(
    "wrong",
    [{"widths": (8,)}, {"encoder_blocks": (1,)}, {"decoder_blocks": (1, 1)}, {"image_size": 18}],
)
def test_shapes_that_do_not_fit_are_refused(wrong: dict[str, object]) -> None:
    base: dict[str, object] = {
        "image_size": 16,
        "widths": (8, 12),
        "encoder_blocks": (1, 1),
        "decoder_blocks": (1,),
    }
    with pytest.raises(ConfigError):
        ConvMAEConfig(**{**base, **wrong})  # type: ignore[arg-type]


def test_a_token_may_cover_several_patches() -> None:
    torch.manual_seed(0)
    shape = {"image_size": 16, "widths": (4, 4), "encoder_blocks": (1, 1), "decoder_blocks": (1,)}
    fine = ConvMAE(ConvMAEConfig(patch_size=2, **shape)).eval()
    coarse = ConvMAE(ConvMAEConfig(patch_size=2, token_size=4, **shape)).eval()
    coarse.load_state_dict(fine.state_dict())
    images, hidden = torch.rand(3, 3, 16, 16), torch.rand(3, 4, 4) < 0.5
    assert (fine.grid, coarse.grid) == (8, 4)
    with torch.inference_mode():
        assert torch.equal(coarse(images, hidden), fine(images, torch.kron(hidden, torch.ones(2, 2, dtype=torch.bool))))


def test_the_output_has_no_finer_details_than_its_size() -> None:
    torch.manual_seed(0)
    shape = {"image_size": 16, "widths": (4, 4), "encoder_blocks": (1, 1), "decoder_blocks": (1,)}
    sharp = ConvMAE(ConvMAEConfig(**shape)).eval()
    smooth = ConvMAE(ConvMAEConfig(output_size=4, **shape)).eval()
    smooth.load_state_dict(sharp.state_dict())
    images, hidden = torch.rand(3, 3, 16, 16), torch.rand(3, 8, 8) < 0.5
    with torch.inference_mode():
        ours, theirs = smooth(images, hidden), sharp(images, hidden)
    assert ours.shape == theirs.shape
    torch.testing.assert_close(ours, resize(resize(theirs, 4, 4), 16, 16))
    assert ours.diff(dim=3).abs().mean() < 0.3 * theirs.diff(dim=3).abs().mean()


@pytest.mark.parametrize("output_size", [0, 17])
def test_the_output_is_at_most_as_large_as_the_input(output_size: int) -> None:
    with pytest.raises(ConfigError, match="output_size must be 1 to image_size = 16"):
        ConvMAEConfig(image_size=16, output_size=output_size, widths=(4,), encoder_blocks=(1,), decoder_blocks=())


@pytest.mark.parametrize("token_size", [0, 3, 6, 32])
def test_tokens_must_be_made_of_patches(token_size: int) -> None:
    with pytest.raises(
        ConfigError, match="token_size must be a multiple of patch_size = 2 that divides image_size = 16"
    ):
        ConvMAEConfig(
            image_size=16, patch_size=2, token_size=token_size, widths=(4,), encoder_blocks=(1,), decoder_blocks=()
        )
