import pytest
import torch
from torch import nn

from maskrestore.defense.bdmae import BDMAE
from maskrestore.defense.profiles import PROFILES
from maskrestore.errors import UnknownNameError
from maskrestore.lab.measure.defenses import DEFENSES, NoDefense, make_defense
from maskrestore.mae.checkpoints.weight_files import weights_digest
from maskrestore.runtime.settings import with_settings


class Blank:
    grid = 4

    def restore(self, images, hidden):
        return images


def build(name, config=None, key=b"secret"):
    return make_defense(name, config, dataset="imagenette", restorer=Blank, restorer_name="blank", key=key)


def test_names_stand_for_the_profiles():
    assert DEFENSES["bdmae"] == PROFILES["default"]
    assert DEFENSES["bdmae-paper"] == PROFILES["paper"]
    for name, profile in (("bdmae", "default"), ("bdmae-paper", "paper")):
        built = build(name)
        assert isinstance(built.defense, BDMAE)
        assert built.defense.config == PROFILES[profile].in_force(photographs=True)
        assert built.entry.name == name
        assert built.entry.restorer == "blank"


def test_none_needs_no_restorer():
    def load():
        raise AssertionError("not needed")

    built = make_defense("none", dataset="signs", restorer=load, restorer_name="blank")
    assert isinstance(built.defense, NoDefense)
    assert built.entry.restorer is None
    images = torch.rand(3, 3, 8, 8)
    result = built.defense.purify(images, lambda batch: torch.arange(len(batch)))
    assert torch.equal(result.images, images)
    assert result.labels.tolist() == result.original_labels.tolist() == [0, 1, 2]


def test_changed_settings_show_in_the_name():
    config = with_settings(PROFILES["paper"], {"refinement": None, "scores.label_weight": 1.0})
    built = build("bdmae-paper", config)
    assert built.entry.name == "bdmae-paper[scores.label_weight=1.0,refinement=None]"
    assert "refinement" not in built.entry.config
    assert built.entry.config["scores"]["label_weight"] == 1.0
    assert built.defense.config == config


def test_entry_identifies_the_key_without_holding_it():
    first, second = build("bdmae").entry, build("bdmae", key=b"other").entry
    assert first.key_fingerprint != second.key_fingerprint
    assert "secret" not in repr(first)


def test_unknown_name_lists_the_known_ones():
    with pytest.raises(UnknownNameError, match="affine, bdmae, bdmae-fast, bdmae-paper, "):
        build("magic")


def test_weights_digest_follows_the_weights():
    network = nn.Linear(3, 2).to(torch.bfloat16)
    before = weights_digest(network)
    assert before == weights_digest(network)
    with torch.no_grad():
        network.bias[0] += 1
    assert weights_digest(network) != before
    assert weights_digest(Blank()) is None
