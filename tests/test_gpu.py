"""What is computed on a GPU is what the CPU computes. Needs one, and is skipped without."""

import copy

import pytest
import torch
from torch import Tensor

from maskrestore import BDMAE, PROFILES, BDMAEConfig, MAERestorer, ModuleClassifier
from maskrestore.defense.schedule import Schedule, scheduled
from maskrestore.mae.vit import VIT_PRESETS, ViTMAE
from maskrestore.victims import ResNet18

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")


@pytest.fixture(scope="module")
def network() -> ViTMAE:
    torch.manual_seed(0)
    return ViTMAE(VIT_PRESETS["tiny-32"]).eval()


def ask(images: Tensor) -> Tensor:
    """A plain function, which knows nothing of devices; its label changes with the pixels."""
    assert images.device.type == "cpu"
    return ((images.double().mean(dim=(1, 2, 3)) * 2e3).long() % 7 == 0).long()


@pytest.mark.parametrize("schedule", ["exact", "fast"])
@pytest.mark.parametrize("config", [PROFILES["default"], PROFILES["paper"]], ids=["default", "paper"])
def test_both_devices_purify_alike(network: ViTMAE, config: BDMAEConfig, schedule: Schedule) -> None:
    images = torch.rand(8, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    on_cpu, on_gpu = (
        BDMAE(MAERestorer(copy.deepcopy(network), precision="float32", device=device), scheduled(config, schedule))
        for device in ("cpu", "cuda")
    )
    theirs, ours = on_cpu.purify(images, ask), on_gpu.purify(images, ask)
    assert torch.equal(theirs.labels, ours.labels)
    assert torch.equal(theirs.queries, ours.queries)
    assert ours.images.device.type == "cpu"
    assert torch.allclose(theirs.images, ours.images, atol=1e-3)
    alone = on_gpu.purify(images[3:4], ask)
    assert torch.equal(alone.images[0], ours.images[3])


def test_a_module_on_the_gpu_is_asked_there(network: ViTMAE) -> None:
    defense = BDMAE(MAERestorer(copy.deepcopy(network), device="cuda"))
    images = torch.rand(4, 3, 32, 32)
    found = defense.purify(images, ModuleClassifier(ResNet18(10, width=16), device="cuda", precision="auto"))
    assert found.labels.shape == (4,)
    assert found.images.device.type == "cpu"
