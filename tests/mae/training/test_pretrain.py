import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from maskrestore.errors import CheckpointError, ConfigError, DataError
from maskrestore.imaging.patches import tokens_to_pixels
from maskrestore.mae.checkpoints.loading import build_network, load_network
from maskrestore.mae.training.augmentation import augment
from maskrestore.mae.training.pretrain import PretrainConfig, Progress, masked_psnr, pretrain, random_hidden
from maskrestore.runtime.precision import autocast

CONV = {"image_size": 16, "widths": (16, 16), "encoder_blocks": (1, 1), "decoder_blocks": (1,)}
VIT = {
    "image_size": 16, "patch_size": 2, "width": 32, "depth": 2, "heads": 2,
    "decoder_width": 32, "decoder_depth": 1, "decoder_heads": 2,
}  # fmt: skip


def smooth_images(count: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(count, 3, 3, 3, generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, (16, 16), mode="bilinear")
    return (smooth * 255).to(torch.uint8)


@pytest.mark.parametrize(("family", "gain"), [("conv", 1.0), ("vit", 0.2)])
def test_training_improves_the_held_out_error_and_saves_weights(tmp_path: Path, family: str, gain: float) -> None:
    config = PretrainConfig(
        family=family,  # type: ignore[arg-type]
        network=CONV if family == "conv" else VIT,
        steps=80,
        batch_size=32,
        checkpoint_every=20,
        warmup_steps=5,
        learning_rate=3e-3,
    )
    seen: list[Progress] = []
    images = smooth_images(256)
    path = pretrain(config, images[:224], tmp_path, held_out=images[224:], progress=seen.append)
    curve = [json.loads(line) for line in (tmp_path / "curve.jsonl").read_text().splitlines()]
    assert [point["step"] for point in curve] == [20, 40, 60, 80]
    assert curve[-1]["held_out_psnr"] > curve[0]["held_out_psnr"] + gain
    assert seen[-1].step == 80
    # The file holds half-precision weights of the network that was measured.
    assert masked_psnr(load_network(path), images[224:]) == pytest.approx(curve[-1]["held_out_psnr"], abs=0.05)


def test_an_interrupted_run_ends_like_an_uninterrupted_one(tmp_path: Path) -> None:
    config = PretrainConfig(network=CONV, steps=12, batch_size=8, checkpoint_every=4)
    images = smooth_images(32)
    whole = load_network(pretrain(config, images, tmp_path / "whole"))

    class StoppedError(Exception):
        pass

    def stop(state: Progress) -> None:
        if state.step == 8:
            raise StoppedError

    with pytest.raises(StoppedError):  # after step 8 was computed, before its checkpoint was written
        pretrain(config, images, tmp_path / "parts", progress=stop)
    resumed = load_network(pretrain(config, images, tmp_path / "parts"))
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, resumed.state_dict()[name]), name


def test_a_folder_of_another_run_is_refused(tmp_path: Path) -> None:
    images = smooth_images(8)
    pretrain(PretrainConfig(network=CONV, steps=1, batch_size=4), images, tmp_path)
    with pytest.raises(CheckpointError, match="another configuration"):
        pretrain(PretrainConfig(network=CONV, steps=2, batch_size=4), images, tmp_path)


def test_training_is_the_plain_loop(tmp_path: Path) -> None:
    config = PretrainConfig(network=CONV, steps=6, batch_size=8, warmup_steps=3, ema=0.5, checkpoint_every=4, seed=3)
    images = smooth_images(32)
    pretrain(config, images, tmp_path)
    state = torch.load(tmp_path / "state.pt", weights_only=True)

    torch.manual_seed(3)
    network = build_network("conv", CONV).to(memory_format=torch.channels_last)
    average = [parameter.detach().clone() for parameter in network.parameters()]
    optimizer = torch.optim.AdamW(network.parameters(), betas=(0.9, 0.98), weight_decay=0.02, fused=True)
    generator = torch.Generator().manual_seed(3)
    for step, warm in enumerate([1 / 3, 2 / 3, 1, 1, 1, 1]):
        optimizer.param_groups[0]["lr"] = 1e-3 * (warm * 0.5 * (1 + math.cos(math.pi * step / 6)))
        batch = images[torch.randint(32, (8,), generator=generator)].float() / 255
        clean = augment(batch, config.augmentation, generator)
        hidden = random_hidden(8, 8, config.mask_ratio, config.blob_share, generator)
        with autocast():
            output = network(clean, hidden).float()
        error = ((output - clean) * 4) ** 2
        weights = tokens_to_pixels(hidden, 16, 16).float()
        optimizer.zero_grad()
        ((error * weights).sum() / (3 * weights.sum())).backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        decay = min(0.5, (step + 1) / (step + 11))
        average = [mean.lerp(new.detach(), 1 - decay) for mean, new in zip(average, network.parameters(), strict=True)]
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, state["network"][name]), name
    for mean, (name, _) in zip(average, network.named_parameters(), strict=True):
        assert torch.equal(mean, state["average"][name]), name


def test_a_run_begun_with_other_weights_is_refused(tmp_path: Path) -> None:
    images = smooth_images(16)
    config = PretrainConfig(network=CONV, steps=2, batch_size=4, checkpoint_every=1, feature_weight=0.3)
    extractors = [Edges(1.0), Edges(2.0)]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        one, other = (build_network("conv", CONV) for _ in range(2))

    def run(init: torch.nn.Module | None, features: list[Edges]) -> Path:
        return pretrain(config, images, tmp_path, init=init, features=features)

    run(one, extractors)
    for init, features, name in (
        (other, extractors, "init"),
        (None, extractors, "init"),
        (one, extractors[:1], "features"),
        (one, extractors[::-1], "features"),
        (one, [extractors[0], Edges(3.0)], "features"),
    ):
        with pytest.raises(CheckpointError, match=f"started with another {name}"):
            run(init, features)
    assert run(one, extractors).is_file()
    with pytest.raises(CheckpointError, match="another network"):
        pretrain(
            replace(config, network=CONV | {"widths": (8, 8)}), images, tmp_path / "new", init=one, features=extractors
        )

    state = torch.load(tmp_path / "state.pt", weights_only=True)
    del state["inputs"]
    torch.save(state, tmp_path / "state.pt")
    with pytest.raises(CheckpointError, match="an older version, which did not record its init and features"):
        run(one, extractors)


