import csv
import dataclasses
import io
import json

import pytest

from maskrestore.errors import DataError
from maskrestore.lab.measure.metrics import Metrics
from maskrestore.lab.measure.record_files import cell_records, read_records
from maskrestore.lab.measure.records import Record, decode
from maskrestore.lab.measure.run import evaluate
from maskrestore.lab.paper.cells import Case, Variant
from maskrestore.lab.paper.layouts import Column, Row, Table
from maskrestore.lab.paper.scales import SCALES, cells_of
from maskrestore.lab.runner.run_cells import run_cells
from maskrestore.lab.show.leaderboard import leaderboard, read_folders
from maskrestore.lab.show.paper_tables import fill_table
from maskrestore.lab.show.summary import costs_of, summarise
from maskrestore.lab.show.tables import accuracy_table, cost_table, markdown
from maskrestore.statistics import Rate, estimate
from toy_evaluation import CornerAttack, EraseCorner, make_dataset, make_defense, make_victim
from toy_resources import ToyResources


@pytest.fixture(scope="module")
def base():
    return evaluate(
        make_dataset(),
        CornerAttack(),
        make_victim(),
        make_defense(EraseCorner()),
        clean_count=8,
        triggered_count=8,
    )


def variant(base, attack="corner:white", defense="erase", ca=100, asr=0, **changes):
    after = Metrics(ca=Rate(ca, 100), ba=Rate(90, 100), asr=Rate(asr, 100))
    if attack is None:
        after = dataclasses.replace(after, ba=None, asr=None)
    entry = dataclasses.replace(base.defense, name=defense)
    return dataclasses.replace(base, attack=attack, defense=entry, after=after, **changes)


def test_rows_are_attacks_and_columns_defenses(base):
    records = [
        variant(base, ca=98, asr=2),
        variant(base, defense="other", ca=90, asr=10),
        variant(base, attack="blended", ca=96, asr=4),
        variant(base, attack=None, ca=50, before=Metrics(ca=Rate(8, 8))),
    ]
    lines = accuracy_table(records).splitlines()[2:]
    assert lines[0] == "| attack | no defense | erase | other |"
    assert lines[2] == "| corner:white | 100.0 / 0.0 / 100.0 | 98.0 / 90.0 / 2.0 | 90.0 / 90.0 / 10.0 |"
    assert lines[3] == "| blended | 100.0 / 0.0 / 100.0 | 96.0 / 90.0 / 4.0 |  |"
    assert lines[4] == "| clean model | 100.0 / – / – | 50.0 / – / – |  |"
    assert lines[5].startswith("| **mean of attacks** | 100.0 / 0.0 / 100.0 | 97.0 / 90.0 / 3.0 |")
    assert lines[6] == "| **CA lost, mean of attacks** |  | 3.0 | 10.0 |"


def test_runs_of_several_seeds_are_averaged(base):
    records = [variant(base, ca=90, seed=0), variant(base, ca=94, seed=1)]
    assert "| corner:white | 100.0 / 0.0 / 100.0 | 92.0 / 90.0 / 0.0 |" in accuracy_table(records)


def test_different_settings_under_one_name_are_refused(base):
    changed = dataclasses.replace(base, defense=dataclasses.replace(base.defense, config={"a": 1}))
    with pytest.raises(DataError, match="differ in settings"):
        accuracy_table([base, changed])


def test_cost_names_the_processor(base):
    assert f"| erase | 2.0 | 2.0 | 2 | 6.2 % | {base.cost.images_per_second:.1f} |" in cost_table([base])
    assert base.environment.device in cost_table([base])
    shared = dataclasses.replace(
        base, cost=dataclasses.replace(base.cost, shared_restorations=True, images_per_second=1e6)
    )
    assert f" {base.cost.images_per_second:.1f} |" in cost_table([base, shared])
    assert " |  | " in cost_table([shared])


def test_a_folder_becomes_a_document(base, tmp_path):
    cell_records(tmp_path).append(base, dataclasses.replace(base, name="zebra", dataset="more"))
    text = markdown(read_records(tmp_path))
    assert [line for line in text.splitlines() if line.startswith("###")] == [
        "### toy",
        "### more",
        "### Cost",
    ]


def test_a_folder_without_records_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"cells\.jsonl contains no records"):
        read_records(tmp_path)


