from __future__ import annotations

import math
from dataclasses import replace
from unittest.mock import Mock

import pytest
import torch
import transformers
from torch import Tensor

from maskrestore.errors import ConfigError, InvalidImageError
from maskrestore.mae import transformer
from maskrestore.mae.checkpoints.hugging_face import read_hugging_face
from maskrestore.mae.transformer import sincos_positions
from maskrestore.mae.vit import ViTMAE
from maskrestore.mae.vit_config import VIT_PRESETS, ViTMAEConfig

SMALL = ViTMAEConfig(
    image_size=16,
    patch_size=4,
    width=24,
    depth=2,
    heads=3,
    decoder_width=16,
    decoder_depth=2,
    decoder_heads=2,
    mean=(0.48, 0.45, 0.40),
    std=(0.23, 0.22, 0.25),
)

COUNTS = [12, 0, 16, 3, 12, 1, 15, 0, 16]  # hidden tokens of 16: nothing and everything included


@pytest.fixture(scope="module")
def small() -> ViTMAE:
    torch.manual_seed(0)
    return ViTMAE(SMALL).eval()


def random_masks(counts: list[int], grid: int, seed: int = 1) -> torch.Tensor:
    """(B, g, g) bool, row i hides counts[i] random tokens."""
    noise = torch.rand(len(counts), grid * grid, generator=torch.Generator().manual_seed(seed))
    rank = noise.argsort(1).argsort(1)
    return (rank < torch.tensor(counts).unsqueeze(1)).view(-1, grid, grid)


def pixels_of(hidden: torch.Tensor, config: ViTMAEConfig = SMALL) -> torch.Tensor:
    """(B, g, g) -> (B, 1, S, S)."""
    return hidden.repeat_interleave(config.patch_size, 1).repeat_interleave(config.patch_size, 2).unsqueeze(1)


def reference_network(config: ViTMAEConfig, seed: int) -> transformers.ViTMAEForPreTraining:
    """transformers' network of that shape, with every weight, bias and position random."""
    torch.manual_seed(seed)
    reference = transformers.ViTMAEForPreTraining(
        transformers.ViTMAEConfig(
            image_size=config.image_size,
            patch_size=config.patch_size,
            hidden_size=config.width,
            num_hidden_layers=config.depth,
            num_attention_heads=config.heads,
            intermediate_size=round(config.width * config.mlp_ratio),
            decoder_hidden_size=config.decoder_width,
            decoder_num_hidden_layers=config.decoder_depth,
            decoder_num_attention_heads=config.decoder_heads,
            decoder_intermediate_size=round(config.decoder_width * config.mlp_ratio),
            layer_norm_eps=config.norm_eps,
        )
    ).eval()
    with torch.no_grad():
        for name, parameter in reference.named_parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.2 if "pos" in name else 0.02)
    return reference


def reference_pixels(
    reference: transformers.ViTMAEForPreTraining, images: torch.Tensor, hidden: torch.Tensor
) -> torch.Tensor:
    """Reconstruction of normalised images by transformers, with its mask forced to be ``hidden``."""
    flat = hidden.flatten(1)
    reference.vit.embeddings.config.mask_ratio = float(flat[0].float().mean())
    # Tokens are kept in ascending order of noise, so hidden ones get the larger numbers.
    output = reference(images, noise=flat.float())
    assert torch.equal(output.mask.bool(), flat)
    return reference.unpatchify(output.logits)


