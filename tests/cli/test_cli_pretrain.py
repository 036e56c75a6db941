import dataclasses
import json

import pytest
import torch
from safetensors import safe_open

from maskrestore.imaging.codec import write_png
from maskrestore.mae.checkpoints.loading import load_network
from maskrestore.mae.training import pretrain as training
from maskrestore.mae.training.augmentation import AUGMENTATIONS

NETWORK = {
    "image_size": 16,
    "patch_size": 2,
    "widths": [8, 8],
    "encoder_blocks": [1, 1],
    "decoder_blocks": [1],
}


@pytest.fixture
def pretrain(invoke, tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    for index in range(12):
        write_png(folder / f"{index}.png", torch.rand(3, 20, 24))

    def run(*options: object):
        return invoke(
            *("pretrain", folder, "--out", tmp_path / "run", "--image-size", 16, "--held-out", 4),
            *("--set", "network=" + json.dumps(NETWORK), "--set", "batch_size=4", *options),
        )

    return run


def test_a_folder_becomes_weights(pretrain, tmp_path):
    (tmp_path / "images/7.png").write_bytes(b"broken")
    result = pretrain("--steps", 2)
    assert result.exit_code == 0, result.output
    assert "left out" in result.stderr
    assert "7.png" in result.stderr
    network = load_network(tmp_path / "run/weights.safetensors")
    assert network.config.image_size == 16
    assert network.config.widths == (8, 8)
    (line,) = (tmp_path / "run/curve.jsonl").read_text().splitlines()
    assert json.loads(line)["held_out_psnr"] is not None


def test_an_interrupted_training_goes_on(pretrain, tmp_path, monkeypatch):
    advance = training.Training.advance
    steps = []

    def interrupted(self):
        steps.append(self.step)
        if len(steps) == 4:
            raise KeyboardInterrupt
        return advance(self)

    monkeypatch.setattr(training.Training, "advance", interrupted)
    options = ("--steps", 5, "--set", "checkpoint_every=2")
    assert pretrain(*options).exit_code == 130
    assert pretrain(*options).exit_code == 0
    assert steps == [0, 1, 2, 3, 2, 3, 4]


def test_a_run_goes_on_only_from_the_weights_it_was_begun_with(pretrain, tmp_path):
    assert pretrain("--steps", 1).exit_code == 0
    (tmp_path / "run").rename(tmp_path / "first")
    init = ("--init", tmp_path / "first/weights.safetensors")
    assert pretrain("--steps", 1, *init).exit_code == 0
    assert pretrain("--steps", 1, *init).exit_code == 0
    result = pretrain("--steps", 1)
    assert result.exit_code == 1
    assert "started with another init" in result.stderr


def test_augmentation_is_a_choice_with_settings(pretrain, tmp_path):
    result = pretrain("--steps", 1, "--augmentation", "strong", "--set", "augmentation.crop=0.5")
    assert result.exit_code == 0, result.output
    with safe_open(tmp_path / "run/weights.safetensors", framework="pt") as file:
        training = json.loads(file.metadata()["training"])
    assert training["augmentation"] == dataclasses.asdict(AUGMENTATIONS["strong"]) | {"crop": 0.5}


@pytest.mark.parametrize(
    ("options", "status", "message"),
    [
        (["--held-out", 12], 2, "leaves none of 12 images"),
        (["--set", "mask_ratio=0.5"], 2, "mask_ratio=0.5: expected 2 values"),
        (["--set", "network=[1]"], 2, "expected a JSON object"),
        (["--set", "augmentation.crop=2"], 2, "crop must be in (0, 1]"),
        (["--set", "loss=l3"], 2, "expected one of l2, l1, got 'l3'"),
    ],
)
def test_wrong_options(pretrain, options, status, message):
    result = pretrain("--steps", 1, *options)
    assert result.exit_code == status, result.output
    assert message in result.stderr


def test_a_missing_source(invoke, tmp_path):
    result = invoke("pretrain", tmp_path / "nowhere", "--out", tmp_path / "run")
    assert result.exit_code == 1
    assert "neither a folder nor a data set" in result.stderr


def test_it_learns_from_parts_of_larger_pictures(pretrain, tmp_path):
    result = pretrain("--steps", 1, "--set", "source_size=20", "--augmentation", "photographs")
    assert result.exit_code == 0, result.output
    assert load_network(tmp_path / "run/weights.safetensors").config.image_size == 16
    (line,) = (tmp_path / "run/curve.jsonl").read_text().splitlines()
    assert json.loads(line)["held_out_psnr"] is not None
