"""A folder of images and a classifier that lives in a module of the working directory, as a user's would."""

import sys
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from maskrestore.cli.app import app
from maskrestore.imaging.codec import write_png
from maskrestore.imaging.patches import tokens_to_pixels

CLASSIFIER = """
import os
import torch

asked = 0
fail_at = None  # number of the call that raises
error = RuntimeError("the line is dead")
calls = 0

def classify(images):
    global asked, calls
    calls += 1
    if fail_at is not None and calls >= fail_at:
        raise error
    asked += len(images)
    triggered = images[:, 0, -1, -1] > 0.9
    return torch.where(triggered, 7, (images.mean(dim=(1, 2, 3)) > 0.4).long())

def logits(images):
    return torch.zeros(len(images), 5)
"""


class GreyRestorer:
    """Paints hidden tokens grey: enough to break a trigger."""

    grid = 4

    def restore(self, images: torch.Tensor, hidden: torch.Tensor) -> torch.Tensor:
        if hidden.ndim == 4:  # (B, M, g, g): M masks of each image
            pixels = tokens_to_pixels(hidden.flatten(0, 1), *images.shape[-2:]).unflatten(0, hidden.shape[:2])
            return torch.where(pixels, 0.4, images.unsqueeze(1))
        return torch.where(tokens_to_pixels(hidden, *images.shape[-2:]), 0.4, images)


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch):
    for name in ("MASKRESTORE_KEY", "MASKRESTORE_DATA", "MASKRESTORE_CACHE"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def invoke():
    def run(*arguments: object):
        return CliRunner().invoke(app, [str(argument) for argument in arguments], env={"COLUMNS": "120"})

    return run


@pytest.fixture
def model(tmp_path, monkeypatch):
    """The module ``toy_model`` of the working directory, freshly imported."""
    (tmp_path / "toy_model.py").write_text(CLASSIFIER)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "toy_model", raising=False)
    import toy_model

    yield toy_model
    sys.modules.pop("toy_model", None)


@pytest.fixture
def grey_restorer(monkeypatch):
    for loader in ("purify_job.load_restorer", "lab.evaluate.named_restorer", "demo.named_restorer"):
        monkeypatch.setattr(f"maskrestore.cli.{loader}", lambda *name, **options: GreyRestorer())


@pytest.fixture
def photos(tmp_path) -> Path:
    """Ten images of two sizes, one of them in a folder of its own, three with a white corner."""
    folder = tmp_path / "photos"
    (folder / "sub").mkdir(parents=True)
    generator = torch.Generator().manual_seed(0)
    for index in range(10):
        size = (3, 12, 20) if index == 4 else (3, 16, 16)
        image = torch.randint(0, 200, size, generator=generator, dtype=torch.uint8)
        if index < 3:
            image[:, -2:, -2:] = 255
        name = f"sub/{index}.png" if index == 9 else f"{index}.png"
        write_png(folder / name, image)
    return folder
