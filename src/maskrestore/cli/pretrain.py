"""``maskrestore pretrain``: train a masked autoencoder on unlabeled images."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Annotated, Literal

import typer

from maskrestore.cli.options import DataOption, TrainingSetOption
from maskrestore.cli.overrides import with_overrides
from maskrestore.cli.terminal import out, progress
from maskrestore.cli.training_images import HeldOutOption, ImagesArgument, training_images
from maskrestore.lab.victims import read_feature_extractor
from maskrestore.mae.checkpoints.loading import load_network
from maskrestore.mae.training import pretrain as training
from maskrestore.mae.training.augmentation import AUGMENTATIONS

__all__ = ["pretrain"]


def pretrain(
    images: ImagesArgument,
    *,
    out_dir: Annotated[Path, typer.Option("--out", help="Folder for checkpoint, loss curve and weights.")],
    family: Annotated[
        Literal["conv", "vit"],
        typer.Option(help="Architecture: `conv` learns far faster on small images, `vit` is the paper's."),
    ] = "conv",
    steps: Annotated[int, typer.Option(min=1, help="Steps of training.")] = 20_000,
    image_size: Annotated[int, typer.Option(min=8, help="Side in pixels that images are resized to.")] = 32,
    held_out: HeldOutOption = 500,
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
    kept, learned = training_images(images, image_size, data, held_out=held_out, seed=config.seed)
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
            held_out=kept,
            init=None if init is None else load_network(init),
            features=[read_feature_extractor(path) for path in features or []],
            card=card,
            progress=show,
        )
    out.print(f"wrote {weights}; the curve is in {out_dir / 'curve.jsonl'}", soft_wrap=True)
