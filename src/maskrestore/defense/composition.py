"""Compose the stages of the paper: what is restored, asked and decided about images that are purified together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from maskrestore.defense.beyond_paper.first_looks import changes_worth_a_query
from maskrestore.defense.beyond_paper.fragile import settle_fragile
from maskrestore.defense.beyond_paper.group_testing import settle_by_groups
from maskrestore.defense.beyond_paper.moved import settle_moved
from maskrestore.defense.beyond_paper.photographs import masks_of_attempt
from maskrestore.defense.beyond_paper.scattered import hide_scattered
from maskrestore.defense.beyond_paper.squares import filter_least_restorable, hide_squares
from maskrestore.defense.beyond_paper.transfer import try_restoration
from maskrestore.defense.beyond_paper.whole_image import CHANGES, MIRRORED, NOISE, Parts, filter_whole_image
from maskrestore.defense.config import BDMAEConfig
from maskrestore.defense.oracle import Rounds
from maskrestore.defense.refinement import refine
from maskrestore.defense.restoration import adaptive_masks, restore_levels
from maskrestore.defense.scores import combined_scores, score
from maskrestore.defense.state import State
from maskrestore.imaging.sizes import is_photograph

__all__ = ["purify_cohort"]


def purify_cohort(state: State, config: BDMAEConfig, *, masked_pixels: int) -> Rounds[None]:
    """Purify the images of a state, each on its own. masked_pixels: as for :func:`score`."""
    config = config.in_force(photographs=is_photograph(*state.images.shape[-2:]))
    if config.restoration.single_query:
        yield from _purify_in_one_query(state, config, masked_pixels=masked_pixels)
        return
    state.begin((yield from state.oracle.ask(state.all_rows, state.images)))
    yield from _test_groups(state, config, masked_pixels=masked_pixels)
    rows = _with_queries_for_masks(state, config)
    if not len(rows):
        return
    answers = yield from score(state, rows, config.masks, config.scores, masked_pixels=masked_pixels)
    s_i, s_l = answers.image_scores, answers.label_scores
    state.keep_maps(rows, initial_image_scores=s_i, initial_label_scores=s_l)
    if config.refinement is not None:
        s_i, s_l = yield from refine(state, rows, s_i, s_l, config.refinement)
    state.note(rows, changed=answers.changed)
    if config.scores.label_score == "contrast":
        state.note(rows, contrast=s_l.flatten(1).amax(dim=1))
    scores = combined_scores(s_i, s_l, answers, config.masks, config.scores)
    state.keep_maps(rows, scores=scores, image_scores=s_i, label_scores=s_l)
    yield from _restore_what_scores_high(state, rows, scores, config)
    test, photographs = config.transfer_test, config.photographs
    looks = config.group_testing is None  # else they came before the masks
    if looks and config.moved is not None:
        yield from settle_moved(state, rows, config.moved)
    if looks and photographs is None:  # before squares, which may take all queries
        yield from _look_at_the_whole_image(state, dict.fromkeys(CHANGES, rows), config)
    if test is not None and config.masks.max_queries:
        if config.squares is not None:
            yield from hide_squares(
                state,
                rows,
                answers.image_scores,
                answers.changed,
                config=config.squares,
                test=test,
                filters=config.whole_image,
                photographs=photographs,
                necessity=config.necessity,
            )
        if config.scattered is not None:
            yield from hide_scattered(state, rows, answers, config=config.scattered, test=test, photographs=photographs)
    if looks and photographs is not None:  # last: a blurred square leaves the rest sharp
        yield from _look_at_the_whole_image(state, dict.fromkeys(CHANGES, rows), config)


def _with_queries_for_masks(state: State, config: BDMAEConfig) -> Tensor:
    """The open images that have enough queries left for the random masks: ``(R,)`` int64."""
    rows = state.open_rows
    return rows[state.oracle.queries[rows] + config.queries_of_one_attempt <= config.max_queries]


def _restore_what_scores_high(state: State, rows: Tensor, scores: Tensor, config: BDMAEConfig) -> Rounds[None]:
    """Restore tokens with high scores and query again, attempt by attempt, until a restoration is accepted (4.4).

    If none is accepted, the image and its label stay unchanged.
    """
    tried = torch.zeros_like(scores, dtype=torch.bool)
    price = 1 + (0 if config.transfer_test is None else config.transfer_test.clouds)
    for number in range(len(config.restoration.attempts)):
        # After group testing, what the tests of the first attempt asked may leave too little for the second one.
        affordable = state.oracle.queries[rows] + price <= config.max_queries
        where = (~state.settled[rows] & affordable).nonzero().squeeze(1)
        levels = masks_of_attempt(scores[where], config.restoration, number, config.photographs)  # (R, K, g, g)
        hidden = levels[:, -1]
        # Skip images with nothing to restore, or with the same tokens as in the last attempt.
        fresh = (hidden != tried[where]).flatten(1).any(dim=1) & hidden.flatten(1).any(dim=1)
        tried[where] = hidden
        if fresh.any():
            asked = rows[where[fresh]]
            restored = yield from restore_levels(state, asked, levels[fresh])
            yield from try_restoration(
                state,
                asked,
                restored,
                hidden[fresh],
                config.transfer_test,
                first=number == 0,
                photographs=config.photographs,
                all_to_all=config.all_to_all,
                necessity=config.necessity,
            )


def _test_groups(state: State, config: BDMAEConfig, *, masked_pixels: int) -> Rounds[None]:
    """Group testing, and then the looks that need no answer about masks.

    With ``fast`` an image in which it finds nothing gets no masks. Otherwise it is for photographs. Those that have
    enough queries left get masks, and only the others are looked at here.
    """
    groups = config.group_testing or config.groups_of_photographs
    if groups is None:
        return
    cleared = yield from settle_by_groups(state, groups, config.all_to_all, photographs=config.photographs is not None)
    rows = state.open_rows
    if config.group_testing is None:
        rows = rows[~torch.isin(rows, _with_queries_for_masks(state, config))]
    yield from _look_before_the_masks(state, rows, config, masked_pixels=masked_pixels)
    if config.group_testing is not None:
        state.settled[cleared] = True


def _look_before_the_masks(state: State, rows: Tensor, config: BDMAEConfig, *, masked_pixels: int) -> Rounds[None]:
    """Look for what needs no answer about masks. rows: ``(R,)`` int64, images that are still open."""
    fragile, filters = config.fragile, config.whole_image
    worth = dict.fromkeys(CHANGES, rows)
    if filters is not None and filters.together:
        worth = yield from changes_worth_a_query(state, rows, filters, noise=0.0 if fragile is None else fragile.noise)
    if config.moved is not None:
        yield from settle_moved(state, worth[MIRRORED], config.moved)
    squares, photographs, parts = config.squares, config.photographs, None
    if squares is not None and photographs is not None and filters is not None:

        def parts(rows: Tensor, name: str) -> Rounds[None]:
            """Filter squares of photographs, in the order of S_i."""
            unasked = replace(config.masks, asked=0)
            s_i = (yield from score(state, rows, unasked, config.scores, masked_pixels=masked_pixels)).image_scores
            state.keep_maps(rows, initial_image_scores=s_i, image_scores=s_i)
            large = squares.for_photographs(photographs)
            yield from filter_least_restorable(state, rows, s_i, name, config=large, filters=filters)

    yield from _look_at_the_whole_image(state, worth, config, parts=parts)


def _look_at_the_whole_image(
    state: State, worth: Mapping[str, Tensor], config: BDMAEConfig, *, parts: Parts | None = None
) -> Rounds[None]:
    """Look for triggers without a place. worth: for each change, the images to try it on, ``(R,)`` int64.

    parts: as for :func:`filter_whole_image`.
    """
    if config.fragile is not None:  # first: it asks little, and filters change the label of fragile triggers in vain
        yield from settle_fragile(state, worth[NOISE], config.fragile)
    if config.whole_image is not None:
        yield from filter_whole_image(state, worth, config.whole_image, parts=parts)


def _purify_in_one_query(state: State, config: BDMAEConfig, *, masked_pixels: int) -> Rounds[None]:
    """Choose the tokens by S_i alone, and use the only query for the restored image."""
    rows = state.all_rows
    masks = replace(config.masks, asked=0)
    answers = yield from score(state, rows, masks, config.scores, masked_pixels=masked_pixels)
    scores = answers.image_scores
    levels = adaptive_masks(scores, config.restoration)
    purified = yield from restore_levels(state, rows, levels)
    labels = yield from state.oracle.ask(rows, purified)
    state.begin(labels)
    state.keep_maps(rows, scores=scores, image_scores=scores, initial_image_scores=scores)
    state.settle(rows, purified, levels[:, -1], labels, tested=False)
    state.evidence.clear()  # nothing was asked that could tell
