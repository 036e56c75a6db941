import json
import math
import sys
from pathlib import Path

import pytest
import torch
from diffusers import DDPMScheduler

from diffusion_fakes import TINY, GaussianDenoiser, PointDenoiser, ZeroDenoiser, save_tiny_unet
from maskrestore.defense.streams import Stream
from maskrestore.errors import CheckpointError, ConfigError, MissingDependencyError
from maskrestore.lab.baselines.diffusion import (
    ddpm_sample,
    ddpm_step,
    gaussian,
    kept,
    noised,
    sde_sample,
)
from maskrestore.lab.baselines.diffusion_models import DiffusionSettings, load_denoiser
from maskrestore.lab.baselines.diffusion_training import build_unet


def noise(seed: int, count: int = 4) -> torch.Tensor:
    return torch.randn(count, 3, 16, 16, generator=torch.Generator().manual_seed(seed))


def test_noise_of_many_steps_at_once_is_that_of_one_step_after_the_other() -> None:
    # A step is x' = sqrt(1 - beta) x + sqrt(beta) noise: it scales the signal and the variance of the noise.
    signal, variance = 1.0, 0.0
    for step in range(1000):
        beta = 1e-4 + (0.02 - 1e-4) * step / 999
        signal, variance = signal * math.sqrt(1 - beta), variance * (1 - beta) + beta
        assert kept(step + 1) == pytest.approx(signal**2, rel=1e-9)
        assert 1 - kept(step + 1) == pytest.approx(variance, rel=1e-9)
    assert kept(0) == 1
    images = torch.rand(4, 3, 16, 16) * 2 - 1
    expected = math.sqrt(kept(100)) * images + math.sqrt(1 - kept(100)) * noise(0)
    torch.testing.assert_close(noised(images, 100, noise(0)), expected)
    assert torch.equal(noised(images, 0, noise(0)), images)


def test_pixels_may_be_at_different_levels() -> None:
    images = torch.rand(4, 3, 16, 16) * 2 - 1
    levels = torch.randint(0, 200, (4, 1, 16, 16))
    levels[0, 0, 0, :2] = torch.tensor([0, 100])
    result = noised(images, levels, noise(0))
    assert torch.equal(result[0, :, 0, 0], images[0, :, 0, 0])
    assert torch.equal(result[0, :, 0, 1], noised(images, 100, noise(0))[0, :, 0, 1])


def test_the_sde_has_the_discrete_schedule_in_the_limit() -> None:
    for level in (20, 100, 500):
        time = level / 1000
        assert math.exp(-0.5 * 19.9 * time**2 - 0.1 * time) == pytest.approx(kept(level), rel=0.02)


@pytest.mark.parametrize("step", [999, 99, 1, 0])
def test_a_step_is_that_of_diffusers(step: int) -> None:
    scheduler = DDPMScheduler(variance_type="fixed_large")
    noisy, predicted = noise(0) * 1.3, noise(1)
    expected = scheduler.step(predicted, step, noisy, generator=torch.Generator().manual_seed(2)).prev_sample
    torch.testing.assert_close(ddpm_step(noisy, predicted, step, noise(2)), expected, atol=1e-4, rtol=1e-4)


def test_an_oracle_leads_back_to_the_image() -> None:
    data = torch.rand(3, 16, 16) * 1.8 - 0.9
    oracle = PointDenoiser(data=data)
    noisy = noised(data.expand(4, -1, -1, -1), 150, noise(0))
    ddpm = ddpm_sample(oracle, noisy, 150, lambda step: noise(1 + step))
    torch.testing.assert_close(ddpm, data.expand_as(ddpm), atol=1e-4, rtol=0)
    # The last Euler step leaves noise of its own width, sqrt(beta) = 0.01.
    sde = sde_sample(oracle, noisy, 150, lambda step: noise(1 + step))
    assert (sde - data).std() == pytest.approx(0.0145, abs=0.005)


@pytest.mark.parametrize("sample", [ddpm_sample, sde_sample])
def test_the_distribution_of_the_data_is_recovered(sample: object) -> None:
    deviation = 0.25
    noisy = noised(deviation * noise(-1, 16), 100, noise(-2, 16))
    result = sample(GaussianDenoiser(deviation=deviation), noisy, 100, lambda step: noise(step, 16))  # type: ignore[operator]
    assert result.std() == pytest.approx(deviation, rel=0.03)
    assert abs(result.mean()) < 0.01


def test_a_network_that_sees_no_noise_only_undoes_the_scaling() -> None:
    noisy = noise(0) * 0.1
    result = ddpm_sample(ZeroDenoiser(), noisy, 100, lambda _: torch.zeros_like(noisy))
    torch.testing.assert_close(result, noisy / math.sqrt(kept(100)), rtol=1e-4, atol=1e-5)


