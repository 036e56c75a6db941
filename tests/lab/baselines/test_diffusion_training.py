import dataclasses
import json
from pathlib import Path

import pytest
import torch
from diffusers import UNet2DModel

from diffusion_fakes import TINY
from fakes import colour_labels
from maskrestore.errors import CheckpointError, ConfigError, DataError
from maskrestore.lab.baselines.diffpure import DiffPureConfig
from maskrestore.lab.baselines.diffusion_models import load_denoiser
from maskrestore.lab.baselines.diffusion_training import (
    DiffusionProgress,
    DiffusionTrainingConfig,
    build_unet,
    denoising_error,
    train_diffusion,
)


def smooth_images(count: int) -> torch.Tensor:
    coarse = torch.rand(count, 3, 3, 3, generator=torch.Generator().manual_seed(0))
    return (torch.nn.functional.interpolate(coarse, (16, 16), mode="bilinear") * 255).to(torch.uint8)


def test_training_improves_the_held_out_error_and_writes_a_model(tmp_path: Path) -> None:
    config = dataclasses.replace(
        TINY, steps=90, checkpoint_every=30, batch_size=16, learning_rate=4e-3, warmup_steps=5, ema=0.9, level_power=2
    )
    images, seen = smooth_images(160), list[DiffusionProgress]()
    model = train_diffusion(config, images[:128], tmp_path, held_out=images[128:], progress=seen.append)
    curve = [json.loads(line) for line in (tmp_path / "curve.jsonl").read_text().splitlines()]
    assert [point["step"] for point in curve] == [30, 60, 90]
    assert curve[-1]["held_out_error"] < curve[0]["held_out_error"] - 0.1
    assert curve[-1]["loss"] < curve[0]["loss"]
    assert seen[-1].step == 90
    assert seen[-1].images_per_second > 0
    # The folder holds the network that was measured, and nothing half-written lies about.
    assert sorted(path.name for path in tmp_path.iterdir()) == ["curve.jsonl", "model", "state.pt"]
    kept = UNet2DModel.from_pretrained(model)
    assert denoising_error(kept, images[128:]) == pytest.approx(curve[-1]["held_out_error"], abs=1e-3)
    assert load_denoiser(model).image_size == 16
    purified = DiffPureConfig(model=str(model), noise_time=0.003).build().purify(images[:2], colour_labels)
    assert purified.images.shape == (2, 3, 16, 16)


def test_an_interrupted_run_ends_like_an_uninterrupted_one(tmp_path: Path) -> None:
    config = dataclasses.replace(TINY, steps=6, checkpoint_every=2)
    images = smooth_images(32)
    whole = load_denoiser(train_diffusion(config, images, tmp_path / "whole")).network

    class StoppedError(Exception):
        pass

    def stop(state: DiffusionProgress) -> None:
        if state.step == 4:
            raise StoppedError

    with pytest.raises(StoppedError):  # after step 4 was computed, before its checkpoint was written
        train_diffusion(config, images, tmp_path / "parts", progress=stop)
    resumed = load_denoiser(train_diffusion(config, images, tmp_path / "parts")).network
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, resumed.state_dict()[name]), name


def test_a_folder_of_another_run_and_images_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    images = smooth_images(8)
    train_diffusion(TINY, images, tmp_path)
    with pytest.raises(CheckpointError, match="another configuration"):
        train_diffusion(dataclasses.replace(TINY, seed=1), images, tmp_path)
    for wrong in (torch.zeros(4, 3, 32, 32, dtype=torch.uint8), torch.zeros(4, 3, 16, 16), images[:0]):
        with pytest.raises(DataError):
            train_diffusion(TINY, wrong, tmp_path / "other")
        with pytest.raises(DataError):
            train_diffusion(TINY, images, tmp_path / "other", held_out=wrong)
    assert not (tmp_path / "other").exists()


def test_the_error_of_predicting_nothing_is_one() -> None:
    network = build_unet(TINY)
    for parameter in network.parameters():
        torch.nn.init.zeros_(parameter)
    assert denoising_error(network, smooth_images(64)) == pytest.approx(1, abs=0.02)


def test_the_default_network_is_small() -> None:
    network = build_unet(DiffusionTrainingConfig())
    assert sum(parameter.numel() for parameter in network.parameters()) / 1e6 == pytest.approx(6.14, abs=0.01)


def test_attention_is_where_it_was_asked_for() -> None:
    network = build_unet(DiffusionTrainingConfig(channels=(32, 32, 32), attention_at=(16,)))
    assert [type(block).__name__ for block in network.down_blocks] == ["DownBlock2D", "AttnDownBlock2D", "DownBlock2D"]
    assert [type(block).__name__ for block in network.up_blocks] == ["UpBlock2D", "AttnUpBlock2D", "UpBlock2D"]


@pytest.mark.parametrize(
    "settings",
    [{"steps": 0}, {"image_size": 30}, {"channels": (64, 100)}, {"ema": 1.0}, {"level_power": 0}],
)
def test_impossible_settings_are_refused(settings: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=next(iter(settings))):
        DiffusionTrainingConfig(**settings)  # type: ignore[arg-type]
