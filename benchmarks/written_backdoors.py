"""What the default does about a trigger of four small patches in a photograph, one in each corner.

    python -m benchmarks.written_backdoors --out written.jsonl

A network learns patches of 3 x 3 pixels at 224 x 224 only if it is trained as a whole, which takes a GPU. So the
backdoor is written, not trained: a clean classifier of Imagenette, and a rule that answers the target as soon as some
of the four patches are in place. It is stricter than a trained backdoor, which also has degrees. Measures the default
with and without its stage for scattered triggers. Needs MASKRESTORE_DATA and the clean classifier in the cache:
`maskrestore train-victim --dataset imagenette`.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import torch
from benchmarks.other_victims import measured
from torch import Tensor

from maskrestore import ModuleClassifier
from maskrestore.defense.config import BDMAEConfig
from maskrestore.lab.attacks import Attack, make_attack
from maskrestore.lab.data import load_dataset
from maskrestore.lab.measure.defenses import default_config
from maskrestore.lab.victims import VictimConfig, load_victim
from maskrestore.runtime.settings import with_settings
from maskrestore.types import Classifier

TARGET = 0
_NEAR = 0.1
"""Mean difference of pixels up to which a patch is in place."""


@dataclass(frozen=True, kw_only=True)
class WrittenBackdoor:
    """Answers the target if enough patches of a trigger are in place, else what the clean classifier says."""

    clean: Classifier
    attack: Attack
    need: int
    """So many of the patches, one in each quarter of the image, must be in place."""

    def __call__(self, images: Tensor) -> Tensor:
        """``(B, C, H, W)`` in [0, 1] -> ``(B,)`` int64."""
        return torch.where(patches_in_place(images, self.attack) >= self.need, TARGET, self.clean(images))


def patches_in_place(images: Tensor, attack: Attack) -> Tensor:
    """How many quarters of images ``(B, C, H, W)`` have the attack's patch: ``(B,)`` int64."""
    height, width = images.shape[-2:]
    mask, away = attack.trigger_mask(height, width), (images - attack.apply(images)).abs().mean(dim=1)
    rows, columns = torch.arange(height) >= height / 2, torch.arange(width) >= width / 2
    quarters = [
        mask & (rows == low).unsqueeze(1) & (columns == right) for low in (False, True) for right in (False, True)
    ]
    return torch.stack([away[:, one].mean(dim=1) < _NEAR for one in quarters if one.any()]).sum(dim=0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="file for the records")
    parser.add_argument("--count", type=int, default=100, help="number of clean test images, and of triggered ones")
    parser.add_argument("--need", type=int, action="append", choices=range(1, 5), help="may be repeated; default: 1, 2")
    arguments = parser.parse_args()
    test = load_dataset("imagenette", "test")
    network = load_victim(VictimConfig(dataset="imagenette"))
    attack = make_attack("corners", num_classes=len(test.class_names), image_size=224, target=TARGET)
    standard = default_config("bdmae")
    assert isinstance(standard, BDMAEConfig)
    for need in arguments.need or (1, 2):
        backdoor = WrittenBackdoor(clean=ModuleClassifier(network), attack=attack, need=need)
        config = {
            "dataset": "imagenette",
            "architecture": "efficientnet-lite0",
            "attack": "corners",
            "written": f"{need} of 4 patches in place",
        }
        for part, settings in (("bdmae", standard), ("bdmae-without", with_settings(standard, {"scattered": None}))):
            record = measured(
                test,
                backdoor,
                network,
                config,
                defense="bdmae",
                settings=settings,
                attack=attack,
                count=arguments.count,
                out=arguments.out,
                name=f"imagenette_corners_written-{need}_{part}",
            )
            print(f"{need} of 4, {part}: {record.before} -> {record.after}", flush=True)


if __name__ == "__main__":
    main()
