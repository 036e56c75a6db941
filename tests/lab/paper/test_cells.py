import dataclasses

import pytest

from maskrestore.errors import ConfigError, UnknownNameError
from maskrestore.lab.attacks import make_attack
from maskrestore.lab.data import dataset_spec
from maskrestore.lab.measure.defenses import DEFENSES
from maskrestore.lab.measure.record_files import read_records
from maskrestore.lab.paper.catalogue import EXPERIMENTS
from maskrestore.lab.paper.cells import Case, Cell, Variant, expand
from maskrestore.lab.paper.layouts import Curves, Pictures, Table
from maskrestore.lab.paper.published import PAPER, paper_rates
from maskrestore.lab.paper.scales import (
    SCALES,
    SPEEDS,
    cells_of,
    estimated_seconds,
    experiment,
    measured_speeds,
    scale_of,
)
from maskrestore.lab.runner.run_cells import run_cells
from maskrestore.lab.victims import VictimConfig
from toy_resources import ToyResources

LOCAL = SCALES["local"]
CASE = Case(dataset="cifar10", attack="badnets:3x3-color")


def cell(case=CASE, defense="blur-weak", scale=LOCAL, repeat=0, **settings):
    return Cell(
        case=case, variant=Variant(defense=defense, settings=tuple(settings.items())), scale=scale, repeat=repeat
    )


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_cell_can_be_built(name, scale):
    cells = cells_of(experiment(name), scale_of(scale), repeats=1)
    # Names differ where anything does; settings that are the defaults anyway are no difference.
    asked = {(one.case, one.variant.defense, repr(one.config), one.repeat) for one in cells}
    assert len({one.name for one in cells}) == len(asked)
    for one in cells:
        assert one.victim.digest()
        assert one.config is not None
    for case in {one.case for one in cells}:
        size = dataset_spec(case.dataset).image_size
        assert make_attack(case.attack, num_classes=10, image_size=size, mode=case.mode).name == case.attack


def test_all_tables_and_figures_of_the_paper_are_there():
    names = {f"table{n}" for n in ("1", "2", "3", *(f"A{m}" for m in range(1, 9)))}
    names |= {f"fig{n}" for n in ("3", "4", "5", *(f"A{m}" for m in range(1, 7)))} | {"all-to-all"}
    assert names <= EXPERIMENTS.keys()


def test_photographs_have_their_own_victims_and_a_stand_in():
    sets = {name: {one.case.dataset for one in cells_of(EXPERIMENTS[f"tableA{name}"], LOCAL)} for name in range(5, 9)}
    assert sets == {
        5: {"vggface2-170", "lfw62"},
        6: {"imagenet10", "imagenette"},
        7: {"imagenet50"},
        8: {"imagenet100"},
    }
    cells = cells_of(EXPERIMENTS["tableA6"], LOCAL)
    networks = {(one.victim.dataset, one.victim.architecture) for one in cells}
    assert networks == {("imagenet10", "resnet50-pretrained"), ("imagenette", "efficientnet-lite0")}
    frozen = {(one.case.attack, one.victim.training.frozen_blocks) for one in cells if one.case.dataset == "imagenette"}
    assert ("badnets:3x3-color", 0) in frozen
    assert ("badnets:icon-heart", 8) in frozen
    assert {one.repeat for one in cells_of(EXPERIMENTS["tableA7"], SCALES["full"])} == set(range(6))
    assert paper_rates("tableA8", "Ours (Large)", "3x3-color") == (69.5, 76.6, 0.2)
    assert all(one.case.label.startswith(f"{one.case.dataset} badnets:") for one in cells)
    assert all("efficientnet" not in one.case.label for one in cells)


def test_local_is_what_fits_two_cores():
    cells = cells_of(EXPERIMENTS["table2"], LOCAL)
    large = [one for one in cells if dataset_spec(one.case.dataset).photographs]
    assert {one.count for one in large} == {200, 300}
    cells = [one for one in cells if one not in large]
    assert {one.victim.width for one in cells} == {32}
    assert {one.victim.init for one in cells} == {"clean"}
    counts = {one.variant.defense: one.count for one in cells}
    assert counts["bdmae"] == counts["blur-weak"] == 500
    assert counts["patchcleanser"] == 200
    # Tables share cells.
    shared = {one.name for one in cells} & {one.name for one in cells_of(EXPERIMENTS["tableA3"], LOCAL)}
    assert len(shared) > 60


def test_full_is_the_size_of_the_paper():
    cells = cells_of(EXPERIMENTS["table2"], SCALES["full"])
    assert {one.repeat for one in cells} == set(range(14))
    assert {(one.count, one.victim.width, one.victim.init) for one in cells} == {(None, 64, "scratch")}
    assert len({one.victim.target for one in cells if one.case.dataset == "cifar10"}) == 10
    assert {one.count for one in cells_of(EXPERIMENTS["table1"], SCALES["full"])} == {500}


