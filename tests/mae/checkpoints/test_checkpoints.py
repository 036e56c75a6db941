from __future__ import annotations

import argparse
import json
import logging
import pickle
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import transformers
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from maskrestore.errors import CheckpointError, ConfigError, MissingDependencyError, UnknownNameError
from maskrestore.mae.checkpoints import loading as checkpoints
from maskrestore.mae.checkpoints.loading import (
    build_network,
    load_network,
    packaged_digest,
    packaged_names,
    save_network,
)
from maskrestore.mae.choice import load_restorer
from maskrestore.mae.conv import ConvMAE, ConvMAEConfig
from maskrestore.mae.vit import ViTMAE
from maskrestore.mae.vit_config import IMAGENET_MEAN, IMAGENET_STD, VIT_PRESETS, ViTMAEConfig

SMALL = ViTMAEConfig(
    image_size=16,
    patch_size=4,
    width=24,
    depth=2,
    heads=3,
    decoder_width=16,
    decoder_depth=2,
    decoder_heads=2,
    mean=IMAGENET_MEAN,
    std=IMAGENET_STD,
)
HEADS = {"heads": 3, "decoder_heads": 2}


@pytest.fixture(scope="module")
def network() -> ViTMAE:
    torch.manual_seed(0)
    return ViTMAE(SMALL).eval()


@pytest.fixture
def images() -> torch.Tensor:
    return torch.rand(2, 3, 16, 16)


@pytest.fixture
def hidden() -> torch.Tensor:
    return torch.arange(32).view(2, 4, 4) % 3 > 0


@pytest.fixture
def official(network: ViTMAE, tmp_path: Path) -> Path:
    """A file in the layout of mae_visualize_vit_base.pth."""
    torch.save({"model": network.state_dict()}, tmp_path / "mae_visualize_vit_small.pth")
    return tmp_path / "mae_visualize_vit_small.pth"


@pytest.fixture
def hub_folder(tmp_path: Path) -> Path:
    config = transformers.ViTMAEConfig(
        image_size=16,
        patch_size=4,
        hidden_size=24,
        num_hidden_layers=2,
        num_attention_heads=3,
        intermediate_size=96,
        decoder_hidden_size=16,
        decoder_num_hidden_layers=2,
        decoder_num_attention_heads=2,
        decoder_intermediate_size=64,
    )
    folder = tmp_path / "vit-mae-small"
    transformers.ViTMAEForPreTraining(config).save_pretrained(folder)
    return folder


