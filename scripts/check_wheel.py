"""Install a wheel in a new, bare environment and do a user's first steps there, away from the repository.

::

    python scripts/check_wheel.py dist/maskrestore-0.1.0-py3-none-any.whl --constraint constraints.txt

Runs ``demo``, ``purify`` on a folder and ``pretrain`` on a folder, with no extra installed.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import tempfile
import venv
import zipfile
from pathlib import Path

LARGEST_WHEEL = 28 * 2**20
PACKAGED = {"mae-photo-224", "mae-tiny-32", "signs-224-badnets", "signs-badnets"}
OPTIONAL = ("pyarrow", "huggingface_hub", "matplotlib", "diffusers", "onnxruntime", "onnx")

CLASSIFIER = """
from maskrestore import ModuleClassifier
from maskrestore.lab.victims import load_packaged_victim

classify = ModuleClassifier(load_packaged_victim("signs-badnets").network)
"""
PHOTOS = """
from pathlib import Path

import maskrestore
from maskrestore.lab.data.signs import load_signs

signs = load_signs("test", count=12).images.float() / 255
for number, sign in enumerate(signs):
    maskrestore.write_png(Path("photos") / f"{number:02}.png", sign)
"""


def check_contents(wheel: Path) -> None:
    """The wheel holds the product's weights and no others, and is as small as it is meant to be."""
    weights = {Path(name).stem for name in zipfile.ZipFile(wheel).namelist() if name.endswith(".safetensors")}
    if weights != PACKAGED:
        raise SystemExit(f"the wheel holds the weights {sorted(weights)}; expected {sorted(PACKAGED)}")
    if wheel.stat().st_size > LARGEST_WHEEL:
        raise SystemExit(f"the wheel has {wheel.stat().st_size} bytes; expected at most {LARGEST_WHEEL}")


def main() -> None:
    """Run the script."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("wheel", type=Path)
    parser.add_argument("--constraint", type=Path, help="versions to install, as pip takes them")
    options = parser.parse_args()
    wheel = options.wheel.resolve()
    check_contents(wheel)
    constraint = ["--constraint", str(options.constraint.resolve())] if options.constraint else []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        venv.create(folder / "environment", with_pip=True)
        scripts = folder / "environment" / ("Scripts" if os.name == "nt" else "bin")
        python, maskrestore = str(scripts / "python"), str(scripts / "maskrestore")
        work = folder / "work"
        (work / "photos").mkdir(parents=True)
        (work / "my_model.py").write_text(CLASSIFIER)
        (work / "make_photos.py").write_text(PHOTOS)
        environment = {
            name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "MASKRESTORE"))
        }

        def run(*command: str) -> None:
            print("$", " ".join(Path(word).name if word == command[0] else word for word in command), flush=True)
            subprocess.run(command, cwd=work, env=environment, check=True)

        run(python, "-m", "pip", "install", "--quiet", *constraint, str(wheel))
        absent = f"from importlib.util import find_spec; assert not any(map(find_spec, {OPTIONAL!r})), 'not bare'"
        run(python, "-c", absent)
        run(maskrestore, "--version")
        run(maskrestore, "--help")
        run(maskrestore, "demo", "--images", "8", "--out", "demo")
        run(maskrestore, "demo", "--size", "224", "--images", "2", "--out", "large-demo")
        run(python, "make_photos.py")
        run(maskrestore, "purify", "photos", "--classifier", "my_model:classify", "--out", "purified")
        run(
            maskrestore,
            "pretrain",
            "photos",
            "--steps",
            "2",
            "--held-out",
            "2",
            "--set",
            "batch_size=4",
            "--out",
            "mae",
        )
        for result in (
            "demo/report.html",
            "large-demo/report.html",
            "purified/report.html",
            "purified/images/*.png",
            "mae/weights.safetensors",
        ):
            if not list(work.glob(result)):
                raise SystemExit(f"{result} was not written")
    print(f"{wheel.name}: demo, purify and pretrain run in a bare environment")


if __name__ == "__main__":
    main()