def test_repeat_zero_is_the_victim_that_train_victim_makes():
    assert cell().victim == VictimConfig(dataset="cifar10", width=32, attack="badnets:3x3-color")
    second = cell(repeat=1).victim
    assert (second.seed, second.target) == (1, 3)
    clean = cell(Case(dataset="cifar10", attack="corners", clean_victim=True))
    assert clean.victim == cell(Case(dataset="cifar10", attack="corners")).victim.clean()
    assert clean.poisoned.attack == "corners"


def test_an_attack_that_a_fine_tune_does_not_learn_is_trained_from_scratch():
    victim = cell(dataclasses.replace(CASE, from_scratch=True)).victim
    assert (victim.init, victim.fine_tuned, victim.poisoning.repeats) == ("scratch", False, 1)
    assert cell().victim.poisoning.repeats == 3


def test_a_cell_is_known_by_everything_that_was_asked_for():
    others = [
        cell(repeat=1),
        cell(defense="blur-strong"),
        cell(sigma=0.7),
        cell(scale=dataclasses.replace(LOCAL, images=100)),
        cell(scale=dataclasses.replace(LOCAL, width=16)),
        cell(Case(dataset="gtsrb", attack="badnets:3x3-color")),
        cell(dataclasses.replace(CASE, mode="all-to-all")),
        cell(dataclasses.replace(CASE, clean_victim=True)),
        cell(dataclasses.replace(CASE, restored_rate=0.5)),
        cell(dataclasses.replace(CASE, augmented_trigger=True)),
        dataclasses.replace(cell(), restorer="another"),
    ]
    assert len({one.name for one in [cell(), *others]}) == len(others) + 1
    assert cell().name == cell().name
    assert cell().name.startswith("cifar10_badnets-3x3-color_resnet18-w32_blur-weak_r0_")


def test_digests_of_cells_stay_what_they_were():
    # They are the names of records that exist: a change here orphans all of them.
    digests = {
        "none": "da641a5737aba0b7",
        "februus-gradcam++": "6d43da534842e0bc",
        "patchcleanser": "28436f46b6bcb971",
        "lite-bd": "c7b6166c0ef21058",
        "strip": "ebb3f1ecf9a594d2",
        "diffpure-ddpm": "541a7af2f303767c",
    }
    case = Case(dataset="cifar10", attack="badnets:1x1-color")
    cells = {name: cell(case, name, **({"threshold": 0.6} if "februus" in name else {})) for name in digests}
    assert {name: one.digest for name, one in cells.items()} == digests


def test_the_weights_of_a_diffusion_model_make_other_cells_of_its_defenses_only():
    for name in ("diffpure-ddpm", "diffpure-sde", "zip", "sampdetox"):
        with_models = [dataclasses.replace(cell(defense=name), diffusion=model) for model in (None, "a", "b")]
        assert len({one.digest for one in with_models}) == 3
    for name in ("none", "bdmae", "blur-weak", "strip"):
        assert dataclasses.replace(cell(defense=name), diffusion="a").digest == cell(defense=name).digest


def test_settings_that_are_the_defaults_make_no_other_cell():
    assert cell(defense="bdmae-paper", **{"masks.rounds": 5}).name == cell(defense="bdmae-paper").name


def test_unknown_names_list_the_known_ones():
    with pytest.raises(UnknownNameError, match="table2"):
        experiment("table9")
    with pytest.raises(UnknownNameError, match="full, local, smoke"):
        scale_of("huge")
    with pytest.raises(UnknownNameError, match="padding"):
        Variant(defense="shrinkpad-weak", settings=(("colour", 1),)).config()
    with pytest.raises(ConfigError, match="at least 1"):
        expand([(CASE, Variant(defense="none"))], LOCAL, repeats=0)


def test_februus_looks_at_a_layer_that_the_network_has():
    from maskrestore.lab.baselines.gradcam import target_layer
    from maskrestore.lab.victims import ARCHITECTURES

    for name in ("resnet18", "resnet50", "vgg16", "conv6", "vit-small"):
        layer = Variant(defense="februus-xgradcam").config(name).layer
        assert target_layer(ARCHITECTURES[name](10, width=4), layer) is not None
    chosen = {
        (case.architecture, variant.config(case.architecture).layer)
        for grid in EXPERIMENTS.values()
        for case, variant in grid.entries()
        if "layer" in dict(variant.settings)
    }
    # Networks without stages have the last feature map only.
    assert chosen == {("resnet18", "stages.3"), ("efficientnet-lite0", None)}
    assert target_layer(ARCHITECTURES["resnet18"](10, width=4), "stages.3") is not None