def test_noise_is_normal_and_belongs_to_the_image() -> None:
    images = torch.rand(3, 3, 8, 8)
    streams = [Stream("key", image) for image in images]
    drawn = gaussian(streams, 1, 5, size=64)
    assert drawn.isfinite().all()
    assert abs(drawn.mean()) < 0.02
    assert drawn.std() == pytest.approx(1, abs=0.02)
    assert (drawn**4).mean() == pytest.approx(3, abs=0.2)
    assert torch.equal(gaussian(streams[1:2], 1, 5, size=64)[0], drawn[1])
    assert not torch.equal(gaussian(streams, 1, 6, size=64), drawn)
    assert not torch.equal(gaussian([Stream("other", image) for image in images], 1, 5, size=64), drawn)


class Extremes:
    """A stream at the ends of its range."""

    def uniform(self, *_path: int, shape: tuple[int, ...]) -> torch.Tensor:
        ends = torch.zeros(shape)
        ends[0] = 1 - 2**-24
        return ends


def test_noise_is_finite_and_symmetric_at_the_ends() -> None:
    drawn = gaussian([Extremes()], size=2)  # type: ignore[list-item]
    assert drawn[0, 0, 0, 0] == -drawn[0, 1, 0, 0]
    assert 5 < drawn.max() < 6


def test_a_saved_network_is_loaded_alone_or_in_a_pipeline(tmp_path: Path) -> None:
    flat, pipeline = save_tiny_unet(tmp_path / "flat"), tmp_path / "pipeline"
    save_tiny_unet(pipeline / "unet")
    DDPMScheduler().save_pretrained(pipeline / "scheduler")
    denoisers = [load_denoiser(path) for path in (flat, pipeline)]
    outputs = [denoiser(noise(0), 7) for denoiser in denoisers]
    assert denoisers[0].image_size == 16
    assert outputs[0].shape == (4, 3, 16, 16)
    assert outputs[0].std() > 0
    assert torch.equal(*outputs)
    rough = load_denoiser(flat, precision="bfloat16")(noise(0), 7)
    assert 0 < (rough - outputs[0]).abs().max() < 0.1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"beta_schedule": "squaredcos_cap_v2"}, "squaredcos_cap_v2"),
        ({"prediction_type": "v_prediction"}, "v_prediction"),
        ({"num_train_timesteps": 200}, "200"),
    ],
)
def test_other_schedules_are_refused(tmp_path: Path, settings: dict[str, object], message: str) -> None:
    DDPMScheduler(**settings).save_pretrained(save_tiny_unet(tmp_path))  # type: ignore[arg-type]
    with pytest.raises(CheckpointError, match=f"was trained with .*{message}"):
        load_denoiser(tmp_path)


def test_the_old_file_of_a_schedule_is_understood(tmp_path: Path) -> None:
    content = {"_class_name": "GaussianDDPMScheduler", "beta_end": 0.02, "beta_start": 0.0001, "timesteps": 1000}
    (save_tiny_unet(tmp_path) / "scheduler_config.json").write_text(json.dumps(content))
    assert load_denoiser(tmp_path).image_size == 16


def test_what_is_no_diffusion_model_is_refused(tmp_path: Path) -> None:
    for name in (tmp_path / "missing", "ddpm"):
        with pytest.raises(CheckpointError, match="expected a folder, or a hub name"):
            load_denoiser(name)
    with pytest.raises(CheckpointError, match="cannot load a UNet2DModel"):
        load_denoiser(tmp_path)
    build_unet(TINY).save_pretrained(tmp_path, safe_serialization=False)
    with pytest.raises(CheckpointError, match="safetensors"):
        load_denoiser(tmp_path)


def test_without_diffusers_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "diffusers", None)
    for load in (DiffusionSettings(model=str(tmp_path)).load, lambda: build_unet(TINY)):
        with pytest.raises(MissingDependencyError, match=r"pip install 'maskrestore\[lab\]'"):
            load()


def test_impossible_settings_are_refused() -> None:
    with pytest.raises(ConfigError, match="micro_batch"):
        DiffusionSettings(micro_batch=0)
    with pytest.raises(ConfigError, match="precision"):
        DiffusionSettings(precision="float16")  # type: ignore[arg-type]


def test_a_gpu_is_given_larger_micro_batches() -> None:
    assert DiffusionSettings().at_a_time == 8
    assert DiffusionSettings(device="cuda").at_a_time == 32
    assert DiffusionSettings(device="cuda", micro_batch=5).at_a_time == 5
