import json

import torch

from maskrestore.imaging.codec import write_png
from maskrestore.lab.baselines.diffusion_models import load_denoiser


def test_a_folder_becomes_a_model_that_the_defenses_load(invoke, tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    for index in range(12):
        write_png(folder / f"{index}.png", torch.rand(3, 20, 24))
    command = (
        *("train-diffusion", folder, "--out", tmp_path / "run", "--image-size", 16, "--held-out", 4),
        *("--steps", 2, "--set", "norm_groups=4", "--set", "channels=8,16", "--set", "layers_per_block=1"),
        *("--set", "batch_size=4"),
    )
    result = invoke(*command)
    assert result.exit_code == 0, result.output
    model = tmp_path / "run/model"
    assert str(model) in result.stdout.replace("\n", "")
    assert load_denoiser(model).image_size == 16
    (line,) = (tmp_path / "run/curve.jsonl").read_text().splitlines()
    assert json.loads(line)["held_out_error"] > 0
    result = invoke(*command, "--set", "seed=1")
    assert result.exit_code == 1
    assert "another configuration" in result.stderr
