"""``train-victim`` and ``evaluate`` on photographs: from class folders to records."""

from pathlib import Path

import pytest
import torch
from PIL import Image

from maskrestore.lab.measure.record_files import read_records

CLASSES = 10


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """A folder of data sets with ten classes that differ by colour; every other test picture has "new" in its name."""
    generator = torch.Generator().manual_seed(0)
    colours = torch.randint(0, 256, (CLASSES, 3), generator=generator).tolist()
    for label, colour in enumerate(colours):
        for split, count in (("train", 4), ("val", 2)):
            folder = tmp_path / "imagenette" / split / f"n{label:08d}"
            folder.mkdir(parents=True)
            for number in range(count):
                name = f"{'new' if number % 2 else 'old'}_{number}.JPEG"
                Image.new("RGB", (240, 230 + number), tuple(colour)).save(folder / name)
    return tmp_path


def test_a_data_set_in_folders_is_measured(invoke, grey_restorer, pictures, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shared = (
        "--dataset",
        "imagenette",
        "--attack",
        "badnets:icon-star",
        "--data",
        pictures,
        "--cache",
        tmp_path / "cache",
    )
    small = ("recipe.epochs=1", "recipe.batch_size=8", "poison_rate=0.2", "init=scratch")
    result = invoke("train-victim", *shared, *(word for one in small for word in ("--set", one)))
    assert result.exit_code == 0, result.output
    assert "attack success rate" in result.stdout
    result = invoke(
        *("evaluate", *shared, "--defense", "blur-weak", "--defense", "bdmae-fast"),
        *("--clean", 3, "--triggered", 2, "--out", "results", "--pictures", "new"),
        *(word for one in small for word in ("--victim", one)),
    )
    assert result.exit_code == 0, result.output
    records = read_records(tmp_path / "results")
    assert [record.dataset for record in records] == ["imagenette[new]"] * 2
    assert records[0].victim.config["recipe"]["frozen_blocks"] == 8
    assert records[0].victim.config["architecture"] == "efficientnet-lite0"
    assert {record.cost.queries_max for record in records if record.defense.name == "blur-weak"} == {2}