@pytest.mark.parametrize(("config", "batch"), [(SMALL, 5), (VIT_PRESETS["base"], 1)], ids=["small", "base"])
def test_same_pixels_as_transformers(config: ViTMAEConfig, batch: int, tmp_path) -> None:
    reference = reference_network(config, seed=3)
    reference.save_pretrained(tmp_path)
    found, tensors = read_hugging_face(tmp_path)
    assert found == replace(config, mean=found.mean, std=found.std)
    network = ViTMAE(config).eval()
    network.load_state_dict(tensors)

    images = torch.rand(batch, 3, config.image_size, config.image_size)
    hidden = random_masks([config.grid**2 * 3 // 4] * batch, config.grid)
    mean, std = (torch.tensor(value).view(1, 3, 1, 1) for value in (config.mean, config.std))
    with torch.inference_mode():
        expected = reference_pixels(reference, (images - mean) / std, hidden) * std + mean
        actual = network.to_pixels(network.predict(images, hidden))
        restored = network(images, hidden)
    assert expected.std() > 0.01  # a constant image would prove nothing
    assert (actual - expected).abs().max() <= 1e-4
    # What restoring leaves out changes nothing of what it is asked for.
    assert (restored - torch.where(pixels_of(hidden, config), expected, images)).abs().max() <= 1e-4


def test_masks_of_different_sizes_equal_one_by_one(small: ViTMAE) -> None:
    images, hidden = torch.rand(len(COUNTS), 3, 16, 16), random_masks(COUNTS, 4)
    with torch.inference_mode():
        together = small(images, hidden)
        alone = torch.cat([small(images[i : i + 1], hidden[i : i + 1]) for i in range(len(COUNTS))])
    assert (together - alone).abs().max() <= 1e-6


def test_hidden_tokens_alone_equal_the_full_prediction(small: ViTMAE) -> None:
    images, hidden = torch.rand(len(COUNTS), 3, 16, 16), random_masks(COUNTS, 4)
    pixels = pixels_of(hidden).expand_as(images)
    with torch.inference_mode():
        restored = small(images, hidden)
        full = small.to_pixels(small.predict(images, hidden))
        embedded_before = small(images, hidden, tokens=small.embed(images))
    assert (restored - full)[pixels].abs().max() <= 1e-6
    assert torch.equal(restored[~pixels], images[~pixels])
    assert torch.equal(embedded_before, restored)


@pytest.mark.parametrize("visible", [(0, 16), (2, 9)])
def test_masks_of_different_sizes_share_one_pass(small: ViTMAE, visible: tuple[int, int]) -> None:
    fewest, most = visible
    counts = [count for count in COUNTS + list(range(17)) if fewest <= 16 - count <= most]
    images, hidden = torch.rand(len(counts), 3, 16, 16), random_masks(counts, 4)
    with torch.inference_mode():
        together = small(images, hidden, visible=visible)
        by_size = small(images, hidden)
        others = small(torch.cat([images[:1], torch.rand_like(images[1:])]), hidden, visible=visible)
    assert (together - by_size).abs().max() <= 1e-6
    assert torch.equal(others[0], together[0])


def attention_within(queries: Tensor, keys: Tensor, values: Tensor, ends: Tensor, *_: object) -> Tensor:
    """What PyTorch's ``varlen_attn`` computes, which is for GPUs: ``(T, h, d)``, each sequence on its own."""
    lengths = ends[: len(ends)].diff().tolist()
    mixed = []
    for q, k, v in zip(*(each.split(lengths) for each in (queries, keys, values)), strict=True):
        weights = torch.einsum("qhd,khd->hqk", q, k) / q.shape[2] ** 0.5
        mixed.append(torch.einsum("hqk,khd->qhd", weights.softmax(dim=2), v))
    return torch.cat(mixed)


def test_sequences_laid_end_to_end_equal_masked_ones(small: ViTMAE, monkeypatch: pytest.MonkeyPatch) -> None:
    images, hidden = torch.rand(len(COUNTS), 3, 16, 16), random_masks(COUNTS, 4)
    attention = Mock(side_effect=attention_within)
    with torch.inference_mode():
        masked = small(images, hidden, visible=(0, 16))
        monkeypatch.setattr(transformer, "_supports_packed_attention", lambda _: True)
        monkeypatch.setattr(transformer, "_varlen_attention", lambda: attention)
        end_to_end = small(images, hidden, visible=(0, 16))
    assert attention.call_count == len(small.blocks)
    assert (end_to_end - masked).abs().max() <= 1e-6


def test_an_image_does_not_depend_on_its_neighbours(small: ViTMAE) -> None:
    counts = [12, 5, 12, 5]
    images, hidden = torch.rand(4, 3, 16, 16), random_masks(counts, 4)
    others = torch.cat([images[:1], torch.rand(3, 3, 16, 16)])
    with torch.inference_mode():
        assert torch.equal(small(images, hidden)[0], small(others, hidden)[0])


def test_hidden_pixels_are_never_seen(small: ViTMAE) -> None:
    images, hidden = torch.rand(2, 3, 16, 16), random_masks([7, 12], 4)
    pixels = pixels_of(hidden)
    changed = torch.where(pixels, torch.rand_like(images), images)
    with torch.inference_mode():
        assert torch.equal(small(images, hidden), small(changed, hidden))
        # ... while visible pixels matter.
        seen = torch.where(pixels, images, images.roll(1, 3))
        assert not torch.equal(small(images, hidden) * pixels, small(seen, hidden) * pixels)


def test_everything_hidden_gives_every_image_the_same_reconstruction(small: ViTMAE) -> None:
    with torch.inference_mode():
        first, second = small(torch.rand(2, 3, 16, 16), torch.ones(2, 4, 4, dtype=torch.bool))
    # Not bit for bit: on several cores a product may round the second row differently. MAERestorer sees to that.
    assert (first - second).abs().max() <= 1e-6
    assert first.std() > 0.01


def test_predictions_land_at_their_token(small: ViTMAE) -> None:
    network = ViTMAE(SMALL).eval()
    with torch.no_grad():
        network.decoder_pred.weight.zero_()
        # Within a token: rows, columns, then channels.
        network.decoder_pred.bias.copy_(torch.arange(4 * 4 * 3).float())
        output = network(torch.rand(1, 3, 16, 16), random_masks([16], 4))
    mean, std = torch.tensor(SMALL.mean), torch.tensor(SMALL.std)
    for row, column, channel in [(0, 0, 0), (5, 6, 1), (15, 12, 2)]:
        index = ((row % 4) * 4 + column % 4) * 3 + channel
        assert output[0, channel, row, column].item() == pytest.approx(
            (index * std[channel] + mean[channel]).item(), rel=1e-5
        )


@pytest.mark.parametrize("counts", [[12, 12, 12], [12, 3, 16]], ids=["equal", "different"])
def test_training_reaches_every_parameter(counts: list[int]) -> None:
    torch.manual_seed(0)
    network = ViTMAE(SMALL)
    images, hidden = torch.rand(3, 3, 1, 1).expand(-1, -1, 16, 16), random_masks(counts, 4)
    optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3)
    losses = []
    for _ in range(40):
        loss = (network(images, hidden) - images).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.2 * losses[0]
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        # A key's bias shifts all logits of a query alike, so its third of qkv.bias may stay at zero.
        assert parameter.grad.abs().sum() > 0, name
    assert "pos_embed" not in dict(network.named_parameters())


def test_bfloat16_autocast_returns_float32_close_to_full_precision(small: ViTMAE) -> None:
    images, hidden = torch.rand(3, 3, 16, 16), random_masks([12, 5, 16], 4)
    with torch.inference_mode():
        full = small(images, hidden)
        with torch.autocast("cpu", torch.bfloat16):
            low = small(images, hidden)
    assert low.dtype == torch.float32
    assert (low - full).abs().max() < 0.05


@pytest.mark.parametrize(("width", "grid"), [(64, 14), (12, 3)])
def test_positions_are_the_official_ones(width: int, grid: int) -> None:
    """Number by number, as ``util/pos_embed.py`` of facebookresearch/mae makes them: the column first, then the row."""
    quarter = width // 4
    frequencies = [10_000 ** (-number / quarter) for number in range(quarter)]
    rows = [[0.0] * width]  # the class token
    for token in range(grid * grid):
        row, column = divmod(token, grid)
        rows.append(
            [
                wave(place * frequency)
                for place in (column, row)
                for wave in (math.sin, math.cos)
                for frequency in frequencies
            ]
        )
    assert torch.allclose(sincos_positions(width, grid)[0], torch.tensor(rows), atol=1e-6)


def test_presets_have_the_published_sizes() -> None:
    published = {"base": 111_907_840, "large": 329_541_888, "huge": 657_074_508}
    for name, parameters in published.items():
        with torch.device("meta"):
            network = ViTMAE(VIT_PRESETS[name])
        counted = sum(tensor.numel() for tensor in network.state_dict().values())
        assert counted == parameters, name
    assert VIT_PRESETS["tiny-32"].grid == 16


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"image_size": 33}, "image_size 33"),
        ({"heads": 5}, "width 192"),
        ({"decoder_heads": 3}, "decoder_width 128"),
        ({"depth": 0}, "depth"),
        ({"width": 192.0}, "width"),
        ({"mlp_ratio": 0.0}, "mlp_ratio"),
        ({"std": (1.0, 0.0, 1.0)}, "std"),
    ],
)
def test_bad_configurations_are_refused(fields: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ViTMAEConfig(**fields)


@pytest.mark.parametrize(
    ("images", "hidden"),
    [
        (torch.rand(2, 3, 32, 32), torch.zeros(2, 4, 4, dtype=torch.bool)),
        (torch.rand(2, 1, 16, 16), torch.zeros(2, 4, 4, dtype=torch.bool)),
        (torch.rand(3, 16, 16), torch.zeros(1, 4, 4, dtype=torch.bool)),
        (torch.rand(0, 3, 16, 16), torch.zeros(0, 4, 4, dtype=torch.bool)),
        (torch.rand(2, 3, 16, 16), torch.zeros(1, 4, 4, dtype=torch.bool)),
        (torch.rand(2, 3, 16, 16), torch.zeros(2, 4, 4)),
    ],
)
def test_wrong_shapes_are_refused(small: ViTMAE, images: torch.Tensor, hidden: torch.Tensor) -> None:
    with pytest.raises(InvalidImageError, match=r"expected .* got"):
        small(images, hidden)


def test_normalised_targets_predict_but_do_not_restore() -> None:
    network = ViTMAE(replace(SMALL, normalized_pixel_targets=True))
    images, hidden = torch.rand(1, 3, 16, 16), random_masks([8], 4)
    assert network.predict(images, hidden).shape == (1, 16, 48)
    with pytest.raises(ConfigError, match="norm_pix_loss"):
        network(images, hidden)
