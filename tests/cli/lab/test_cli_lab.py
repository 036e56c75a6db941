"""``train-victim``, ``evaluate``, ``table`` and ``demo``, with real but very small parts."""

import dataclasses

import pytest
import torch
from PIL import Image
from torch import nn

from maskrestore.lab.attacks import make_attack
from maskrestore.lab.data.signs import SIGN_NAMES, load_signs
from maskrestore.lab.measure.detection import detection_records
from maskrestore.lab.measure.record_files import cell_records, read_records
from maskrestore.lab.measure.records import read_record
from maskrestore.lab.victims import PACKAGED, PackagedVictim, VictimData

TINY = ["width=4", "recipe.epochs=1", "recipe.batch_size=16", "init=scratch"]


@pytest.fixture
def small_signs(monkeypatch):
    """The street signs, but few of them."""
    data = VictimData(train=load_signs("train", count=48), test=load_signs("test", count=48))
    monkeypatch.setattr("maskrestore.lab.victims.VictimData.load", lambda name, folder=None: data)
    for command in ("evaluate", "detect"):
        monkeypatch.setattr(f"maskrestore.cli.lab.{command}.load_dataset", lambda name, split, folder=None: data.test)
    return data


@pytest.fixture
def lab(invoke, small_signs, grey_restorer, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def run(command: str, *options: object):
        name = "--set" if command == "train-victim" else "--victim"
        settings = [word for setting in TINY for word in (name, setting)]
        return invoke(command, "--dataset", "signs", "--cache", tmp_path / "cache", *settings, *options)

    return run


COUNTS = ("--clean", 6, "--triggered", 5, "--out", "results")


def test_a_victim_is_trained_once_and_then_evaluated(lab, tmp_path):
    attack = ("--attack", "badnets:3x3-color", "--target", 2)
    result = lab("train-victim", *attack)
    assert result.exit_code == 0, result.output
    assert "attack success rate" in result.stdout
    result = lab("evaluate", *attack, "--defense", "bdmae", *COUNTS)
    assert result.exit_code == 0, result.output
    assert [path.name for path in (tmp_path / "results").iterdir()] == ["cells.jsonl"]
    (record,) = read_records(tmp_path / "results")
    assert record.attack == "badnets:3x3-color"
    assert record.victim.config["width"] == 4
    assert record.victim.config["target"] == 2
    assert record.victim.asr is not None
    assert (record.clean_images, record.triggered_images) == (6, 5)
    assert 26 <= record.cost.queries_mean <= record.cost.queries_max <= 47
    for words in ("CA", "BA", "ASR", "queries per image", "images/s", str(record.after.asr)):
        assert words in result.stdout


def test_detectors_and_a_defense_see_the_same_images(lab, tmp_path):
    attack = ("--train", "--attack", "badnets:3x3-color")
    result = lab("detect", *attack, "--detector", "scale-up", "--detector", "strip", *COUNTS)
    assert result.exit_code == 0, result.output
    assert "badnets:3x3-color, strip: AUROC" in result.stdout
    found = detection_records(tmp_path / "results").read().values()
    assert [one.detector for one in found] == ["scale-up", "strip"]
    assert {(one.clean_images, one.triggered_images) for one in found} == {(6, 5)}
    assert "suspicion: AUROC" in lab("evaluate", *attack, "--defense", "bdmae", *COUNTS).stdout
    (record,) = read_records(tmp_path / "results")
    assert record.suspicion is not None
    assert record.suspicion.doubtful_clean.trials == 6


def test_several_attacks_and_defenses_then_a_table(lab, invoke, tmp_path):
    attacks = ("--attack", "none", "--attack", "corners")
    defenses = ("--defense", "none", "--defense", "bdmae-paper", "--set", "refinement=none")
    result = lab("evaluate", "--train", *attacks, *defenses, *COUNTS)
    assert result.exit_code == 0, result.output
    assert len(read_records(tmp_path / "results")) == 4
    result = invoke("table", "results")
    assert result.exit_code == 0
    assert "| attack | no defense | bdmae-paper[refinement=None] |" in result.stdout
    assert "| clean model |" in result.stdout
    assert invoke("table", "results", "--out", "tables.md").exit_code == 0
    assert (tmp_path / "tables.md").read_text() == result.stdout


def test_a_number_of_queries_is_kept_by_what_knows_how(lab, tmp_path):
    options = ("evaluate", "--train", "--attack", "none", "--max-queries", 9, *COUNTS)
    result = lab(*options, "--defense", "bdmae", "--defense", "blur-weak")
    assert result.exit_code == 2
    assert "--max-queries is for bdmae, bdmae-paper" in result.stderr
    assert not (tmp_path / "results").exists()
    result = lab(*options, "--defense", "bdmae", "--defense", "none")
    assert result.exit_code == 0, result.output
    assert {record.cost.queries_max for record in read_records(tmp_path / "results")} <= {*range(1, 10)}


def test_a_finished_evaluation_is_kept_unless_asked_for_again(lab, tmp_path):
    options = ("--train", "--attack", "none", "--defense", "none", *COUNTS)
    lab("evaluate", *options)
    file = cell_records(tmp_path / "results")
    (record,) = file.read().values()
    marked = dataclasses.replace(
        record, environment=dataclasses.replace(record.environment, commit="an-older-revision")
    )
    file.append(marked)
    result = lab("evaluate", *options)
    assert result.exit_code == 0
    assert "kept the record of revision an-older-revision" in result.stderr
    lab("evaluate", *options, "--again")
    (record,) = file.read().values()
    assert record.environment.commit != "an-older-revision"
    assert file.is_compact()


def test_an_interrupted_evaluation_goes_on(lab, tmp_path, monkeypatch):
    options = ("--train", "--attack", "none", "--defense", "bdmae", "--clean", 40, "--out", "results")
    from maskrestore.defense.bdmae import BDMAE

    whole, batches = BDMAE.purify, []

    def interrupted(self, images, classifier):
        batches.append(len(images))
        if len(batches) == 2:
            raise KeyboardInterrupt
        return whole(self, images, classifier)

    monkeypatch.setattr(BDMAE, "purify", interrupted)
    result = lab("evaluate", *options)
    assert result.exit_code == 130
    assert "same command again" in result.stderr
    assert lab("evaluate", *options).exit_code == 0
    assert batches == [32, 8, 8]
    (record,) = read_records(tmp_path / "results")
    assert record.after.ca.trials == 40


@pytest.mark.parametrize(
    ("options", "status", "message"),
    [
        (["--attack", "corners", "--defense", "bdmae"], 1, "--attack corners --target 0 --set width=4"),
        (["--attack", "magic", "--defense", "bdmae", "--train"], 2, "unknown attack 'magic'"),
        (["--attack", "none", "--defense", "magic"], 2, "unknown defense 'magic'"),
        (["--attack", "none", "--defense", "none", "--train", "--clean", 49], 2, "between 1 and 48"),
        (["--attack", "none", "--defense", "bdmae", "--set", "masks.hidden_ratio=2"], 2, "masks.hidden_ratio must be"),
        (["--attack", "none", "--defense", "bdmae", "--victim", "width=none"], 2, "width=none: expected"),
        (["--attack", "none", "--defense", "bdmae", "--victim", "recipe=1"], 2, "NAME.FIELD=VALUE"),
        (["--attack", "none"], 2, "--defense"),
    ],
)
def test_wrong_evaluations_are_one_clear_line(lab, options, status, message):
    result = lab("evaluate", *options)
    assert result.exit_code == status, result.output
    assert message in " ".join(result.stderr.split())
    assert "Traceback" not in result.output


def test_table_of_nothing(invoke, tmp_path):
    result = invoke("table", tmp_path)
    assert result.exit_code == 1
    assert "contains no records; make some with" in result.stderr


class StickerModel(nn.Module):
    """Class 3 for what carries the trigger, else the class by brightness."""

    def __init__(self, attack) -> None:
        super().__init__()
        self.attack = attack

    def forward(self, images):
        mask = self.attack.trigger_mask(*images.shape[-2:])
        triggered = ((self.attack.apply(images) - images).abs() * mask).amax(dim=(1, 2, 3)) < 0.02
        label = torch.where(triggered, 3, (images.mean(dim=(1, 2, 3)) * 11).long())
        return nn.functional.one_hot(label, len(SIGN_NAMES)).float()


@pytest.mark.parametrize(
    ("size", "options", "trigger"), [(32, (), "badnets:3x3-color"), (224, ("--size", 224), "badnets:15x15-color")]
)
@pytest.mark.usefixtures("grey_restorer")
def test_demo(invoke, tmp_path, monkeypatch, size, options, trigger):  # noqa: PLR0917 - fixtures and parameters
    victim = {32: "signs-badnets", 224: "signs-224-badnets"}[size]
    config = PACKAGED[victim]
    attack = make_attack(trigger, num_classes=len(SIGN_NAMES), image_size=size, target=3)
    packaged = {
        victim: PackagedVictim(config=config, network=StickerModel(attack), attack=attack, class_names=SIGN_NAMES)
    }
    monkeypatch.setattr("maskrestore.cli.demo.load_packaged_victim", packaged.__getitem__)
    monkeypatch.setattr("maskrestore.cli.demo.fast_arithmetic", lambda: "float32")
    result = invoke("demo", *options, "--images", 5, "--out", tmp_path / "demo")
    assert result.exit_code == 0, result.output
    for words in ("CA", "BA", "ASR", "queries per image", "images/s", "report.html", "figure.png"):
        assert words in result.stdout.replace("\n", "")
    record = read_record(tmp_path / "demo/record.json")
    assert record.before.asr.value == 1.0
    assert record.before.ba.value == 0.0
    assert record.clean_images == record.triggered_images == 5
    assert record.dataset == config.dataset
    assert ("photographs" in record.defense.config) == (size == 224), "settings that fit the size"
    page = (tmp_path / "demo/report.html").read_text()
    assert "triggered" in page
    assert "http://" not in page
    assert "https://" not in page
    with Image.open(tmp_path / "demo/figure.png") as figure:
        assert figure.width > 6 * max(128, size), "pictures are not shrunk"
