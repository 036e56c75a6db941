"""The cells of the catalogue find the records of the repository: their names hold a digest of all that is asked for."""

from pathlib import Path

import pytest

from maskrestore.defense.config import BDMAEConfig
from maskrestore.lab.measure.detection import detection_records
from maskrestore.lab.measure.record_files import cell_records
from maskrestore.lab.paper.catalogue import EXPERIMENTS
from maskrestore.lab.paper.scales import SCALES, cells_of

LOCAL = Path(__file__).parents[3] / "benchmarks/results/local"
MODEL = "88a00213328d3160"
"""The diffusion model of the records: ``diffusion-model.md`` beside them."""
RECORDED = {
    **{"table1": 66, "table2": 366, "table3": 141, "tableA1": 79, "tableA2": 21, "tableA3": 150, "tableA4": 150},
    **{"tableA5": 57},
    **{"all-to-all": 44, "global": 94, "adaptive": 42, "adaptive-later": 1, "moved": 26, "detectors": 44},
    **{"fig5": 102, "figA1": 40, "figA2": 35, "figA4": 16, "settings": 60},
}
"""Cells with a record. The numbers were counted with the records that earlier versions of the code wrote and found."""


def found_by(name):
    """Names of the records that the cells of a table or figure find, one for each cell that has one."""
    recorded = {*cell_records(LOCAL).read(), *detection_records(LOCAL).read()}
    cells = cells_of(EXPERIMENTS[name], SCALES["local"], diffusion=MODEL)
    return [cell.name for cell in cells if cell.name in recorded]


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_a_cell_finds_its_record(name):
    assert len(found_by(name)) == RECORDED.get(name, 0)


def test_a_record_has_the_settings_of_its_cell():
    records = cell_records(LOCAL).read()
    compared = 0
    for name in RECORDED:
        for cell in cells_of(EXPERIMENTS[name], SCALES["local"], diffusion=MODEL):
            record = records.get(cell.name)
            if record is not None and isinstance(cell.config, BDMAEConfig):
                assert BDMAEConfig.from_dict(record.defense.config) == cell.config, cell.name
                compared += 1
    assert compared > 299  # so many different cells; some belong to several tables


def test_every_record_belongs_to_a_cell():
    recorded = {*cell_records(LOCAL).read(), *detection_records(LOCAL).read()}
    assert set().union(*map(found_by, EXPERIMENTS)) == recorded
    assert len(recorded) == 1036 + 44
