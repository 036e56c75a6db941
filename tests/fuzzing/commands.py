"""Random command lines: each ends with status 0, 1 or 2 and a message, and shows no traceback."""

from __future__ import annotations

import os
import random
import sys
import tempfile
import traceback
from collections.abc import Iterator
from pathlib import Path

from PIL import Image
from typer.testing import CliRunner

from fuzzing.guard import Outcome, guarded
from maskrestore.cli.app import app

MODEL = """
import torch

def classify(images):
    return images.mean(dim=(2, 3)).argmax(dim=1)

def failing(images):
    raise RuntimeError("no answer")

def wrong(images):
    return images

class Network(torch.nn.Module):
    def forward(self, images):
        return images.mean(dim=(2, 3))

network = Network()
number = 3
"""
# None leads out of the folder of the case, but for what cannot be written.
ODD = (
    "",
    " ",
    "-",
    "--",
    ".",
    "..",
    "/dev/null",
    "/proc/nothing",
    "nowhere",
    "a/b/c",
    "ä\udcff",
    "x" * 300,
    "\n",
    "0",
    "-1",
    "nan",
)
SOURCES = ("photos", "photos/a.png", "empty", "text", "photos/notes.txt", "loop", *ODD)
FILES = ("names.txt", "key.txt", "photos/a.png", "photos", "model.onnx", *ODD)
NUMBERS = ("1", "2", "47", "1000", "0", "-1", "1.5", "1e9", "99999999999999999999", *ODD)
MODELS = (
    *("fuzz_model:classify", "fuzz_model:failing", "fuzz_model:wrong", "fuzz_model:network", "fuzz_model:number"),
    *("fuzz_model:", ":classify", "fuzz_model", "model.onnx", "photos/a.png", "photos", "os:getcwd", *ODD),
)
OPTIONS: dict[str, tuple[str, ...]] = {
    "--out": ("out", "photos", "photos/out", "names.txt", "out/images", *ODD),
    "--mean": ("0.5", "0.5,0.5,0.5", "0.5,0.5", "a", *NUMBERS),
    "--std": ("0.5", "0.2,0.2,0.2", "0", *NUMBERS),
    "--profile": ("default", "paper", "fast", "paper-fast", *ODD),
    "--set": ("masks.rounds=1", "squares=none", "masks.rounds=x", "refinement=none", "no=1", "=", "masks=1", *ODD),
    "--restorer": ("mae-tiny-32", "photos/a.png", "photos", "nobody/nothing", *ODD),
    "--precision": ("auto", "float32", "bfloat16", *ODD),
    "--device": ("cpu", "cuda", "meta", "tpu", *ODD),
    "--key-file": FILES,
    "--max-queries": NUMBERS,
    "--budget": NUMBERS,
    "--class-names": FILES,
    "--batch": NUMBERS,
    "--report-images": NUMBERS,
    "--grey": (),
    "--again": (),
    "--strict": (),
    "--nonsense": (),
}


def fuzz(seconds: float, seed: int) -> Outcome:
    """Run command lines until the time is up."""
    return guarded(check, command_lines(seed), seconds, longest=120)


def command_lines(seed: int) -> Iterator[list[str]]:
    """Endless command lines; the same for the same seed. Most parts of each are sound, so that it gets far."""
    rng = random.Random(seed)
    while True:
        command = rng.choice(("purify", "purify", "purify", "inspect", "nonsense"))
        model, source = rng.choice(MODELS[: 4 if rng.random() < 0.6 else None]), rng.choice(SOURCES)
        if rng.random() < 0.5:
            source = "photos"
        line = [command, source, "--classifier", model] if command == "purify" else [command, model, source]
        chosen = {"--out": "out"} if command == "purify" and rng.random() < 0.7 else {}
        known = [*OPTIONS] if command != "inspect" else ["--mean", "--std", "--device", "--nonsense"]
        for option in rng.sample(known, rng.randrange(4)):
            chosen[option] = rng.choice(OPTIONS[option]) if OPTIONS[option] else ""
        for option, value in chosen.items():
            line += [option, value] if OPTIONS[option] else [option]
        yield line


def check(line: list[str]) -> str | None:
    """Run a command line in a folder of its own."""
    before = os.getcwd()
    with tempfile.TemporaryDirectory() as outer:  # what ".." leads to
        folder = os.path.join(outer, "inner")
        os.mkdir(folder)
        os.chdir(folder)
        sys.path.insert(0, folder)
        try:
            _fill(Path(folder))
            result = CliRunner().invoke(app, line, env={"HF_HUB_OFFLINE": "1", "MASKRESTORE_KEY": "a key for fuzzing"})
        finally:
            os.chdir(before)
            sys.path.remove(folder)
            sys.modules.pop("fuzz_model", None)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        return "".join(traceback.format_exception(*result.exc_info))
    if result.exit_code not in (0, 1, 2):
        return f"exit status {result.exit_code}: {result.output}"
    if result.exit_code and not result.stderr.strip():
        return f"exit status {result.exit_code} without a message"
    return "a traceback is shown" if "Traceback" in result.output else None


def _fill(folder: Path) -> None:
    """The files that command lines name."""
    (folder / "photos/sub").mkdir(parents=True)
    (folder / "empty").mkdir()
    (folder / "text").mkdir()
    for number, name in enumerate(("a.png", "b.jpg", "sub/c.webp")):
        Image.new("RGB", (8 + number, 8), (200, 40 * number, 30)).save(folder / "photos" / name)
    (folder / "photos/d.png").write_bytes(b"no picture")
    for name, text in {
        **{"photos/notes.txt": "notes", "text/a.txt": "", "names.txt": "red\ngreen\nblue\n", "key.txt": "a key\n"},
        **{"model.onnx": "no model", "fuzz_model.py": MODEL},
    }.items():
        (folder / name).write_text(text)
    (folder / "loop").symlink_to("loop")
