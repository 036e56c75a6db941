"""A user's first try: an ONNX file of a network for photographs, a folder as it came, and two commands."""

from __future__ import annotations

import io
import json
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from maskrestore.imaging.codec import read_image
from maskrestore.imaging.views import View
from maskrestore.lab.victims import VictimConfig
from maskrestore.lab.victims.store import build_network

onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnx")

PREPROCESSING = ("--mean", "0.498", "--std", "0.502")  # of EfficientNet-Lite: (x * 255 - 127) / 128
SIZES = {
    "landscape.jpg": (1000, 600),
    "portrait.png": (300, 500),
    "small.webp": (90, 120),
    "panorama.jpg": (2400, 150),
    "line.png": (300, 1),
}


def picture(width: int, height: int) -> Image.Image:
    """A smooth picture in colour."""
    rng = np.random.default_rng(width)
    return Image.fromarray(rng.integers(0, 256, (6, 8, 3), np.uint8)).resize((width, height), Image.Resampling.BICUBIC)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    photos = tmp_path / "photos"
    (photos / "holiday").mkdir(parents=True)
    for name, size in SIZES.items():
        picture(*size).save(photos / "holiday" / name)
    picture(400, 400).convert("LA").save(photos / "grey with alpha.png")
    (photos / "notes.txt").write_text("no picture")
    (photos / "cut off.jpg").write_bytes(jpeg(picture(300, 300))[:2000])
    return photos


def jpeg(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "JPEG")
    return file.getvalue()


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """EfficientNet-Lite0 for 10 classes with random weights, without its preprocessing, exported by PyTorch."""
    torch.manual_seed(3)
    network = build_network(VictimConfig(dataset="imagenette", architecture="efficientnet-lite0")).eval()
    network.mean.zero_()
    network.std.fill_(1)
    file = tmp_path / "model.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter warns of what it traces, and that it is the older one
        torch.onnx.export(network, (torch.rand(1, 3, 224, 224),), file, input_names=["images"], dynamo=False)
    return file


def test_two_commands_from_a_model_file_to_purified_photographs(invoke, tmp_path, folder, model):
    seen = invoke("inspect", model, folder / "holiday/landscape.jpg", *PREPROCESSING)
    assert seen.exit_code == 0, seen.output
    assert "224 x 224" in seen.output
    (advice,) = [line for line in seen.output.splitlines() if "maskrestore purify" in line]
    assert "--mean 0.498" in advice

    result = invoke(
        *("purify", folder, "--classifier", model, *PREPROCESSING, "--profile", "fast", "--out", tmp_path / "cleaned")
    )
    assert result.exit_code == 1  # a picture is cut off
    assert "failed: cut off.jpg" in result.stderr
    assert "left out: 1 not a picture: notes.txt" in result.stderr
    lines = map(json.loads, (tmp_path / "cleaned/records.jsonl").read_text().splitlines())
    records = {record["file"]: record for record in lines}
    purified = {name: record for name, record in records.items() if record["error"] is None}
    assert set(purified) == {"grey with alpha.png", *(f"holiday/{name}" for name in SIZES)}

    session = onnxruntime.InferenceSession(model)
    for name, record in purified.items():
        assert record["restorer"] == ("mae-tiny-32" if "line" in name else "mae-photo-224")
        image = read_image(tmp_path / "cleaned" / record["output"])
        # A larger picture gets the size of the model's input; a smaller one keeps its own, square.
        shorter = min(SIZES.get(Path(name).name, (400, 400)))
        assert image.shape == (3, min(shorter, 224), min(shorter, 224))
        if shorter >= 224:
            whole = read_image(folder / name)
            shown = View(height=224, width=224).show(whole)
            scores = session.run(None, {"images": ((shown - 0.498) / 0.502).unsqueeze(0).numpy()})[0]
            assert record["original_label"] == int(scores.argmax())
    report = (tmp_path / "cleaned/report.html").read_text()
    assert "mae-photo-224: 5 images" in report
