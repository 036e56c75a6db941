"""Measure a restorer: the error of hidden pixels, and how often a clean classifier keeps its label.

    python benchmarks/restorer_quality.py --out benchmarks/results/restorer-cifar10.json
    python benchmarks/restorer_quality.py --dataset imagenette --restorer mae-photo-224 --out ...

The classifier is the cached clean victim of the data set (``maskrestore train-victim --dataset cifar10 --set
width=32``, ``--dataset imagenette``); images are from the test split. Several shares of the tokens are hidden at
random.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
from pathlib import Path

import torch

from maskrestore import ModuleClassifier
from maskrestore.imaging.patches import tokens_to_pixels
from maskrestore.lab.data import load_dataset
from maskrestore.lab.measure.run import choose_images
from maskrestore.lab.victims import VictimConfig, load_victim, read_victim_record
from maskrestore.mae.choice import named_restorer
from maskrestore.mae.training.pretrain import random_hidden
from maskrestore.runtime.environment import current_environment

RATIOS = (0.75, 0.5, 0.25, 0.05)
_AT_A_TIME = 100  # images in memory


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", default="cifar10")
    parser.add_argument("--restorer", default="mae-tiny-32")
    parser.add_argument("--width", type=int, help="width of the clean victim; 32 for CIFAR-10, else its default")
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()

    test = load_dataset(arguments.dataset, "test")
    chosen = choose_images(test.labels, arguments.images, arguments.seed)
    width = {"width": arguments.width or 32} if arguments.width or arguments.dataset == "cifar10" else {}
    config = VictimConfig(dataset=arguments.dataset, **width)
    classifier = ModuleClassifier(load_victim(config), precision="auto")
    restorer = named_restorer(arguments.restorer)
    generator = torch.Generator().manual_seed(arguments.seed)
    masks = {
        ratio: random_hidden(len(chosen), restorer.grid, (ratio, ratio), 0.0, generator).split(_AT_A_TIME)
        for ratio in RATIOS
    }
    squared, pixels, kept = (dict.fromkeys(RATIOS, 0.0) for _ in range(3))
    for number, part in enumerate(chosen.split(_AT_A_TIME)):
        images = test.images[part].float() / 255
        labels = classifier(images)
        for ratio in RATIOS:
            restored = restorer.restore(images, masks[ratio][number])
            weights = tokens_to_pixels(masks[ratio][number], *images.shape[-2:])
            squared[ratio] += float((((restored - images) ** 2) * weights).sum())
            pixels[ratio] += 3 * float(weights.sum())
            kept[ratio] += float((classifier(restored) == labels).sum()) / len(chosen)
    rows = []
    for ratio in RATIOS:
        psnr = -10 * math.log10(squared[ratio] / pixels[ratio])
        rows.append({"hidden": ratio, "masked_psnr_db": psnr, "label_kept": kept[ratio]})
        print(f"{ratio:4.0%} hidden: masked PSNR {psnr:.2f} dB, label kept {kept[ratio]:.1%}")
    record = {
        "restorer": arguments.restorer,
        "dataset": arguments.dataset,
        "images": len(chosen),
        "seed": arguments.seed,
        "classifier": read_victim_record(config),
        "by_share_of_hidden_tokens": rows,
        "environment": dataclasses.asdict(current_environment()),
    }
    arguments.out.write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
