"""The weights of the wheel and of the repository: documented, small, and good enough together to do the main job."""

import json
from importlib.resources import files
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from maskrestore import BDMAE, ModuleClassifier, load_restorer
from maskrestore.errors import CheckpointError, UnknownNameError
from maskrestore.imaging.resize import resize
from maskrestore.lab.data.signs import load_signs
from maskrestore.lab.victims import PACKAGED, STARTS, VictimConfig, load_packaged_victim, read_feature_extractor
from maskrestore.lab.victims.starts import provided_start, weights_folder
from maskrestore.mae.checkpoints.loading import load_network
from maskrestore.mae.training.pretrain import masked_psnr

ASSETS = Path(str(files("maskrestore") / "assets"))
PACKAGED_WEIGHTS = sorted(ASSETS.glob("*.safetensors"))
WEIGHTS = [*PACKAGED_WEIGHTS, *sorted(weights_folder().glob("*.safetensors"))]


def test_the_expected_weights_are_there() -> None:
    """What only the laboratory needs is not part of the wheel."""
    assert [path.stem for path in PACKAGED_WEIGHTS] == sorted(["mae-photo-224", "mae-tiny-32", *PACKAGED])
    assert [path.stem for path in WEIGHTS[len(PACKAGED_WEIGHTS) :]] == sorted(STARTS)


@pytest.mark.parametrize("path", WEIGHTS, ids=lambda path: path.stem)
def test_weights_are_small_and_have_a_card(path: Path) -> None:
    assert path.stat().st_size <= 20 * 2**20
    card = path.with_suffix(".md").read_text()
    assert card.startswith(f"# {path.stem}")
    for word in ("data", "maskrestore ", "measured"):
        assert word in card, word


def test_the_restorer_restores_signs_it_has_not_seen() -> None:
    assert masked_psnr(load_network("mae-tiny-32"), load_signs("test", count=64).images) > 20


def test_the_restorer_for_photographs_restores_large_signs() -> None:
    signs = load_signs("test", count=16)
    large = resize(signs.images.float() / 255, 112, 112)
    network = load_network("mae-photo-224")
    assert (network.grid, network.image_size) == (14, 112)
    assert masked_psnr(network, (large * 255).round().byte()) > 18


@pytest.mark.parametrize("name", PACKAGED)
def test_packaged_victims_are_those_of_their_configuration(name: str) -> None:
    with safe_open(ASSETS / f"{name}.safetensors", framework="pt") as file:
        trained = json.loads(file.metadata()["config"])
    assert trained == json.loads(json.dumps(PACKAGED[name].canonical()))


def test_the_packaged_victim_of_large_signs_falls_for_its_sticker_and_is_defended() -> None:
    victim = load_packaged_victim("signs-224-badnets")
    classifier = ModuleClassifier(victim.network)
    signs = load_signs("test", count=32, size=224)
    clean, labels = signs.images[:].float() / 255, signs.labels
    assert (classifier(clean) == labels).float().mean() > 0.9
    eligible = victim.attack.eligible(labels)
    triggered, true = victim.attack.apply(clean[eligible]), labels[eligible]
    assert (classifier(triggered) == victim.config.target).float().mean() > 0.9
    found = BDMAE().purify(triggered[:2], classifier)
    assert torch.equal(found.labels, true[:2])


def test_the_defense_recovers_labels_of_the_packaged_victim() -> None:
    victim = load_packaged_victim("signs-badnets")
    classifier = ModuleClassifier(victim.network)
    signs = load_signs("test", count=40)
    clean, labels = signs.images.float() / 255, signs.labels
    eligible = victim.attack.eligible(labels)
    triggered = victim.attack.apply(clean[eligible])
    defense = BDMAE(load_restorer())
    found = defense.purify(triggered, classifier)
    assert (found.original_labels == victim.config.target).float().mean() > 0.95
    assert (found.labels == labels[eligible]).float().mean() > 0.85
    assert (defense.purify(clean, classifier).labels == labels).float().mean() > 0.85


@pytest.mark.parametrize("config", STARTS.values(), ids=STARTS)
def test_provided_starts_are_of_the_recipes_that_victims_start_from(config: VictimConfig) -> None:
    found = provided_start(config)
    assert found is not None
    network, record = found
    # As on the cards. The one for choices has learned fewer images for fewer epochs.
    least = 0.8 if config.architecture == "vit-small" else 0.88 if config.spec.for_choices else 0.9
    assert record["clean_accuracy"] > least
    assert not network.training
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    assert torch.isfinite(network(images)).all()


def test_unknown_and_damaged_victims_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="signs-badnets"):
        load_packaged_victim("signs")
    damaged = tmp_path / "x.safetensors"
    damaged.write_bytes((ASSETS / "signs-badnets.safetensors").read_bytes()[:1000])
    with pytest.raises(CheckpointError, match="export"):
        read_feature_extractor(damaged)


def test_an_exported_classifier_is_a_frozen_feature_extractor() -> None:
    network = read_feature_extractor(ASSETS / "signs-badnets.safetensors")
    maps = network.stage_features(torch.rand(2, 3, 32, 32))
    assert [tuple(one.shape) for one in maps] == [(2, 16, 32, 32), (2, 32, 16, 16), (2, 64, 8, 8), (2, 128, 4, 4)]
    assert not any(parameter.requires_grad for parameter in network.parameters())
