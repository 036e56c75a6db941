"""What is computed on a GPU is what the CPU computes. Needs one, and is skipped without."""

import copy
import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from benchmarks.authors_schedule import AuthorsSchedule
from torch import Tensor, nn

from maskrestore import BDMAE, PROFILES, MAERestorer, ModuleClassifier
from maskrestore.lab.data import ImageDataset
from maskrestore.lab.data.specs import dataset_spec
from maskrestore.lab.victims import (
    Recipe,
    ResNet18,
    VictimConfig,
    VictimData,
    load_victim,
    train_victim,
    victim_attack,
)
from maskrestore.mae.checkpoints.loading import load_network
from maskrestore.mae.fast.fused import FusedLayerNorm, can_fuse
from maskrestore.mae.fast.lowered import LoweredLinear
from maskrestore.mae.training.augmentation import AUGMENTATIONS
from maskrestore.mae.training.pretrain import PretrainConfig, pretrain
from maskrestore.mae.vit import ViTMAE
from maskrestore.mae.vit_config import VIT_PRESETS
from maskrestore.runtime.precision import Precision

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")


@pytest.fixture(scope="module")
def network() -> ViTMAE:
    torch.manual_seed(0)
    return ViTMAE(VIT_PRESETS["tiny-32"]).eval()


def ask(images: Tensor) -> Tensor:
    """A plain function, which knows nothing of devices; its label changes with the pixels."""
    assert images.device.type == "cpu"
    return ((images.double().mean(dim=(1, 2, 3)) * 2e3).long() % 7 == 0).long()


@pytest.mark.parametrize("profile", PROFILES)
def test_both_devices_purify_alike(network: ViTMAE, profile: str) -> None:
    images = torch.rand(8, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    on_cpu, on_gpu = (
        BDMAE(MAERestorer(copy.deepcopy(network), precision="float32", device=device), profile)
        for device in ("cpu", "cuda")
    )
    theirs, ours = on_cpu.purify(images, ask), on_gpu.purify(images, ask)
    assert torch.equal(theirs.labels, ours.labels)
    assert torch.equal(theirs.queries, ours.queries)
    assert ours.images.device.type == "cpu"
    assert torch.allclose(theirs.images, ours.images, atol=1e-3)
    alone = on_gpu.purify(images[3:4], ask)
    assert torch.equal(alone.images[0], ours.images[3])


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 40, 24)], ids=["native", "grey"])
@pytest.mark.parametrize("kind", ["vit", "conv"])
def test_graphs_give_the_results_of_the_network_regardless_of_the_batch(
    network: ViTMAE, kind: str, shape: tuple[int, ...], precision: Precision
) -> None:
    """Masks of different sizes share padded sequences; in CUDA graphs no result depends on the other masks."""
    chosen: nn.Module = network if kind == "vit" else load_network("mae-tiny-32")  # type: ignore[assignment]
    restorer = MAERestorer(copy.deepcopy(chosen), precision=precision, device="cuda")  # type: ignore[arg-type]
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(70, *shape, generator=generator)
    hidden = torch.rand(70, 16, 16, generator=generator) < torch.rand(70, 1, 1, generator=generator)
    together = restorer.restore(images.cuda(), hidden)
    exact = MAERestorer(chosen, precision="float32").restore(images, hidden)  # type: ignore[arg-type]
    assert (together.cpu() - exact).abs().max() < (2e-3 if precision == "float32" else 0.05)
    assert torch.equal(restorer.restore(images, hidden), together.cpu())
    some = torch.randperm(70, generator=generator)[:9]
    assert torch.equal(restorer.restore(images[some].cuda(), hidden[some]), together[some.cuda()])
    fresh = pickle.loads(pickle.dumps(restorer))
    with torch.autocast("cuda", torch.bfloat16):
        fresh.restore(images[:3].cuda(), hidden[:3])
    assert torch.equal(fresh.restore(images.cuda(), hidden), together)


def test_threads_and_moved_networks_do_not_disturb_cuda_graphs(network: ViTMAE) -> None:
    own = copy.deepcopy(network)
    restorer = MAERestorer(own, precision="float32", device="cuda")
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(40, 3, 32, 32, generator=generator).cuda()
    hidden = torch.rand(40, 16, 16, generator=generator) < 0.5
    expected = restorer.restore(images, hidden)
    own.cpu()

    def aside(_: int) -> Tensor:
        with torch.cuda.stream(torch.cuda.Stream()):
            found = restorer.restore(images, hidden)
            torch.cuda.current_stream().synchronize()
        return found

    with ThreadPoolExecutor(4) as pool:
        assert all(torch.equal(found, expected) for found in pool.map(aside, range(12)))