def test_images_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    config = PretrainConfig(network=CONV, steps=1)
    for images in (
        torch.zeros(4, 3, 32, 32, dtype=torch.uint8),
        torch.zeros(4, 3, 16, 16),
        torch.zeros(0, 3, 16, 16),
    ):
        with pytest.raises(DataError):
            pretrain(config, images, tmp_path)
    with pytest.raises(ConfigError, match="mask_ratio"):
        PretrainConfig(mask_ratio=(0.5, 0.2))


def test_training_masks_cover_the_range_and_a_vit_gets_one_size() -> None:
    generator = torch.Generator().manual_seed(0)
    share = random_hidden(500, 16, (0.05, 0.9), 0.2, generator).float().mean(dim=(1, 2))
    assert share.min() < 0.15
    assert share.max() > 0.85
    assert share.max() <= 0.9 + 1 / 512
    assert share.mean() > 0.55  # high ratios more often
    counts = random_hidden(8, 16, (0.05, 0.9), 0.2, generator, one_ratio=True).flatten(1).sum(dim=1)
    assert counts.unique().numel() == 1


def test_training_on_parts_of_larger_images_with_masks_of_the_scores(tmp_path: Path) -> None:
    larger = torch.nn.functional.interpolate(smooth_images(12), (24, 24))
    shares: list[float] = []

    class Watching(Edges):
        def stage_features(self, images: torch.Tensor) -> list[torch.Tensor]:
            shares.append(float(images.shape[-1]))
            return super().stage_features(images)

    config = PretrainConfig(network=CONV, steps=2, batch_size=4, source_size=24, scoring_share=0.5, feature_weight=0.1)
    weights = pretrain(config, larger, tmp_path, held_out=smooth_images(4), features=[Watching()])
    assert load_network(weights).image_size == 16
    assert set(shares) == {16.0}
    with pytest.raises(DataError, match="24, 24"):
        pretrain(config, smooth_images(4), tmp_path / "small", features=[Edges()])
    with pytest.raises(ConfigError, match="source_size must be at least image_size = 16, got 8"):
        pretrain(replace(config, source_size=8), larger, tmp_path / "tiny", features=[Edges()])
    with pytest.raises(ConfigError, match="scoring_share must be in"):
        replace(config, scoring_share=1.5)


def test_blobs_are_connected() -> None:
    def contacts(blob_share: float) -> float:
        hidden = random_hidden(64, 16, (0.2, 0.2), blob_share, torch.Generator().manual_seed(0))
        return float((hidden[:, 1:] & hidden[:, :-1]).sum())

    assert contacts(1.0) > 2 * contacts(0.0)


class Edges(torch.nn.Module):
    """Features that a blurred image lacks: differences of neighbours."""

    def __init__(self, scale: float = 1.0) -> None:
        super().__init__()
        self.register_buffer("scale", torch.tensor(scale))

    def stage_features(self, images: torch.Tensor) -> list[torch.Tensor]:
        across, down = images[..., 1:] - images[..., :-1], images[..., 1:, :] - images[..., :-1, :]
        return [self.scale * across, self.scale * down]


def test_the_feature_loss_needs_features_and_counts(tmp_path: Path) -> None:
    images = smooth_images(16)
    losses: dict[float, float] = {}
    for weight in (0.0, 1.0):
        config = PretrainConfig(network=CONV, steps=1, batch_size=8, feature_weight=weight)
        with pytest.raises(ConfigError, match="feature extractor"):
            pretrain(config, images, tmp_path / "refused", features=[] if weight else [Edges()])

        def keep(state: Progress, weight: float = weight) -> None:
            losses[weight] = state.loss

        out = tmp_path / str(weight)
        pretrain(config, images, out, features=[Edges()] if weight else [], progress=keep)
    assert losses[1.0] > losses[0.0] + 0.1


def test_the_steps_take_several_extractors_in_turn(tmp_path: Path) -> None:
    class Counted(Edges):
        calls = 0

        def stage_features(self, images: torch.Tensor) -> list[torch.Tensor]:
            self.calls += 1
            return super().stage_features(images)

    extractors = [Counted(), Counted()]
    config = PretrainConfig(network=CONV, steps=5, batch_size=8, feature_weight=0.5)
    pretrain(config, smooth_images(16), tmp_path, features=extractors)
    # Two calls a step, for the image and for its restoration.
    assert [extractor.calls for extractor in extractors] == [6, 4]


def test_training_starts_from_the_weights_that_are_given(tmp_path: Path) -> None:
    images = smooth_images(16)
    first = pretrain(PretrainConfig(network=CONV, steps=5, batch_size=8), images, tmp_path / "first")
    start = load_network(first)
    config = PretrainConfig(network=CONV, steps=1, batch_size=8, learning_rate=1e-9, ema=0.0, weight_decay=0.0, seed=1)
    second = load_network(pretrain(config, images, tmp_path / "second", init=start))
    for name, tensor in start.state_dict().items():
        assert torch.allclose(tensor, second.state_dict()[name], atol=1e-5), name