def test_cells_of_a_victim_come_together_and_once():
    entries = [(CASE, Variant(defense="none")), (Case(dataset="gtsrb"), Variant(defense="none"))]
    cells = expand([*entries, (CASE, Variant(defense="bdmae")), entries[0]], LOCAL, repeats=2)
    assert [(one.repeat, one.case.dataset, one.variant.defense) for one in cells] == [
        *((0, "cifar10", "none"), (0, "cifar10", "bdmae"), (0, "gtsrb", "none")),
        *((1, "cifar10", "none"), (1, "cifar10", "bdmae"), (1, "gtsrb", "none")),
    ]
    assert estimated_seconds(cells[:2]) == pytest.approx(2 * 1000 / 300 + 2 * 1000 / SPEEDS["bdmae"])  # of one core


def test_points_of_a_curve_are_reckoned_to_share_their_work():
    alone, shared = (
        cell(defense="bdmae"),
        cell(defense="bdmae", scale=dataclasses.replace(LOCAL, shares_restorations=True)),
    )
    assert estimated_seconds([shared]) < estimated_seconds([alone]) / 2


def test_every_schedule_of_the_method_has_an_estimate():
    assert {name for name in DEFENSES if name.startswith("bdmae")} <= SPEEDS.keys()


def test_estimates_prefer_what_this_hardware_has_shown(tmp_path):
    wanted = [cell(defense="bdmae"), cell(defense="blur-weak")]
    run_cells([cell(scale=SCALES["smoke"])], tmp_path, ToyResources(tmp_path).make())
    (record,) = read_records(tmp_path)
    here = record.environment
    slow = dataclasses.replace(record, cost=dataclasses.replace(record.cost, seconds=record.cost.seconds + 16))
    elsewhere = dataclasses.replace(slow, environment=dataclasses.replace(here, device="another processor"))
    speeds = measured_speeds([record, slow, elsewhere], here)
    assert speeds == {"blur-weak": pytest.approx(here.threads * (record.cost.seconds / 8 + 1))}
    spread = dataclasses.replace(record, environment=dataclasses.replace(here, threads=7))
    assert measured_speeds([spread], here) == {"blur-weak": pytest.approx(7 * record.cost.seconds / 8)}
    assert estimated_seconds(wanted, speeds) == pytest.approx(2 * 1000 / SPEEDS["bdmae"] + 1000 * speeds["blur-weak"])
    accelerated = dataclasses.replace(here, accelerator="a card")
    assert measured_speeds([record], accelerated) == {}


@pytest.mark.parametrize(("detailed", "column"), [("tableA3", "CIFAR-10"), ("tableA4", "GTSRB")])
def test_the_papers_means_are_those_of_its_details(detailed, column):
    # Table 2 averages tables A.3 and A.4: a slip of the pen in one of them would show.
    compared = 0
    for row, means in PAPER["table2"].items():
        columns = PAPER[detailed].get(row, {})
        if len(columns) == 6:
            compared += 1
            for position in range(3):
                mean = sum(rates[position] for rates in columns.values()) / 6
                assert mean == pytest.approx(means[column][position], abs=0.08), (row, position)
    assert compared == 9


def test_rows_and_columns_lead_to_the_papers_figures():
    for name, table in EXPERIMENTS.items():
        if name not in PAPER or not isinstance(table, Table):
            continue
        titles = {column.title for column in table.columns}
        for columns in PAPER[name].values():
            assert columns.keys() <= titles, name
        for row in table.rows:
            assert row.paper is None or row.paper in PAPER[name] or name in ("tableA4", "all-to-all"), (name, row)
    assert paper_rates("table2", "Ours (Base)", "GTSRB") == (98.2, 95.3, 0.9)
    assert paper_rates("table2", "Ours (Base)", "nowhere") is None
    assert paper_rates("global", None, "wanet") is None


def test_shapes_of_all_experiments():
    for name, one in EXPERIMENTS.items():
        assert isinstance(one, Table | Curves | Pictures), name
        if isinstance(one, Table) and one.bars:
            assert len(one.columns) == 1
        if isinstance(one, Curves):
            assert all(len(panel.lines) <= 8 for panel in one.panels), name
    assert all(variant.defense in DEFENSES or variant.detects for _, variant in EXPERIMENTS["table2"].entries())


def test_victims_of_a_scale_with_epochs_train_no_longer():
    short, long = (cell(scale=dataclasses.replace(LOCAL, epochs=epochs)) for epochs in (0.2, None))
    assert short.victim.training.epochs == short.poisoned.training.epochs == 0.2
    assert long.victim == VictimConfig(dataset="cifar10", attack="badnets:3x3-color", width=32)
