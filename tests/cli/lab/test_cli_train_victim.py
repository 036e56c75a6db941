import pytest

from maskrestore.cli.lab.train_victim import victim_config
from maskrestore.lab.data.signs import load_signs
from maskrestore.lab.victims import VictimData, read_victim_record
from maskrestore.mae.checkpoints.loading import packaged_digest


def test_a_victim_of_restored_images_names_the_restorer(invoke, tmp_path, monkeypatch):
    data = VictimData(train=load_signs("train", count=32), test=load_signs("test", count=32))
    monkeypatch.setattr("maskrestore.lab.victims.VictimData.load", lambda name, folder=None: data)
    settings = ["width=4", "restored_rate=0.3", "recipe.epochs=1", "recipe.batch_size=16"]
    result = invoke(
        *("train-victim", "--dataset", "signs", "--cache", tmp_path),
        *(word for setting in settings for word in ("--set", setting)),
    )
    assert result.exit_code == 0, result.output
    record = read_victim_record(victim_config("signs", None, 0, settings), tmp_path)
    assert record["config"]["restorer_weights"] == packaged_digest("mae-tiny-32")
    result = invoke(
        *("train-victim", "--dataset", "signs", "--cache", tmp_path, "--set", "restorer_weights=12ab"),
        *(word for setting in settings for word in ("--set", setting)),
    )
    assert result.exit_code == 2
    assert f"the restorer's weights are {packaged_digest('mae-tiny-32')}" in result.stderr.replace("\n", " ")


@pytest.mark.parametrize(("settings", "weights"), [([], None), (["restored_rate=0.1"], "mae-tiny-32")])
def test_a_restorer_is_named_only_where_it_counts(settings, weights):
    expected = weights and packaged_digest(weights)
    assert victim_config("cifar10", "corners", 3, settings).restorer_weights == expected


@pytest.mark.parametrize("command", ["evaluate", "train-victim"])
def test_a_misspelt_attack_is_refused_before_data_are_looked_for(invoke, monkeypatch, command):
    monkeypatch.setattr("maskrestore.lab.victims.VictimData.load", pytest.fail)
    monkeypatch.setattr("maskrestore.cli.lab.evaluate.load_dataset", pytest.fail)
    result = invoke(command, "--attack", "badnets:9x", *(("--defense", "none") if command == "evaluate" else ()))
    assert result.exit_code == 2
    assert "badnets:9x needs a size" in result.stderr
