"""``maskrestore pretrain``: train a masked autoencoder on images without labels."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Annotated, Literal

import typer

from maskrestore.cli.options import DataOption, DeviceOption, TrainingSetOption
from maskrestore.cli.overrides import with_overrides
from maskrestore.cli.terminal import out, progress
from maskrestore.cli.training_images import HeldOutOption, ImagesArgument, training_images
from maskrestore.imaging.resize import resize
from maskrestore.lab.victims import read_feature_extractor
from maskrestore.mae.checkpoints.loading import load_network
from maskrestore.mae.training import pretrain as training
from maskrestore.mae.training.augmentation import AUGMENTATIONS

__all__ = ["pretrain"]


def pretrain(
    images: ImagesArgument,
    *,
    out_dir: Annotated[Path, typer.Option("--out", help="Folder for the checkpoint, the loss curve and the weights.")],
    family: Annotated[
        Literal["conv", "vit"],
        typer.Option(help="Architecture: `conv` learns much faster on small images; `vit` is that of the paper."),
    ] = "conv",
    steps: Annotated[int, typer.Option(min=1, help="Number of training steps.")] = 20_000,
    image_size: Annotated[int, typer.Option(min=8, help="Height and width in pixels of the network's input.")] = 32,
    held_out: HeldOutOption = 500,
    init: Annotated[
        str | None, typer.Option(help="Weights to start from: a file, or a name as `--restorer` takes it.")
    ] = None,
    features: Annotated[
        list[str] | None,
        typer.Option(
            help="A classifier written by `train-victim --export`, or `efficientnet-lite2` with its ImageNet weights. "
            "With `--set feature_weight=0.3`, the features of restored images are trained to equal those of the "
            "originals. May be repeated: training steps alternate between the classifiers."
        ),
    ] = None,
    augmentation: Annotated[
        Literal["light", "strong", "photographs"],
        typer.Option(
            help="Random changes of the training images. `light` mirrors them and changes their contrast. `strong` "
            "also enlarges parts, joins two images and changes colours, to prevent overfitting on few images. "
            "`photographs` changes colours, too, and joins fewer. "
            "`--set augmentation.crop=0.5`, for example, changes one setting."
        ),
    ] = "light",
    settings: TrainingSetOption = None,
    data: DataOption = None,
    device: DeviceOption = "cpu",
) -> None:
    """Train a masked autoencoder, the network that restores hidden patches, on images without labels.

    In training, 5 to 90 % of the patches are hidden, because the defense hides few patches as well as many.

    Writes at every checkpoint:

    - `weights.safetensors`, for `--restorer` of the other commands;
    - `curve.jsonl` with the loss and the error on held-out images;
    - `state.pt`: after Ctrl-C, the same command continues from it. Other settings, another `--init` or other
      `--features` are refused.

    `--set` changes any other setting, e.g. `--set batch_size=128`, `--set learning_rate=0.0005` or
    `--set 'network={"image_size": 32, "patch_size": 4}'`.

    Examples:

        maskrestore pretrain photos --out runs/mae-conv

        maskrestore pretrain photos --family vit --image-size 64 --augmentation strong --out runs/mae-vit

        maskrestore pretrain cifar10 gtsrb --out runs/mae-cifar

        maskrestore pretrain photos --image-size 112 --set source_size=160 --augmentation photographs --out runs/photo
    """
    start = training.PretrainConfig(
        family=family,
        steps=steps,
        network={"image_size": image_size},
        augmentation=AUGMENTATIONS[augmentation],
    )
    config = with_overrides(start, settings or [])
    kept, learned = training_images(images, config.source_size or image_size, data, held_out=held_out, seed=config.seed)
    kept = None if kept is None else resize(kept, image_size, image_size)
    card = {
        # Names without folders: the card is published with the weights.
        "command": f"maskrestore pretrain {' '.join(Path(source).name for source in images)}",
        "training": json.dumps(dataclasses.asdict(config)),
        "init": "" if init is None else Path(init).name,
        "features": " ".join(Path(source).name for source in features or []),
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
            features=[read_feature_extractor(source) for source in features or []],
            card=card,
            progress=show,
            device=device,
        )
    out.print(f"wrote {weights}; the curve is in {out_dir / 'curve.jsonl'}", soft_wrap=True)
