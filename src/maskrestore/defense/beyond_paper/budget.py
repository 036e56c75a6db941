"""Settings with fewer queries: :func:`fast` adds group testing, :func:`within` keeps to a limit for each image.

Both return ordinary settings. Neither is applied by default. Departure: not in the paper.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import replace

from maskrestore.defense.beyond_paper.group_testing import GroupTestingConfig
from maskrestore.defense.config import LAST_STAGES, BDMAEConfig
from maskrestore.errors import ConfigError
from maskrestore.runtime.settings import with_settings

__all__ = ["MOST_QUERIES", "fast", "scheduled", "within"]

MOST_QUERIES = 47
"""The most queries for an image of any profile: 1 + 25 + 20 + 1, as in the paper."""

_TOGETHER = ("mirrored+periodic+slow", "noise+fine+marks")
"""The pictures of ``fast``: most clean images of CIFAR-10 keep their label in both. Others cost more or find less
(``docs/lab-notes/whole-image.md``)."""


def fast(config: BDMAEConfig) -> BDMAEConfig:
    """Add group testing as the first stage. It settles most images with far fewer queries.

    The other images are purified as ``config`` says, but without the comparison of the transfer test, and with at most
    as many refinement steps as fit into 47 queries in all. Before the masks, two pictures tell which filters, noise or
    moved copies are worth a query; a photograph is blurred instead. Images are masked only if that leaves enough
    queries. If group testing settles an image, its maps hold the share of windows that changed its label.
    """
    test = config.transfer_test
    groups = GroupTestingConfig() if test is None else GroupTestingConfig(cloud_grids=test.cloud_grids)
    quick = replace(
        config,
        group_testing=groups,
        photographs=_without_groups(config).photographs,
        transfer_test=None if test is None else replace(test, comparison=False),
        whole_image=None if config.whole_image is None else replace(config.whole_image, together=_TOGETHER),
    )
    if config.refinement is None:
        return quick
    spent = _without_last(replace(quick, refinement=None)).max_queries
    return _with_steps(quick, min(config.refinement.steps, max(0, (MOST_QUERIES - spent) // 2)))


def scheduled(config: BDMAEConfig, schedule: str | None) -> BDMAEConfig:
    """The settings of the deprecated argument ``schedule``: ``fast`` adds group testing, ``exact`` changes nothing.

    Raises ConfigError for other values.
    """
    if schedule not in ("exact", "fast", None):
        raise ConfigError(f"schedule must be one of exact, fast, got {schedule!r}")
    return fast(config) if schedule == "fast" else config


def within(config: BDMAEConfig, queries: int) -> BDMAEConfig:
    """Reduce the settings to at most ``queries`` queries for an image. Raises ConfigError below 1.

    Squares, moved copies, filters of the whole image and the look for fragile triggers use the queries that are left.
    Otherwise the least useful queries are dropped first: group testing before the masks of photographs, the comparison
    of the transfer test, steps of refinement, all attempts but the first, then queries of random masks. If not even one
    round of masks fits beside group testing, group testing is dropped and the reduction starts again without it. If
    less than one round of masks fits, no mask is queried, and S_i alone decides what is restored, in the attempt with
    the lowest thresholds if two or more clouds can test it. A single query is used for the restored image.
    """
    if queries < 1:
        raise ConfigError(f"max_queries must be at least 1, got {queries}")
    smaller = config
    for name in LAST_STAGES:
        stage = getattr(config, name)
        if stage is not None:
            limited = replace(stage, query_limit=min(queries, stage.query_limit))
            smaller = replace(smaller, **{name: limited})
    steps = 0 if config.refinement is None else config.refinement.steps
    fewer_steps = [functools.partial(_with_steps, steps=left) for left in range(steps, -1, -1)]
    savings: list[Callable[[BDMAEConfig], BDMAEConfig]] = [
        _without_groups,
        _without_comparison,
        *fewer_steps,
        _with_first_attempt,
    ]
    for save in savings:
        if smaller.max_queries <= queries:
            return smaller
        smaller = save(smaller)
    if smaller.max_queries <= queries:
        return smaller
    asked = smaller.masks.max_queries - max(0, smaller.max_queries - queries)
    if asked >= config.masks.per_round:
        fewer = replace(smaller, masks=replace(config.masks, asked=asked))
        if fewer.max_queries <= queries:  # the queries of group testing itself do not depend on the masks
            return fewer
    if config.group_testing is not None:
        return within(replace(config, group_testing=None), queries)
    return _without_masks(config, smaller, queries)


def _without_last(config: BDMAEConfig) -> BDMAEConfig:
    return with_settings(config, dict.fromkeys(LAST_STAGES))


def _without_groups(config: BDMAEConfig) -> BDMAEConfig:
    large = config.photographs
    return config if large is None else replace(config, photographs=replace(large, group_grids=None))


def _without_comparison(config: BDMAEConfig) -> BDMAEConfig:
    test = config.transfer_test
    return config if test is None else replace(config, transfer_test=replace(test, comparison=False))


def _with_steps(config: BDMAEConfig, steps: int) -> BDMAEConfig:
    refinement = config.refinement
    if refinement is None or steps == 0:
        return replace(config, refinement=None)
    return replace(config, refinement=replace(refinement, steps=steps))


def _with_first_attempt(config: BDMAEConfig) -> BDMAEConfig:
    return replace(config, restoration=replace(config.restoration, attempts=config.restoration.attempts[:1]))


def _without_masks(config: BDMAEConfig, smaller: BDMAEConfig, queries: int) -> BDMAEConfig:
    """The best settings without queries of masks. smaller: ``config`` after all other reductions."""
    unasked = _without_last(replace(smaller, masks=replace(smaller.masks, asked=0)))
    test, attempts = config.transfer_test, config.restoration.attempts
    if test is None and unasked.max_queries <= queries:
        return unasked
    if test is not None:
        first, boldest = attempts[:1], (max(attempts),)
        # Two clouds or more keep most clean images unchanged in the attempt with the lowest thresholds.
        for tried, clouds in ((attempts, test.clouds), (boldest, test.clouds), (boldest, 2), (first, 1)):
            # An attempt with lower thresholds than the first needs all clouds.
            enough = test.enough_clouds if tried[0] == first[0] else test.clouds
            tested = replace(test, cloud_grids=test.cloud_grids[:clouds], enough_clouds=enough, comparison=False)
            restoration = replace(config.restoration, attempts=tried)
            fewer = replace(unasked, restoration=restoration, transfer_test=tested)
            if fewer.max_queries <= queries:
                return fewer
    restoration = replace(unasked.restoration, single_query=queries == 1)
    return replace(unasked, transfer_test=None, restoration=restoration)
