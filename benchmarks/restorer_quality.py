"""Measure a restorer: the error of hidden pixels, and how often a clean classifier keeps its label.

    python benchmarks/restorer_quality.py --out benchmarks/results/restorer-cifar10.json

The classifier is the cached clean victim (``maskrestore train-victim --dataset cifar10 --set width=32``); images are
from the test split. Several shares of the tokens are hidden at random.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
from pathlib import Path

import torch

from maskrestore import ModuleClassifier, load_restorer
from maskrestore.imaging.patches import tokens_to_pixels
from maskrestore.lab.data import load_dataset
from maskrestore.lab.measure.run import choose_images
from maskrestore.lab.victims import VictimConfig, load_victim, read_victim_record
from maskrestore.mae.training.pretrain import random_hidden
from maskrestore.runtime.environment import current_environment

RATIOS = (0.75, 0.5, 0.25, 0.05)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", default="cifar10")
    parser.add_argument("--restorer", default="mae-tiny-32")
    parser.add_argument("--width", type=int, default=32, help="width of the clean ResNet-18")
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()

    test = load_dataset(arguments.dataset, "test")
    images = test.images[choose_images(test.labels, arguments.images, arguments.seed)].float() / 255
    config = VictimConfig(dataset=arguments.dataset, width=arguments.width)
    classifier = ModuleClassifier(load_victim(config), precision="auto")
    restorer = load_restorer(arguments.restorer)
    labels = classifier(images)
    generator = torch.Generator().manual_seed(arguments.seed)
    rows = []
    for ratio in RATIOS:
        hidden = random_hidden(len(images), restorer.grid, (ratio, ratio), 0.0, generator)
        restored = restorer.restore(images, hidden)
        weights = tokens_to_pixels(hidden, *images.shape[-2:])
        error = (((restored - images) ** 2) * weights).sum() / (3 * weights.sum())
        kept = (classifier(restored) == labels).float().mean()
        rows.append({"hidden": ratio, "masked_psnr_db": -10 * math.log10(error), "label_kept": kept.item()})
        print(f"{ratio:4.0%} hidden: masked PSNR {rows[-1]['masked_psnr_db']:.2f} dB, label kept {kept:.1%}")
    record = {
        "restorer": arguments.restorer,
        "dataset": arguments.dataset,
        "images": len(images),
        "seed": arguments.seed,
        "classifier": read_victim_record(config),
        "by_share_of_hidden_tokens": rows,
        "environment": dataclasses.asdict(current_environment()),
    }
    arguments.out.write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