SMOKE = SCALES["smoke"]
ATTACKED = Case(dataset="cifar10", attack="corners")
OTHER = Case(dataset="gtsrb", attack="corners")


def small_table(**changes):
    rows = (
        Row(label="No defense", variants=(Variant(defense="none"),), paper="No defense"),
        Row(label="Ours", variants=(Variant(defense="bdmae"),), paper="Ours (Base)"),
    )
    columns = (Column(title="CIFAR-10", cases=(ATTACKED,)), Column(title="GTSRB", cases=(OTHER,)))
    return Table(**{"title": "Small & short", "rows": rows, "columns": columns, "unavailable": ("VGGFace2",)} | changes)


def measured(table, folder, repeats=1):
    cells = cells_of(table, SMOKE, repeats=repeats)
    run_cells(cells, folder, ToyResources(folder).make())
    return fill_table("table2", table, cells, [folder])


def change_victims(folder, start, **changes):
    """Change the victims of the records whose names start so."""
    chosen = [record for record in read_records(folder) if record.name.startswith(start)]
    assert chosen
    changed = [dataclasses.replace(one, victim=dataclasses.replace(one.victim, **changes)) for one in chosen]
    cell_records(folder).append(*changed)


def test_estimate_of_one_repeat_averages_the_binomial_intervals():
    rates = [Rate(90, 100), Rate(80, 100)]
    value = estimate([rates])
    assert (value.mean, value.repeats) == (pytest.approx(0.85), 1)
    assert value.low == pytest.approx((rates[0].low + rates[1].low) / 2)
    assert value.high == pytest.approx((rates[0].high + rates[1].high) / 2)


def test_estimate_of_several_repeats_is_students():
    value = estimate([[Rate(successes, 100)] for successes in (90, 92, 94)])
    assert value.mean == pytest.approx(0.92)
    assert value.high - value.mean == pytest.approx(4.303 * 0.02 / 3**0.5, rel=1e-4)
    assert value.mean - value.low == pytest.approx(value.high - value.mean)


def test_a_table_has_rates_costs_and_the_papers_figures(tmp_path):
    table = measured(small_table(), tmp_path)
    text = table.markdown()
    assert "Not measured, because the data are not available here: VGGFace2." in text
    assert "| defense | mean | CIFAR-10 | GTSRB |" in text
    assert "| No defense | 50.0 | 50.0 (47.1) | 50.0 (50.0) |" in text
    assert "| Ours | **100.0** | **100.0** (91.7) | **100.0** (96.8) |" in text
    assert "over the 2 measured columns, best of this method: 100.0 (Ours)" in text
    assert "best of the others: 50.0 (No defense)." in text
    row = "| Ours | 100.0 [51.0, 100.0] | 100.0 [51.0, 100.0] | 0.0 [0.0, 49.0] | 92.5 / 90.8 / 0.9 | 1 | 1 | 8 |"
    assert row in text
    assert "peak memory, MiB" in text
    assert "\\caption{Small \\& short: CIFAR-10}" in table.latex()
    assert "\\textbf{100.0} (91.7)" in table.latex()
    lines = list(csv.DictReader(io.StringIO(table.csv())))
    assert len(lines) == 2 * 2 * 3
    (line,) = [x for x in lines if (x["defense"], x["column"], x["rate"]) == ("Ours", "GTSRB", "ba")]
    assert (line["mean"], line["paper"], line["images"]) == ("100.00", "95.3", "8")


def only_ours_on_signs(rows, folder):
    """A table whose rows are measured on CIFAR-10, and ours on GTSRB, too."""
    table = small_table(rows=rows)
    cells = cells_of(table, SMOKE)
    wanted = [cell for cell in cells if cell.variant.defense == "bdmae" or cell.case == ATTACKED]
    run_cells(wanted, folder, ToyResources(folder).make())
    return fill_table("table2", table, cells, [folder]).markdown()


BLUR = Row(label="Blur", variants=(Variant(defense="blur-weak"),))


def test_a_row_that_lacks_a_column_is_compared_over_the_others(tmp_path):
    text = only_ours_on_signs((small_table().rows[1], BLUR), tmp_path)
    assert "best of this method: 100.0 (Ours); best of the others: " in text
    assert ", over CIFAR-10 only, where this method has 100.0." in text


