"""The classifiers that were trained elsewhere."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from benchmarks.public_classifiers import CifarResNet, load

from maskrestore.errors import CheckpointError


def test_a_network_has_the_parameters_of_its_publication() -> None:
    millions = [sum(weight.numel() for weight in CifarResNet(depth).parameters()) / 1e6 for depth in (20, 56)]
    assert millions == pytest.approx([0.27, 0.85], abs=0.005)  # table 6 of He et al.


def test_weights_are_read_as_the_trainer_wrote_them(tmp_path: Path) -> None:
    network = CifarResNet(20).eval()
    stored = {f"module.{name}": value for name, value in network.state_dict().items()}
    torch.save({"state_dict": stored, "best_prec1": 50.0}, tmp_path / "resnet20-1234.th")
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    assert torch.equal(load(tmp_path, 20)(images), network(images))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"expected one file resnet56-\*\.th in .*, found 0"):
        load(tmp_path, 56)