def edit_config(folder: Path, **fields: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


# Our own files


def test_own_file_keeps_weights_to_half_precision_and_the_card(network, images, hidden, tmp_path) -> None:
    path = tmp_path / "runs" / "vit.safetensors"
    save_network(path, network, {"command": "maskrestore pretrain"})
    loaded = load_network(path)
    assert isinstance(loaded, ViTMAE)
    assert loaded.config == SMALL
    assert not loaded.training
    for name, tensor in network.state_dict().items():
        stored = tensor if "pos_embed" in name else tensor.half().float()
        assert loaded.state_dict()[name].dtype == torch.float32
        assert torch.equal(loaded.state_dict()[name], stored), name
    assert (loaded(images, hidden) - network(images, hidden)).abs().max() < 0.01
    with safe_open(path, framework="pt") as file:
        assert file.metadata()["command"] == "maskrestore pretrain"
        assert file.metadata()["family"] == "vit"
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_own_file_in_full_precision_is_exact(network, images, hidden, tmp_path) -> None:
    save_network(tmp_path / "vit.safetensors", network, dtype=torch.float32)
    with torch.inference_mode():
        assert torch.equal(load_network(tmp_path / "vit.safetensors")(images, hidden), network(images, hidden))


def test_the_convolutional_family_round_trips(tmp_path) -> None:
    config = ConvMAEConfig(image_size=16, widths=(8, 12), encoder_blocks=(1, 1), decoder_blocks=(1,))
    network = ConvMAE(config).to(memory_format=torch.channels_last)
    save_network(tmp_path / "conv.safetensors", network)
    loaded = load_network(str(tmp_path / "conv.safetensors"))
    assert isinstance(loaded, ConvMAE)
    assert loaded.config == config
    assert torch.equal(loaded.stem.weight, network.stem.weight.half().float())


def test_saving_replaces_only_once_complete(network, tmp_path) -> None:
    path = tmp_path / "vit.safetensors"
    save_network(path, network)
    before = path.read_bytes()
    broken = ViTMAE(SMALL)
    with torch.no_grad():
        broken.norm.weight[0] = 1e6  # beyond the range of float16
    with pytest.raises(CheckpointError, match=r"norm\.weight is not finite in torch\.float16"):
        save_network(path, broken)
    assert path.read_bytes() == before


def test_saving_refuses_other_networks_and_reserved_names(network, tmp_path) -> None:
    with pytest.raises(ConfigError, match="Linear"):
        save_network(tmp_path / "x.safetensors", torch.nn.Linear(1, 1))
    with pytest.raises(ConfigError, match="family"):
        save_network(tmp_path / "x.safetensors", network, {"family": "mine"})


def test_loading_leaves_random_numbers_alone(network, tmp_path) -> None:
    save_network(tmp_path / "vit.safetensors", network)
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    load_network(tmp_path / "vit.safetensors")
    assert torch.equal(torch.rand(3), expected)


def test_packaged_weights_resolve_by_name(network, tmp_path, monkeypatch) -> None:
    (tmp_path / "assets").mkdir()
    save_network(tmp_path / "assets" / "mae-nano.safetensors", network)
    monkeypatch.setattr(checkpoints.resources, "files", lambda _: tmp_path)
    assert checkpoints.packaged_names() == ["mae-nano"]
    assert load_network("mae-nano").config == SMALL
    with pytest.raises(CheckpointError, match="mae-nano"):
        load_network("mae-nana")


def test_packaged_weights_have_the_digest_of_their_restorer() -> None:
    assert packaged_names() == ["mae-photo-224", "mae-tiny-32"]
    for name in packaged_names():
        assert packaged_digest(name) == load_restorer(name).weights_digest
    with pytest.raises(UnknownNameError, match=r"known: mae-photo-224, mae-tiny-32"):
        packaged_digest("mae-nana")


@pytest.mark.parametrize("kept", [0, 5, 200, -10])
def test_truncated_safetensors_are_refused(network, tmp_path, kept) -> None:
    path = tmp_path / "vit.safetensors"
    save_network(path, network)
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(CheckpointError, match="not a whole safetensors file"):
        load_network(path)


def rewrite(path: Path, change) -> None:
    """Apply ``change(tensors, metadata)`` to a safetensors file."""
    tensors = load_file(path)
    with safe_open(path, framework="pt") as file:
        metadata = dict(file.metadata())
    change(tensors, metadata)
    save_file(tensors, path, metadata)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda t, m: t.update({"norm.weight": torch.ones(25)}),
            r"norm\.weight has shape \(25,\), expected \(24,\)",
        ),
        (lambda t, m: t.pop("mask_token"), r"mask_token of shape \(1, 1, 16\) is missing"),
        (
            lambda t, m: t.update({"head.weight": torch.ones(2)}),
            r"unknown tensors, the first is head\.weight",
        ),
        (lambda t, m: m.pop("family"), "save_network did not write it"),
        (lambda t, m: m.update(family="gan"), "known: conv, vit"),
        (lambda t, m: m.update(config="{"), "not JSON"),
        (lambda t, m: m.update(config="[1]"), "expected an object"),
        (lambda t, m: m.update(config='{"layers": 3}'), "layers"),
        (lambda t, m: m.update(config='{"width": "wide"}'), "width"),
        (lambda t, m: m.update(config='{"normalized_pixel_targets": true}'), "norm_pix_loss"),
    ],
)
def test_files_that_do_not_fit_are_refused(network, tmp_path, change, message) -> None:
    path = tmp_path / "vit.safetensors"
    save_network(path, network)
    rewrite(path, change)
    with pytest.raises(CheckpointError, match=message):
        load_network(path)


def test_build_network_names_what_it_knows() -> None:
    assert build_network("vit", {"depth": 1, "mean": [0.0, 0.0, 0.0]}).config.mean == (0.0, 0.0, 0.0)
    with pytest.raises(UnknownNameError, match="known: conv, vit"):
        build_network("gan", {})
    with pytest.raises(ConfigError, match="layers"):
        build_network("conv", {"layers": 3})


# The official layout


def test_official_file_is_inferred_from_shapes(network, official, images, hidden, caplog) -> None:
    with caplog.at_level(logging.WARNING, "maskrestore"):
        loaded = load_network(official, **HEADS)
    assert loaded.config == SMALL
    with torch.inference_mode():
        assert torch.equal(loaded(images, hidden), network(images, hidden))
    assert "CC-BY-NC 4.0" in caplog.text


@pytest.mark.parametrize("name", ["base", "large", "huge"])
def test_official_heads_are_known(name, tmp_path) -> None:
    config = replace(VIT_PRESETS[name], depth=1, decoder_depth=1)
    with torch.device("meta"):
        shapes = {key: tensor.shape for key, tensor in ViTMAE(config).state_dict().items()}
    # Expanded zeros: the true shapes in a file of a few kilobytes.
    torch.save({"model": {k: torch.zeros(1).expand(s) for k, s in shapes.items()}}, tmp_path / "mae.pth")
    assert load_network(tmp_path / "mae.pth").config == config


