"""All settings of the method, composed of the settings of its stages."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from typing import Any

from maskrestore.defense.beyond_paper.all_to_all import AllToAllConfig
from maskrestore.defense.beyond_paper.fragile import FragileConfig
from maskrestore.defense.beyond_paper.group_testing import GroupTestingConfig
from maskrestore.defense.beyond_paper.moved import MovedConfig
from maskrestore.defense.beyond_paper.necessity import NecessityConfig
from maskrestore.defense.beyond_paper.photographs import PhotographsConfig
from maskrestore.defense.beyond_paper.scattered import ScatteredConfig
from maskrestore.defense.beyond_paper.squares import SquaresConfig
from maskrestore.defense.beyond_paper.transfer import TransferTestConfig
from maskrestore.defense.beyond_paper.whole_image import WholeImageConfig
from maskrestore.defense.refinement import RefinementConfig
from maskrestore.defense.restoration import RestorationConfig
from maskrestore.defense.scores import MaskConfig, ScoreConfig
from maskrestore.errors import ConfigError, UnknownNameError
from maskrestore.runtime.digests import digest_of_json
from maskrestore.runtime.settings import check, check_types, plain, stage_type

__all__ = ["LAST_STAGES", "SCHEMA", "BDMAEConfig"]

LAST_STAGES = ("squares", "scattered", "all_to_all", "necessity", "moved", "whole_image", "fragile")
"""Stages that use the queries that are left: each has a ``query_limit``."""
SCHEMA = 1
"""Version of the format of :meth:`BDMAEConfig.to_dict`. It is increased when a setting changes its meaning."""


@dataclass(frozen=True, kw_only=True)
class BDMAEConfig:
    """Settings of :class:`maskrestore.BDMAE`, one configuration per stage; ``None`` switches an optional stage off.

    The defaults of all fields are the profile ``paper``. To change another profile, use
    ``with_settings(PROFILES["default"], {"scores.label_weight": 0.6})``. Raises ConfigError.
    """

    masks: MaskConfig = field(default_factory=MaskConfig)
    """The random masks (4.2)."""
    scores: ScoreConfig = field(default_factory=ScoreConfig)
    """S_i and S_l (4.2), and how they are combined (4.4)."""
    refinement: RefinementConfig | None = field(default_factory=RefinementConfig)
    """Topology-aware refinement (4.3)."""
    restoration: RestorationConfig = field(default_factory=RestorationConfig)
    """Adaptive restoration (4.4)."""
    transfer_test: TransferTestConfig | None = None
    """Not in the paper: a restoration is accepted only if it changes the label and the region that it replaces also
    decides the label of other pictures. Otherwise the image is left unchanged."""
    all_to_all: AllToAllConfig | None = None
    """Not in the paper: a restoration that failed the transfer test is accepted if its region changes the label of all
    pictures. It takes the place of the comparison of the transfer test. Not for photographs."""
    necessity: NecessityConfig | None = None
    """Not in the paper: a restoration that passed the transfer test is given up if the image keeps its label without
    the region, or with the region shown coarsely. Not for photographs."""
    photographs: PhotographsConfig | None = None
    """Not in the paper: what is different for images of more than 64 x 64 pixels. Without it they are not filtered."""
    moved: MovedConfig | None = None
    """Not in the paper: if nothing was accepted yet, look whether mirrored and shifted copies have another label. Not
    for photographs."""
    squares: SquaresConfig | None = None
    """Not in the paper: if nothing was accepted yet, hide whole squares. After group testing also squares
    of photographs before the masks, if a blur of the whole changes the label."""
    scattered: ScatteredConfig | None = None
    """Not in the paper: if nothing was accepted yet, restore the tokens that keep the label. For photographs only."""
    whole_image: WholeImageConfig | None = None
    """Not in the paper: if nothing was accepted yet, filter the whole image. Also filters squares, where that is better
    than to restore them."""
    fragile: FragileConfig | None = None
    """Not in the paper: if nothing was accepted yet, look whether the label breaks under small changes. Not for
    photographs."""
    group_testing: GroupTestingConfig | None = None
    """Not in the paper: hide windows first. An image that this settles needs no random masks."""

    def __post_init__(self) -> None:
        check_types(self)
        attempts, tested = self.restoration.attempts, self.transfer_test is not None
        single = tested or len(attempts) == 1
        check(single, "restoration.attempts", "a single one if there is no transfer test to choose", attempts)
        for name in ("squares", "scattered", "all_to_all", "necessity"):
            value = getattr(self, name)
            check(tested or value is None, name, "None without the transfer test", value)

    @property
    def max_queries(self) -> int:
        """The most queries for an image: those of the first stages, or the highest ``query_limit`` of a last one."""
        if self.restoration.single_query:
            return 1
        queries = 1 + self.masks.max_queries + self.restoration.max_queries
        if self.refinement is not None:
            queries += self.refinement.max_queries
        if self.transfer_test is not None:
            queries += self.transfer_test.max_queries(len(self.restoration.attempts))
        if self.group_testing is not None:
            # An image gets masks only if what is left is enough for them, whatever was asked before.
            left_open = self.group_testing.max_queries_left_open - 1
            queries = max(self.group_testing.max_queries, left_open + queries)
        groups = self.groups_of_photographs
        if groups is not None:
            queries = max(queries, groups.max_queries)  # masks only as above
        last = (getattr(self, name) for name in LAST_STAGES)
        limits: list[int] = [stage.query_limit for stage in last if stage is not None]
        return max([queries, *limits])

    @property
    def queries_of_one_attempt(self) -> int:
        """The most queries for the random masks, refinement, and one attempt."""
        steps = 0 if self.refinement is None else self.refinement.max_queries
        tests = 0 if self.transfer_test is None else self.transfer_test.max_queries(1)
        return self.masks.max_queries + steps + 1 + tests

    def in_force(self, *, photographs: bool) -> BDMAEConfig:
        """The settings without the stages that do nothing for photographs, or for small images."""
        test = self.transfer_test
        if photographs:
            if test is not None and self.groups_of_photographs is not None:
                test = replace(test, comparison=False)
            filters = self._filters_of_photographs
            return replace(
                self,
                transfer_test=test,
                all_to_all=None,
                necessity=None,
                moved=None,
                whole_image=filters,
                fragile=None,
            )
        if test is not None and self.all_to_all is not None:
            test = replace(test, comparison=False)
        return replace(self, photographs=None, scattered=None, transfer_test=test)

    @property
    def groups_of_photographs(self) -> GroupTestingConfig | None:
        """Group testing before the masks, for photographs only."""
        grids = None if self.photographs is None else self.photographs.group_grids
        return None if grids is None or self.group_testing is not None else GroupTestingConfig(cloud_grids=grids)

    @property
    def _filters_of_photographs(self) -> WholeImageConfig | None:
        large, filters = self.photographs, self.whole_image
        if large is None or filters is None:
            return None
        return replace(filters, filters=large.filters, cloud_grids=large.filter_grids, together=())

    def to_dict(self) -> dict[str, Any]:
        """The settings as plain JSON types. Stages that are off are left out, so a new stage changes no old digest."""
        return {"schema": SCHEMA, **plain(self)}

    def digest(self) -> str:
        """Sixteen hex digits that identify the settings."""
        return digest_of_json(self.to_dict())

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> BDMAEConfig:
        """The inverse of :meth:`to_dict`. Raises ConfigError for another schema, UnknownNameError for unknown names."""
        if values.get("schema") != SCHEMA:
            raise ConfigError(f"expected settings of schema {SCHEMA}, got schema {values.get('schema')!r}")
        stages = {one.name: stage_type(cls, one.name) for one in fields(cls)}
        found: dict[str, Any] = dict.fromkeys(stages)
        for name, content in values.items():
            if name == "schema":
                continue
            stage = stages.get(name)
            if stage is None:
                raise UnknownNameError("stage", name, stages)
            known = {one.name for one in fields(stage)}
            for setting in content.keys() - known:
                raise UnknownNameError("setting", f"{name}.{setting}", known)
            found[name] = stage(
                **{key: tuple(item) if isinstance(item, list) else item for key, item in content.items()}
            )
        return cls(**found)
