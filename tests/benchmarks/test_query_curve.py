from pathlib import Path

import pytest
from benchmarks.query_curve import allowed, draw
from PIL import Image

from benchmark_records import DEFAULT, record
from benchmarks import query_curve
from maskrestore import PROFILES, BDMAEConfig
from maskrestore.defense.beyond_paper.budget import within
from maskrestore.errors import DataError
from maskrestore.lab.measure.record_files import cell_records


@pytest.mark.parametrize("config", [*PROFILES.values(), *(within(DEFAULT, queries) for queries in (1, 3, 15, 30))])
def test_a_record_allows_what_its_settings_did(config: BDMAEConfig, tmp_path: Path) -> None:
    # As files hold it: tuples are lists there, and stages that are off are left out.
    one = record(config, 15)
    cell_records(tmp_path).append(one)
    assert allowed(cell_records(tmp_path).get(one.name)) == config.max_queries


def test_the_curve_is_a_picture(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    path = tmp_path / "curve.png"
    records = [record(within(DEFAULT, 15), 16), record(DEFAULT, 18), record(PROFILES["fast"], 17)]
    draw(records, path)
    with Image.open(path) as picture:
        assert picture.format == "PNG"
        assert picture.size == (7 * 150, 4 * 150)
        # Lines of all three rates.
        colours = {colour for _, colour in picture.convert("RGB").getcolors(maxcolors=1 << 20)}
    assert {tuple(bytes.fromhex(colour[1:])) for colour in query_curve.COLOURS.values()} <= colours


def test_every_rate_is_drawn_over_rising_queries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("matplotlib")
    figures = []
    new_figure = query_curve.new_figure
    monkeypatch.setattr(query_curve, "new_figure", lambda **size: figures.append(new_figure(**size)) or figures[-1])
    draw([record(DEFAULT, 18), record(within(DEFAULT, 15), 16), record(PROFILES["fast"], 17)], tmp_path / "curve.png")
    lines = [(list(line.get_xdata()), list(line.get_ydata())) for line in figures[0].axes[0].get_lines()]
    queries = [within(DEFAULT, 15).max_queries, DEFAULT.max_queries]
    # Clean accuracy over what is allowed; the profile fast is a mark of its own, at its mean queries.
    assert lines[0] == (queries, [80, 90])
    assert lines[1] == ([12.0], [85])


def test_a_folder_without_records_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["query_curve", str(tmp_path), str(tmp_path / "curve.png")])
    with pytest.raises(DataError, match=r"cells\.jsonl contains no records"):
        query_curve.main()


def test_records_of_a_folder_are_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("matplotlib")
    for number, config in enumerate((within(DEFAULT, 15), DEFAULT)):
        cell_records(tmp_path).append(record(config, 15 + number))
    monkeypatch.setattr("sys.argv", ["query_curve", str(tmp_path), str(tmp_path / "curve.png")])
    query_curve.main()
    assert (tmp_path / "curve.png").stat().st_size > 0
