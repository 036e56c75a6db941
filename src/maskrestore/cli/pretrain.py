"""``maskrestore pretrain``: train a masked autoencoder on unlabeled images."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Annotated, Literal

import torch
import typer
from torch import Tensor

from maskrestore.cli.options import DataOption, TrainingSetOption
from maskrestore.cli.overrides import with_overrides
from maskrestore.cli.terminal import out, progress, warn
from maskrestore.data import DATASETS, load_dataset
from maskrestore.errors import ConfigError, DataError, ImageFileError
from maskrestore.imaging.codec import find_images, read_image
from maskrestore.imaging.resize import resize
from maskrestore.mae import pretrain as training
from maskrestore.mae.augmentation import AUGMENTATIONS
from maskrestore.mae.checkpoints import load_network
from maskrestore.victims import read_feature_extractor

__all__ = ["pretrain"]


def pretrain(
    images: Annotated[
        list[str],
        typer.Argument(
            metavar="IMAGES...",
            help=f"Training splits of data sets ({', '.join(DATASETS)}), folders of images, or both.",
        ),
    ],
    *,
    out_dir: Annotated[Path, typer.Option("--out", help="Folder for checkpoint, loss curve and weights.")],
    family: Annotated[
        Literal["conv", "vit"],
        typer.Option(help="Architecture: `conv` learns far faster on small images, `vit` is the paper's."),
    ] = "conv",
    steps: Annotated[int, typer.Option(min=1, help="Steps of training.")] = 20_000,
    image_size: Annotated[int, typer.Option(min=8, help="Side in pixels that images are resized to.")] = 32,
    held_out: Annotated[
        int, typer.Option(min=0, help="Images kept apart to measure the error of hidden pixels on.")
    ] = 500,
    init: Annotated[
        str | None, typer.Option(help="Weights to start from: a file, or a name as `--restorer` takes it.")
    ] = None,
    features: Annotated[
        list[Path] | None,
        typer.Option(
            help="A classifier written by `train-victim --export`; with `--set feature_weight=0.3`, restorations "
            "learn to keep its features too. May be repeated: the steps of training take them in turn."
        ),
    ] = None,
    augmentation: Annotated[
        Literal["light", "strong"],
        typer.Option(
            help="Random changes of the training images. `light` mirrors them and changes their contrast; `strong` "
            "also enlarges parts of them, joins two images and changes colours, against learning a few images by "
            "heart. `--set augmentation.crop=0.5` and the like change one of its settings."
        ),
    ] = "light",
    settings: TrainingSetOption = None,
    data: DataOption = None,
) -> None:
    """Train a masked autoencoder, the part that restores hidden patches.

    Masks of 5 to 90 % of the patches are trained on, because the defense hides few patches as well as many.
    Writes, at every checkpoint, `weights.safetensors`, which `--restorer` of the other commands takes,
    `curve.jsonl` with the loss and the held-out error, and `state.pt`, from which the same command goes on
    after Ctrl-C; another configuration, `--init` or `--features` is refused.

    `--set` changes any other setting, e.g. `--set batch_size=128`, `--set learning_rate=0.0005` or
    `--set 'network={"image_size": 32, "patch_size": 4}'`.

    Examples:

        maskrestore pretrain cifar10 gtsrb --out runs/mae-conv

        maskrestore pretrain photos --family vit --image-size 64 --augmentation strong --out runs/mae-vit
    """
    start = training.PretrainConfig(
        family=family,
        steps=steps,
        network={"image_size": image_size},
        augmentation=AUGMENTATIONS[augmentation],
    )
    config = with_overrides(start, settings or [])
    pixels = torch.cat([_load_images(source, image_size, data) for source in images])
    if held_out >= len(pixels):
        raise ConfigError(f"--held-out {held_out} leaves none of {len(pixels)} images to train on; lower it")
    # Shuffled, because folders are sorted by name and data sets often by class.
    order = torch.randperm(len(pixels), generator=torch.Generator().manual_seed(config.seed))
    kept, learned = pixels[order[:held_out]], pixels[order[held_out:]]
    card = {
        # Names only: a card travels with the weights, folders stay here.
        "command": f"maskrestore pretrain {' '.join(Path(source).name for source in images)}",
        "training": json.dumps(dataclasses.asdict(config)),
        "init": "" if init is None else Path(init).name,
        "features": " ".join(path.name for path in features or []),
        "images": str(len(learned)),
    }
    with progress("pretrain") as update:

        def show(state: training.Progress) -> None:
            psnr = "" if state.held_out_psnr is None else f", held-out PSNR {state.held_out_psnr:.2f} dB"
            note = f"loss {state.loss:.4f}{psnr}, {state.images_per_second:.0f} images/s"
            update(state.step, state.steps, note)

        weights = training.pretrain(
            config,
            learned,
            out_dir,
            held_out=kept if held_out else None,
            init=None if init is None else load_network(init),
            features=[read_feature_extractor(path) for path in features or []],
            card=card,
            progress=show,
        )
    out.print(f"wrote {weights}; the curve is in {out_dir / 'curve.jsonl'}", soft_wrap=True)


def _load_images(source: str, size: int, data: Path | None) -> Tensor:
    """``(N, 3, S, S)`` uint8: the training split of a data set, or the images of a folder, resized."""
    if source in DATASETS:
        return load_dataset(source, "train", folder=data).images
    if not Path(source).exists():
        raise DataError(f"{source!r} is neither a folder nor a data set; known: {', '.join(DATASETS)}")
    files = find_images(source)
    rows = []
    with progress("read") as update:
        for done, file in enumerate(files, start=1):
            try:
                # Squeezed to a square, as the restorer will see the images that it is used on.
                square = resize(read_image(file)[None], size, size)[0].clamp(0, 1)
            except ImageFileError as error:
                warn(f"left out: {error}")
            else:
                rows.append((square * 255).round().byte())
            update(done, len(files))
    if not rows:
        raise DataError(f"none of the {len(files)} image files in {source} can be read")
    return torch.stack(rows)