def test_the_authors_schedule_does_the_same_on_a_gpu(network: ViTMAE) -> None:
    images = F.interpolate(torch.rand(6, 3, 4, 4, generator=torch.Generator().manual_seed(0)), 32, mode="bilinear")

    def brightest_quarter(asked: Tensor) -> Tensor:
        return F.adaptive_avg_pool2d(asked.mean(dim=1, keepdim=True), 2).flatten(1).argmax(dim=1).cpu()

    def purified(device: str) -> tuple[Tensor, Tensor]:
        schedule = AuthorsSchedule(
            network=copy.deepcopy(network).to(device),
            classifier=brightest_quarter,
            config=PROFILES["paper"],
            generator=torch.Generator().manual_seed(0),
        )
        return schedule.purify(images)

    (theirs, expected), (ours, labels) = purified("cpu"), purified("cuda")
    assert torch.equal(labels, expected)
    assert torch.allclose(ours, theirs, atol=1e-3)


def test_a_stream_is_normalised_as_by_layer_norm() -> None:
    if not can_fuse(torch.device("cuda")):
        pytest.skip("no Triton here, or no C compiler")
    torch.manual_seed(0)
    norm = nn.LayerNorm(192, eps=1e-6).cuda()
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    fused = FusedLayerNorm(norm)
    x, change = torch.randn(5, 7, 192, device="cuda"), torch.randn(5, 7, 192, device="cuda").bfloat16()
    with torch.inference_mode():
        total, normed = fused.add_and_norm(x, change)
        expected = norm(x + change)
        assert torch.equal(total, x + change)
        assert torch.allclose(normed.float(), expected, rtol=2**-8, atol=1e-5)
        assert torch.equal(fused(total), normed)
        assert torch.equal(fused.add_and_norm(x[2:3], change[2:3])[1], normed[2:3])


def test_an_activation_within_a_product_is_off_by_little() -> None:
    torch.manual_seed(0)
    linear = LoweredLinear(torch.randn(64, 32) / 4, torch.randn(64)).cuda()
    x = torch.randn(3, 5, 32, device="cuda")
    with torch.inference_mode():
        exact = F.gelu(F.linear(x.bfloat16().double(), linear.weight.double(), linear.bias.double()))
        assert torch.allclose(linear.with_gelu(x).double(), exact, rtol=2**-8, atol=1e-3)


def test_a_module_on_the_gpu_is_asked_there(network: ViTMAE) -> None:
    seen = []

    class Watched(ModuleClassifier):
        def __call__(self, images: Tensor) -> Tensor:
            seen.append(images.device.type)
            return super().__call__(images)

    defense = BDMAE(MAERestorer(copy.deepcopy(network), device="cuda"))
    found = defense.purify(torch.rand(4, 3, 32, 32), Watched(ResNet18(10, width=16), device="cuda", precision="auto"))
    assert set(seen) == {"cuda"}
    assert found.labels.device.type == found.images.device.type == "cpu"


@pytest.mark.parametrize(
    ("attack", "settings"),
    [
        ("badnets:3x3-color", {}),
        ("repeated", {}),
        ("wanet", {}),
        ("label-consistent", {"init": "scratch"}),
        ("input-aware", {}),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_victims_train_on_the_gpu_and_load_on_the_cpu(attack: str, settings: dict[str, Any], tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (320, 3, 32, 32), generator=generator, dtype=torch.uint8)
    names = dataset_spec("cifar10").class_names
    split = ImageDataset(name="cifar10", images=images, labels=torch.arange(320) % 10, class_names=names)
    recipe = Recipe(epochs=1, learning_rate=0.01, batch_size=64)
    config = VictimConfig(dataset="cifar10", width=4, attack=attack, recipe=recipe, **settings)
    record = train_victim(config, VictimData(train=split, test=split), cache=tmp_path, device="cuda")
    assert record["device"] != "cpu"
    victim_attack(config, tmp_path)
    assert load_victim(config, tmp_path)(torch.rand(2, 3, 32, 32)).shape == (2, 10)


def test_a_restorer_trains_on_the_gpu_as_on_the_cpu(tmp_path: Path) -> None:
    images = torch.randint(0, 256, (64, 3, 40, 40), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    config = PretrainConfig(
        steps=8,
        batch_size=16,
        warmup_steps=4,
        network={"image_size": 32, "widths": (16, 32), "encoder_blocks": (1, 1), "decoder_blocks": (1,)},
        source_size=40,
        augmentation=AUGMENTATIONS["strong"],
        feature_weight=0.1,
    )
    losses = {}
    for device in ("cpu", "cuda"):
        torch.manual_seed(0)
        extractor = ResNet18(10, width=8).eval().requires_grad_(False)
        found: list[float] = []
        pretrain(
            config,
            images,
            tmp_path / device,
            held_out=images[:, :, :32, :32],
            features=[extractor],
            progress=lambda state, found=found: found.extend([state.loss, state.held_out_psnr or 0.0]),  # type: ignore[misc]
            device=device,
        )
        losses[device] = found
    assert losses["cuda"] == pytest.approx(losses["cpu"], rel=0.02)
