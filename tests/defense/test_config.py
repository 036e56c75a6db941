"""Settings: checked, composed, named by a digest that a new stage does not change."""

import dataclasses

import pytest

from maskrestore import PROFILES, BDMAEConfig, with_settings
from maskrestore.defense.config import LAST_STAGES
from maskrestore.defense.refinement import RefinementConfig
from maskrestore.errors import ConfigError
from maskrestore.runtime.settings import differences


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("masks.rounds", 0), ("masks.rounds", 2.5), ("masks.rounds", "5"), ("masks.rounds", True),
        ("masks.per_round", 1), ("masks.hidden_ratio", 1.0), ("masks.asked", 1.5), ("masks.asked", 26),
        ("scores.ssim_window", 10), ("scores.ssim_sigma", 0.0), ("scores.label_score", "logit"),
        ("scores.label_weight", 1.5), ("scores.contrast_windows", ()), ("scores.contrast_windows", (0,)),
        ("refinement.steps", 0), ("refinement.neighbour_bonus", -0.1), ("refinement.rate", -0.1),
        ("refinement.candidate_threshold", float("nan")),
        ("restoration.thresholds", (0.4, 0.5)), ("restoration.thresholds", ()), ("restoration.thresholds", 0.5),
        ("restoration.max_restored", 0.0), ("restoration.threshold_step", 0.0),
        ("restoration.threshold_step", float("inf")), ("restoration.attempts", ()),
        ("restoration.attempts", (-0.1,)), ("restoration.attempts", (0.0, 0.1)),
        ("transfer_test.cloud_grids", ()), ("transfer_test.cloud_grids", (0, 4)), ("transfer_test.enough_clouds", 0),
        ("group_testing.cloud_grids", ()), ("squares", RefinementConfig()), ("masks", None),
    ],
)  # fmt: skip
def test_settings_outside_their_range_are_refused_by_name(name: str, value: object) -> None:
    with pytest.raises(ConfigError, match=name.rpartition(".")[2]):
        with_settings(BDMAEConfig(), {name: value})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("squares.count", 0), ("squares.side", 0.0), ("squares.label_weight", 1.1), ("squares.query_limit", 0),
        ("squares.cloud_grids", ()), ("squares.threshold", float("nan")),
    ],
)  # fmt: skip
def test_squares_outside_their_range_are_refused_by_name(name: str, value: object) -> None:
    with pytest.raises(ConfigError, match=name):
        with_settings(PROFILES["default"], {name: value})


def test_squares_need_the_transfer_test() -> None:
    with pytest.raises(ConfigError, match="squares must be None without the transfer test"):
        with_settings(BDMAEConfig(), {"squares.count": 1})


@pytest.mark.parametrize("name", ["rounds", "masks.round", "masks.rounds.x", "refinement.x"])
def test_a_setting_that_does_not_exist_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=r"unknown setting|no settings of its own"):
        with_settings(BDMAEConfig(), {name: 1})


def test_setting_a_stage_that_is_off_switches_it_on() -> None:
    config = with_settings(PROFILES["default"], {"refinement.steps": 3})
    assert config.refinement == RefinementConfig(steps=3)
    assert with_settings(config, {"refinement": None}) == PROFILES["default"]


@pytest.mark.parametrize("name", PROFILES)
def test_a_profile_is_what_its_dictionary_says_and_asks_at_most_47_queries(name: str) -> None:
    config = PROFILES[name]
    assert BDMAEConfig.from_dict(config.to_dict()) == config
    assert config.max_queries <= 47
    assert len({one.digest() for one in PROFILES.values()}) == len(PROFILES)


def test_a_new_stage_that_is_off_changes_no_digest() -> None:
    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Later(BDMAEConfig):
        second_look: RefinementConfig | None = None

    globals()["RefinementConfig"] = RefinementConfig  # where the annotation of the local class is looked up
    for config in PROFILES.values():
        later = Later(**{field.name: getattr(config, field.name) for field in dataclasses.fields(config)})
        assert later.digest() == config.digest()
        assert dataclasses.replace(later, second_look=RefinementConfig()).digest() != config.digest()


def test_a_stage_that_is_off_is_not_in_the_dictionary() -> None:
    assert PROFILES["default"].to_dict()["schema"] == 1
    assert {"refinement", "group_testing"}.isdisjoint(PROFILES["default"].to_dict())
    assert PROFILES["paper"].to_dict()["refinement"] == {
        "steps": 10,
        "candidate_threshold": 0.2,
        "neighbour_bonus": 0.5,
        "rate": 0.05,
    }


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "schema"),
        ({"schema": 2}, "schema"),
        ({"schema": 1, "x": {}}, "stage"),
        ({"schema": 1, "masks": {"x": 1}}, "masks.x"),
    ],
)
def test_a_dictionary_of_other_settings_is_refused(values: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        BDMAEConfig.from_dict(values)


def test_differences_are_named_with_dots() -> None:
    paper = PROFILES["paper"]
    assert differences(paper, paper) == {}
    changed = with_settings(paper, {"scores.label_weight": 1.0, "refinement": None})
    assert differences(paper, changed) == {"scores.label_weight": 1.0, "refinement": None}
    assert with_settings(paper, differences(paper, changed)) == changed
    assert differences(paper, with_settings(paper, {"transfer_test.comparison": False})) == {
        "transfer_test.comparison": False
    }


def test_stages_for_photographs_or_for_small_images_only_are_left_out_for_others() -> None:
    default = PROFILES["default"]
    small, large = default.in_force(photographs=False), default.in_force(photographs=True)
    assert small == with_settings(default, {"photographs": None, "scattered": None, "transfer_test.comparison": False})
    assert default.photographs is not None
    filters = {
        "whole_image.filters": default.photographs.filters,
        "whole_image.cloud_grids": default.photographs.filter_grids,
    }
    without = dict.fromkeys(("all_to_all", "necessity", "moved", "fragile"))
    assert large == with_settings(default, {**without, **filters, "transfer_test.comparison": False})
    masks_first = with_settings(default, {"photographs.group_grids": None})
    assert masks_first.in_force(photographs=True) == with_settings(masks_first, {**without, **filters})
    assert PROFILES["fast"].in_force(photographs=True).whole_image == large.whole_image
    assert with_settings(default, {"photographs": None}).in_force(photographs=True).whole_image is None


@pytest.mark.parametrize("name", LAST_STAGES)
def test_the_bound_of_the_queries_is_the_highest_limit_of_a_last_stage(name: str) -> None:
    default = with_settings(PROFILES["default"], {"transfer_test.comparison": False})
    assert with_settings(default, dict.fromkeys(LAST_STAGES)).max_queries == 34
    assert with_settings(default, {f"{one}.query_limit": 20 for one in LAST_STAGES}).max_queries == 34
    assert with_settings(default, {f"{name}.query_limit": 100}).max_queries == 100


@pytest.mark.parametrize("order", [1, -1])
def test_stages_that_need_each_other_are_switched_off_in_any_order(order: int) -> None:
    names = ("transfer_test", "squares", "scattered", "all_to_all", "necessity")[::order]
    off = {"restoration.attempts": (0.0,), **dict.fromkeys(names)}
    assert with_settings(PROFILES["default"], off).transfer_test is None