def test_the_licence_reaches_a_terminal(official) -> None:
    code = (
        "import sys; from maskrestore.mae.checkpoints.loading import load_network; "
        "load_network(sys.argv[1], heads=3, decoder_heads=2)"
    )
    command = [sys.executable, "-c", code, str(official)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "CC-BY-NC 4.0" in done.stderr


def test_unusual_widths_need_their_heads(official) -> None:
    with pytest.raises(CheckpointError, match=r"24 wide.*pass heads="):
        load_network(official)
    with pytest.raises(CheckpointError, match="width 24 must be a multiple"):
        load_network(official, heads=5, decoder_heads=2)


def test_training_checkpoints_with_options_load_unless_pixels_were_normalised(network, tmp_path) -> None:
    path = tmp_path / "checkpoint-799.pth"
    for normalised in (False, True):
        options = argparse.Namespace(norm_pix_loss=normalised, lr=1e-3)
        torch.save({"model": network.state_dict(), "epoch": 799, "args": options}, path)
        if normalised:
            with pytest.raises(CheckpointError, match="norm_pix_loss"):
                load_network(path, **HEADS)
        else:
            assert load_network(path, **HEADS).config == SMALL


class Payload:
    """Unpickling this creates a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


@pytest.mark.parametrize("container", ["zip", "legacy", "plain"])
def test_a_pickle_with_code_is_refused_and_does_not_run(network, tmp_path, container) -> None:
    trap, path = tmp_path / "executed", tmp_path / "mae.pth"
    content = {"model": network.state_dict(), "extra": Payload(trap)}
    if container == "plain":
        path.write_bytes(pickle.dumps(content))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=container == "zip")
    with pytest.raises(CheckpointError, match="runs code"):
        load_network(path, **HEADS)
    assert not trap.exists()
    torch.load(path, weights_only=False) if container != "plain" else pickle.loads(path.read_bytes())
    assert trap.exists()  # the trap would have sprung


@pytest.mark.parametrize("kept", [0, 100, 5000, -100])
def test_truncated_pickles_are_refused(official, kept) -> None:
    official.write_bytes(official.read_bytes()[:kept])
    with pytest.raises(CheckpointError, match=r"truncated|damaged"):
        load_network(official, **HEADS)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([1, 2], "holds a list"),
        ({"model": {"a": 1}}, "dictionary of tensors"),
        ({"model": {"patch_embed.proj.weight": torch.zeros(24, 3, 4)}}, "expected 4 dimensions"),
        ({"model": {"vit.embeddings.cls_token": torch.zeros(1)}}, "config.json"),
        ({"model": {"cls_token": torch.zeros(1)}}, "has no 'patch_embed"),
    ],
)
def test_other_pickles_are_refused(content, message, tmp_path) -> None:
    torch.save(content, tmp_path / "mae.pth")
    with pytest.raises(CheckpointError, match=message):
        load_network(tmp_path / "mae.pth", **HEADS)


def test_official_encoder_without_decoder_and_wrong_shapes(network, tmp_path) -> None:
    path, weights = tmp_path / "mae.pth", network.state_dict()
    torch.save({"model": {k: v for k, v in weights.items() if "decoder" not in k}}, path)
    with pytest.raises(CheckpointError, match=r"no 'decoder_embed\.weight'.*encoder only"):
        load_network(path, **HEADS)
    torch.save({"model": {**weights, "blocks.1.attn.proj.bias": torch.zeros(7)}}, path)
    with pytest.raises(CheckpointError, match=r"blocks\.1\.attn\.proj\.bias has shape \(7,\), expected \(24,\)"):
        load_network(path, **HEADS)
    torch.save({"model": {**weights, "pos_embed": torch.zeros(1, 16, 24)}}, path)
    with pytest.raises(CheckpointError, match="15 tokens, expected a square"):
        load_network(path, **HEADS)


# Hugging Face's layout (that its pixels are right is proved in test_vit.py)


def version_4_name(name: str) -> str:
    """The names on the hub, which differ in the decoder from what transformers 5 writes."""
    return name.replace("decoder.decoder_encoder.layer.", "decoder.decoder_layers.")


@pytest.mark.parametrize("layout", ["saved", "hub", "in memory"])
@pytest.mark.parametrize("file", ["model.safetensors", "pytorch_model.bin"])
def test_local_folder_loads_in_every_layout(hub_folder, layout, file, caplog) -> None:
    images, hidden = torch.rand(1, 3, 16, 16), torch.arange(16).view(1, 4, 4) % 3 > 0
    before = load_network(hub_folder)
    reference = transformers.ViTMAEForPreTraining.from_pretrained(hub_folder)
    tensors = {
        "saved": load_file(hub_folder / "model.safetensors"),
        "hub": {version_4_name(k): v for k, v in load_file(hub_folder / "model.safetensors").items()},
        "in memory": reference.state_dict(),
    }[layout]
    (hub_folder / "model.safetensors").unlink()
    if file.endswith(".bin"):
        torch.save(tensors, hub_folder / file)
    else:
        save_file(tensors, hub_folder / file, {"format": "pt"})
    caplog.clear()
    loaded = load_network(str(hub_folder))
    assert "CC-BY-NC 4.0" in caplog.text
    assert loaded.config == replace(SMALL, norm_eps=1e-12)
    with torch.inference_mode():
        assert torch.equal(loaded(images, hidden), before(images, hidden))


def test_normalisation_comes_from_the_image_processor(hub_folder) -> None:
    processor = hub_folder / "preprocessor_config.json"
    processor.write_text(json.dumps({"image_mean": [0.5, 0.5, 0.5], "image_std": [0.1, 0.2, 0.3]}))
    config = load_network(hub_folder).config
    assert (config.mean, config.std) == ((0.5, 0.5, 0.5), (0.1, 0.2, 0.3))
    processor.write_text(json.dumps({"do_normalize": False, "image_mean": [0.5, 0.5, 0.5]}))
    assert load_network(hub_folder).config.mean == (0.0, 0.0, 0.0)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"model_type": "vit"}, "model_type is 'vit', expected 'vit_mae'"),
        ({"hidden_act": "relu"}, "hidden_act is 'relu', expected 'gelu'"),
        ({"norm_pix_loss": True}, "norm_pix_loss"),
        ({"hidden_size": 0}, "does not describe a masked autoencoder"),
        ({"patch_size": [4, 2]}, "patch_size must be a whole number"),
        ({"decoder_intermediate_size": 32}, "MLP ratios"),
        ({"num_hidden_layers": 3}, r"blocks\.2\..* is missing"),
        ({"num_hidden_layers": 1}, "unknown tensors"),
        ({"image_size": 32}, r"pos_embed has shape \(1, 17, 24\), expected \(1, 65, 24\)"),
    ],
)
def test_folders_that_do_not_fit_are_refused(hub_folder, fields, message) -> None:
    edit_config(hub_folder, **fields)
    with pytest.raises(CheckpointError, match=message):
        load_network(hub_folder)


def test_incomplete_folders_are_refused(hub_folder) -> None:
    (hub_folder / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"neither model\.safetensors nor pytorch_model\.bin"):
        load_network(hub_folder)
    (hub_folder / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match="cannot read"):
        load_network(hub_folder)
    (hub_folder / "config.json").unlink()
    with pytest.raises(CheckpointError, match=r"config\.json"):
        load_network(hub_folder)


# Names


def test_a_hub_name_is_fetched_as_pickle_only_without_safetensors(hub_folder, monkeypatch) -> None:
    import huggingface_hub

    weights = load_file(hub_folder / "model.safetensors")
    (hub_folder / "model.safetensors").unlink()
    asked: list[tuple[str, list[str]]] = []

    def snapshot_download(name: str, *, allow_patterns: list[str]) -> str:
        asked.append((name, allow_patterns))
        if "pytorch_model.bin" in allow_patterns:
            torch.save(weights, hub_folder / "pytorch_model.bin")
        return str(hub_folder)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    assert load_network("facebook/vit-mae-small").config.width == 24
    assert [name for name, _ in asked] == ["facebook/vit-mae-small"] * 2
    assert "pytorch_model.bin" not in asked[0][1]


def test_offline_and_without_the_hub_the_errors_say_what_to_do(monkeypatch) -> None:
    import huggingface_hub

    def offline(*_: object, **__: object) -> str:
        raise huggingface_hub.errors.LocalEntryNotFoundError("no connection")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", offline)
    with pytest.raises(CheckpointError, match=r"facebook/vit-mae-base.*no connection.*local folder"):
        load_network("facebook/vit-mae-base")
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(MissingDependencyError, match=r"maskrestore\[hub\]"):
        load_network("facebook/vit-mae-base")


@pytest.mark.parametrize("name", ["weights/mae.pth", "nowhere", "a/b/c", Path("owner/model")])
def test_missing_files_are_not_looked_up_on_the_hub(name, monkeypatch) -> None:
    monkeypatch.setattr(checkpoints, "download", lambda _: pytest.fail("asked the hub"))
    with pytest.raises(CheckpointError, match="expected packaged weights"):
        load_network(name)