def test_a_column_that_few_rows_have_takes_the_mean_from_none(tmp_path):
    text = only_ours_on_signs((*small_table().rows, BLUR), tmp_path)
    assert "over CIFAR-10, which at least half of the rows have, best of this method: 100.0 (Ours)" in text
    assert "| No defense | 50.0 | 50.0 (47.1) | – |" in text


def test_a_table_says_what_other_images_triggers_do(tmp_path):
    table = small_table()
    assert "triggers of other images" not in measured(table, tmp_path).markdown()
    change_victims(tmp_path, "cifar10", cross_trigger=0.75)
    text = fill_table("table2", table, cells_of(table, SMOKE), [tmp_path]).markdown()
    assert "Accuracy with the triggers of other images: cifar10 corners 75.0 %." in text


def test_a_table_names_rows_whose_victim_was_trained_anew(tmp_path):
    table = small_table()
    assert "other weights" not in measured(table, tmp_path).markdown()
    # One of two rows is no minority, so a third one is needed beside it.
    table = dataclasses.replace(table, rows=(*table.rows, BLUR))
    measured(table, tmp_path)
    change_victims(tmp_path, "cifar10_corners_resnet18-w8_blur-weak", weights="other")
    text = fill_table("table2", table, cells_of(table, SMOKE), [tmp_path]).markdown()
    assert "Cells with other weights than most rows: Blur (1)." in text


def test_costs_are_those_of_the_variant_that_a_row_takes(tmp_path):
    table = small_table()
    both = Row(label="Best of two", variants=(Variant(defense="none"), Variant(defense="bdmae")))
    table = dataclasses.replace(table, rows=(*table.rows, both))
    text = measured(table, tmp_path)
    costs = {line["defense"]: line["queries"] for line in text.long}
    assert costs["Best of two"] == costs["Ours"] != costs["No defense"]


def test_repeats_are_averaged_and_counted(tmp_path):
    text = measured(small_table(), tmp_path, repeats=3).markdown()
    assert (
        "| Ours | 100.0 [100.0, 100.0] | 100.0 [100.0, 100.0] | 0.0 [0.0, 0.0] | 92.5 / 90.8 / 0.9 | 1 | 3 | 24 |"
        in text
    )


def test_a_table_says_what_is_not_measured(tmp_path):
    table = small_table()
    cells = cells_of(table, SMOKE)
    assert "No records yet" in fill_table("table2", table, cells, [tmp_path]).markdown()
    run_cells(cells[:1], tmp_path, ToyResources(tmp_path).make())
    text = fill_table("table2", table, cells, [tmp_path]).markdown()
    assert "Ours" not in text
    assert "GTSRB" not in text


def test_a_row_that_lacks_cases_is_not_compared_with_the_others(tmp_path):
    column = Column(title="both", cases=(ATTACKED, OTHER))
    table = small_table(columns=(column,))
    cells = cells_of(table, dataclasses.replace(SMOKE, most_cases=None))
    run_cells(
        [cell for cell in cells if cell.variant.defense == "none" or cell.case == ATTACKED],
        tmp_path,
        ToyResources(tmp_path).make(),
    )
    text = fill_table("table2", table, cells, [tmp_path]).markdown()
    assert "| No defense | **50.0** |" in text
    assert "| Ours | 100.0, 1 of 2 attacks |" in text
    assert "best of this method" not in text


def test_seconds_are_those_of_the_hardware_of_most_records(base):
    slow = dataclasses.replace(base.cost, images_per_second=1.0)
    elsewhere = dataclasses.replace(
        base, cost=slow, environment=dataclasses.replace(base.environment, device="toaster")
    )
    costs = costs_of([base, elsewhere, base])
    assert costs.seconds == pytest.approx(1 / base.cost.images_per_second)
    assert costs.hardware.startswith(base.environment.device)


def test_of_several_settings_the_best_is_taken_for_each_case(base, tmp_path):
    variants = tuple(Variant(defense="blur-weak", settings=(("sigma", sigma),)) for sigma in (0.3, 0.6))
    row = Row(label="best", variants=variants)
    records = {
        (ATTACKED, variants[0], 0): variant(base, ca=80),
        (ATTACKED, variants[1], 0): variant(base, ca=90),
        (OTHER, variants[0], 0): variant(base, ca=70),
    }
    summary = summarise(row, [ATTACKED, OTHER], records)
    assert summary.variants == (variants[1], variants[0])
    assert summary.rates["ca"].mean == pytest.approx(0.8)
    assert summarise(row, [Case(dataset="signs")], records) is None


