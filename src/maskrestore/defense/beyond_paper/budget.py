"""The same method with fewer passes and queries: explicit schedules, never taken silently.

``exact`` does every pass that the profile asks for; :func:`fast` settles most images by group testing; :func:`within`
gives the best answer for a number of queries. Both return an ordinary configuration. Departure: neither
is in the paper.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

from maskrestore.defense.config import MOST_QUERIES, PROFILES, BDMAEConfig
from maskrestore.errors import ConfigError

__all__ = ["SCHEDULES", "Schedule", "fast", "scheduled", "within"]

Schedule = Literal["exact", "fast"]
SCHEDULES: tuple[Schedule, ...] = ("exact", "fast")


def scheduled(config: BDMAEConfig, schedule: Schedule = "exact", max_queries: int | None = None) -> BDMAEConfig:
    """Put a configuration on a schedule, within so many queries for each image.

    Raises ConfigError for another schedule, or for less than one query.
    """
    if schedule not in SCHEDULES:
        raise ConfigError(f"schedule must be one of {', '.join(SCHEDULES)}, got {schedule!r}")
    chosen = fast(config) if schedule == "fast" else config
    return chosen if max_queries is None else within(chosen, max_queries)


def fast(config: BDMAEConfig = PROFILES["default"]) -> BDMAEConfig:
    """Return the configuration with a sweep first, see ``sweep.py``: it settles most images with far fewer queries.

    What the sweep leaves open goes the configuration's own way, without a comparison and with as many steps of
    refinement as 47 queries in all allow. Triggers with a target for each class (all-to-all) are not looked for. The
    maps of an image that the sweep settles are all zero: it has no scores.
    """
    swept = replace(config, sweep=True, comparison=False)
    steps = max(0, (MOST_QUERIES - replace(swept, refinement_steps=0, squares=0).max_queries) // 2)
    return replace(swept, refinement_steps=min(steps, config.refinement_steps))


def within(config: BDMAEConfig, queries: int) -> BDMAEConfig:
    """Return the configuration that makes the most of at most ``queries`` queries for an image.

    Squares take what is left. What brings least is given up first: the comparison of the transfer test, refinement, all
    attempts but the first, then votes. A sweep, which settles most images for few queries, goes when not even a round
    of votes fits beside it; the rest is then as without one. With less than a round of votes nobody is asked about
    masks, and S_i alone says what to restore, in the boldest attempt where two clouds can vet it; with a single query
    the restored image is all that is asked about. Raises ConfigError for less than one query.
    """
    if queries < 1:
        raise ConfigError(f"max_queries must be at least 1, got {queries}")
    refinement: list[dict[str, Any]] = [{"refinement_steps": steps} for steps in range(config.refinement_steps, -1, -1)]
    first, boldest = config.attempts[:1], (max(config.attempts),)
    smaller = replace(config, square_limit=min(queries, config.square_limit)) if config.squares else config
    for change in ({"comparison": False}, *refinement, {"attempts": first}):
        if smaller.max_queries <= queries:
            return smaller
        smaller = replace(smaller, **change)
    votes = smaller.voting_masks - max(0, smaller.max_queries - queries)
    if votes >= config.masks_per_round:
        fewer = replace(smaller, votes=votes)
        if fewer.max_queries <= queries:  # what a sweep itself may cost does not depend on votes
            return fewer
    if config.sweep:
        return within(replace(config, sweep=False), queries)
    unasked = replace(smaller, votes=0, squares=0, square_limit=config.square_limit)
    # Two clouds or more spare clean images what the boldest attempt finds in them.
    for attempts, clouds in ((config.attempts, config.clouds), (boldest, config.clouds), (boldest, 2), (first, 1)):
        # What is enough in a cautious first attempt is not in a bold one.
        enough = config.enough_clouds if attempts[0] == first[0] else config.clouds
        fewer = replace(unasked, attempts=attempts, clouds=min(clouds, config.clouds), enough_clouds=enough)
        if fewer.max_queries <= queries:
            return fewer
    return replace(unasked, transfer_test=False, blind=queries == 1)