def test_detectors_have_a_table_with_auroc(tmp_path):
    rows = (Row(label="STRIP", variants=(Variant(defense="strip"),)),)
    table = measured(small_table(rows=rows), tmp_path)
    text = table.markdown()
    assert "| AUROC [95 %] | STRIP |" in text
    assert "| CIFAR-10 | 1.000 [1.000, 1.000] |" in text
    assert "| STRIP | 3.0 |" in text
    lines = list(csv.DictReader(io.StringIO(table.csv())))
    assert [(line["column"], line["mean"], line["queries"]) for line in lines] == [
        ("CIFAR-10", "1.0000", "3.0"),
        ("GTSRB", "1.0000", "3.0"),
    ]
    assert all(int(line["peak_mib"]) > 0 for line in lines)


def test_a_detector_that_lacks_attacks_says_so_and_unmeasured_ones_are_left_out(tmp_path):
    rows = (Row(label="STRIP", variants=(Variant(defense="strip"),)),)
    columns = (Column(title="both", cases=(ATTACKED, OTHER)), Column(title="GTSRB", cases=(OTHER,)))
    table = small_table(rows=rows, columns=columns)
    cells = cells_of(table, dataclasses.replace(SMOKE, most_cases=None))
    run_cells([cell for cell in cells if cell.case == ATTACKED], tmp_path, ToyResources(tmp_path).make())
    text = fill_table("detectors", table, cells, [tmp_path]).markdown()
    assert "| both | 1.000 [1.000, 1.000], 1 of 2 attacks |" in text
    assert "GTSRB" not in text


def test_the_leaderboard_ranks_by_the_mean_over_attacks(base, tmp_path):
    def made(attack, defense, ca, **changes):
        one = variant(base, attack=attack, defense=defense, ca=ca, **changes)
        config = {"attack": attack, "architecture": "resnet18", "width": 32}
        return dataclasses.replace(one, victim=dataclasses.replace(one.victim, config=config, digest=attack))

    def on(victim, one):
        return dataclasses.replace(one, victim=dataclasses.replace(one.victim, digest=victim))

    def with_settings(one):
        return dataclasses.replace(one, defense=dataclasses.replace(one.defense, config={"earlier": 1}))

    def shared(one):  # a point of a curve
        return dataclasses.replace(one, cost=dataclasses.replace(one.cost, shared_restorations=True))

    records = [
        *(made("a", "good", 90), made("b", "good", 80), made("a", "poor", 60), made("b", "poor", 50)),
        *(made("a", "partial", 99), made("rare", "good", 10), made("a", "good[x=1]", 100)),
        made("a", "good", 10, created="2020-01-01T00:00:00+00:00"),  # superseded
        with_settings(
            made("b", "good", 20, clean_images=1000, created="2020-01-01T00:00:00+00:00")
        ),  # by another default
        *(on("other", made("b", "good", 10)), on("other", made("b", "partial", 30))),  # fewer met this victim
        on("other", made("b", "poor", 20, created="2020-01-01T00:00:00+00:00")),
        made("b", "third", 40),
        shared(made("b", "third", 90)),
    ]
    (sheet,) = leaderboard(records)
    assert sheet.title == "toy, ResNet-18 of width 32"
    assert sheet.heads == ("defense", "mean", "a", "b", "*rare*", "queries/image", "s/image")
    assert [row[:5] for row in sheet.rows] == [
        ("good", "87.5", "90.0", "**85.0**", "**50.0**"),
        ("poor", "72.5", "75.0", "70.0", "–"),
        ("partial", "–", "**94.5**", "–", "–"),
        ("third", "–", "–", "65.0", "–"),
    ]


def test_old_records_lack_what_was_added_later(base, tmp_path):
    values = dataclasses.asdict(base)
    for name in ("passes_mean", "peak_memory", "memory_scope", "queries_median_clean", "shared_restorations"):
        del values["cost"][name]
    del values["environment"]["accelerator"]
    record = decode(Record, json.loads(json.dumps(values)))
    cell_records(tmp_path).append(record)
    assert record.cost.peak_memory is None
    assert read_folders([tmp_path]) == [record]
    costs = costs_of([record, base])
    assert costs.passes is None
    assert costs.peak_memory == base.cost.peak_memory
    with pytest.raises(DataError, match="contains no records"):
        read_folders([tmp_path / "empty"])
