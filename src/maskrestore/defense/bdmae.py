"""BDMAE, "Mask and Restore": the stages of the paper, composed."""

from __future__ import annotations

import torch
from torch import Tensor

from maskrestore.classifiers import as_classifier
from maskrestore.defense.case import Case
from maskrestore.defense.config import PROFILES, BDMAEConfig
from maskrestore.defense.evidence import Evidence
from maskrestore.defense.refinement import connected_sets, top_tokens, updated_scores
from maskrestore.defense.restoration import adaptive_masks, fuse
from maskrestore.defense.streams import Key, Stream
from maskrestore.defense.transfer import Attempt, transfer_test
from maskrestore.errors import ConfigError, PurificationInterruptedError
from maskrestore.imaging.inputs import as_batch
from maskrestore.mae.restorer import load_restorer
from maskrestore.types import Classifier, Purification, Restorer

__all__ = ["BDMAE", "protect"]


class BDMAE:
    """Blind defense with a masked autoencoder.

    For each image: score every token by how badly it is restored (S_i) and by how much the label depends on it
    (S_l), sharpen both scores along connected tokens, restore the tokens that score high, ask the classifier again.
    """

    def __init__(
        self,
        restorer: Restorer,
        config: BDMAEConfig = PROFILES["default"],
        *,
        key: Key = 0,
        chunk_size: int = 32,
    ) -> None:
        """key: the operator's secret; masks are unpredictable without it.

        chunk_size: images worked on at a time; it bounds memory and changes no result.
        """
        if chunk_size < 1:
            raise ConfigError(f"chunk_size must be at least 1, got {chunk_size}")
        self.restorer = restorer
        self.config = config
        self.key = key
        self.chunk_size = chunk_size

    def purify(self, images: object, classifier: Classifier) -> Purification:
        """Purify images, each on its own, and label them.

        images: whatever :func:`maskrestore.imaging.inputs.as_batch` takes: uint8 or float in [0, 1], one or a
        batch, grey or RGB, any size. classifier: ``(B, C, H, W)`` in [0, 1] -> ``(B,)`` hard labels, or a module
        that returns logits (see :func:`maskrestore.classifiers.as_classifier`).

        Returns a :class:`Purification` with every map; ``images`` are float32 and equal to the input bit for bit
        outside ``hidden``. Raises InvalidImageError, and PurificationInterruptedError (with the finished part) if
        the classifier raises.
        """
        batch, ask = as_batch(images), as_classifier(classifier)
        done: list[Purification] = []
        for chunk in batch.split(self.chunk_size):
            try:
                done.append(self._purify_chunk(chunk, ask))
            except Exception as error:
                partial = Purification.concatenate(done) if done else None
                finished = 0 if partial is None else len(partial.labels)
                raise PurificationInterruptedError(
                    f"stopped after {finished} of {len(batch)} images: {type(error).__name__}: {error}",
                    partial,
                ) from error
        return Purification.concatenate(done)

    def protect(self, classifier: Classifier) -> Classifier:
        """A drop-in replacement for ``classifier`` that purifies each image before it answers."""
        return lambda images: self.purify(images, classifier).labels

    def _purify_chunk(self, images: Tensor, classifier: Classifier) -> Purification:
        config = self.config
        streams = [Stream(self.key, image) for image in images]
        case = Case(images=images, original=classifier(images), streams=streams, grid=self.restorer.grid)
        evidence = Evidence(images, case.original, streams, self.restorer, config)
        looks = (*config.early_looks, config.rounds)
        seen = 0  # rounds whose restorations were asked about
        restored = evidence.restore(case.open, 0, 1 if config.glance else looks[0])
        if config.glance:
            scores = evidence.image_scores(case.open, 1)
            case.keep(case.open, scores=scores, image_scores=scores, initial_image_scores=scores)
            restored = restored[self._recover(case, case.open, scores, classifier, early=True)]
        for rounds in looks:
            rows = case.open
            if seen + restored.shape[1] < rounds:
                more = evidence.restore(rows, seen + restored.shape[1], rounds)
                restored = torch.cat([restored, more], dim=1)
            case.queries[rows] += evidence.ask(rows, restored, seen, classifier)
            seen, restored = rounds, restored[:, :0]
            last = rounds == config.rounds
            scores = self._combine(case, rows, evidence, rounds, classifier, refine=last)
            if not last:
                case.settled[rows] = evidence.agreement(rows, rounds) <= config.doubt
                still = ~case.settled[rows]
                rows, scores, restored = rows[still], scores[still], restored[still]
            if last or config.transfer_test:
                restored = restored[self._recover(case, rows, scores, classifier, early=not last)]
        return case.result()

    def _combine(
        self, case: Case, rows: Tensor, evidence: Evidence, rounds: int, classifier: Classifier, *, refine: bool
    ) -> Tensor:
        """S of some images after so many rounds (4.4): ``(R, g, g)``, from S_i and S_l, refined at the end (4.3)."""
        config = self.config
        initial = evidence.image_scores(rows, rounds), evidence.label_scores(rows, rounds)
        image, label = self._refine(case, rows, initial, classifier) if refine else initial
        # Without votes there is no S_l.
        weight = config.label_weight if config.voting_masks else 0.0
        scores = (1 - weight) * image + weight * label
        if config.consensus:
            scores = torch.maximum(scores, evidence.agreement(rows, rounds)[:, None, None] * image)
        first, second = initial
        case.keep(rows, scores=scores, image_scores=image, label_scores=label)
        case.keep(rows, initial_image_scores=first, initial_label_scores=second)
        return scores

    def _refine(
        self, case: Case, rows: Tensor, initial: tuple[Tensor, Tensor], classifier: Classifier
    ) -> tuple[Tensor, Tensor]:
        """Refine both scores side by side (4.3). Returns S_i and S_l."""
        config, count = self.config, len(rows)
        scores = torch.cat(initial)  # (2 R, g, g): the chains of S_i, then those of S_l
        candidates, sizes = _candidates(initial, config)
        live = (sizes > 0).nonzero().squeeze(1)
        streams = [case.streams[row] for row in rows]
        images, original = case.images[rows][live % count], case.original[rows][live % count]
        for step in range(config.refinement_steps if len(live) else 0):
            noise = _growth_noise(streams, live, sizes, step, self.restorer.grid)
            tested = connected_sets(scores[live], candidates[live], sizes[live], noise, config.neighbour_bonus)
            flipped = classifier(self.restorer.restore(images, tested)) != original
            scores[live] = updated_scores(scores[live], tested, candidates[live], flipped, config.refinement_rate)
        case.queries[rows] += config.refinement_steps * (sizes > 0).view(2, count).sum(dim=0)
        return scores[:count], scores[count:]

    def _recover(self, case: Case, rows: Tensor, scores: Tensor, classifier: Classifier, *, early: bool) -> Tensor:
        """Restore what scores high and ask again, attempt by attempt, until a restoration is believed (4.4).

        An image of which nothing is believed stays what it was. early: one attempt, without a comparison. Returns
        ``(R,)`` bool: the images that are not settled.
        """
        config = self.config
        still = torch.ones_like(rows, dtype=torch.bool)
        for number, lowered in enumerate(config.attempts[:1] if early else config.attempts):
            where = still.nonzero().squeeze(1)
            restored, masks = self._restore(case.images[rows[where]], scores[where] + lowered)
            # Nothing to restore, or nothing but what was tried before, is worth no query.
            fresh = (masks != case.tried[rows[where]]).flatten(1).any(dim=1)
            case.tried[rows[where]] = masks
            where, restored, masks = where[fresh], restored[fresh], masks[fresh]
            if not len(where):
                continue
            asked = rows[where]
            attempt = Attempt(
                images=case.images[asked],
                restored=restored,
                hidden=masks,
                before=case.original[asked],
                after=classifier(restored),
                streams=[case.streams[row] for row in asked],
            )
            believed, queries = torch.ones_like(asked, dtype=torch.bool), torch.zeros_like(asked)
            if config.transfer_test:
                compare = config.comparison and number == 0 and not early
                believed, queries = transfer_test(attempt, classifier, count=config.clouds, compare=compare)
            case.queries[asked] += 1 + queries
            taken = asked[believed]
            case.labels[taken], case.purified[taken] = attempt.after[believed], restored[believed]
            case.hidden[taken], case.settled[taken] = masks[believed], True
            still[where[believed]] = False
        return still

    def _restore(self, images: Tensor, scores: Tensor) -> tuple[Tensor, Tensor]:
        """Fuse the restorations of all thresholds (4.4). Returns the purified images and what was hidden."""
        hidden = adaptive_masks(scores, self.config)  # (B, K, g, g)
        # The masks are nested: the last one contains the others, and one that adds nothing needs no restoration of
        # its own. (B, K): tokens that each mask adds to the one before
        added = hidden.flatten(2).sum(dim=2).diff(dim=1, prepend=torch.zeros(len(hidden), 1, dtype=torch.long))
        image, level = (added > 0).nonzero(as_tuple=True)
        if not len(image):
            return images, hidden[:, -1]
        restored = self.restorer.restore(images[image], hidden[image, level])
        # Masks before an image's first restoration hide nothing, so it does not matter which one they are given.
        source = ((added > 0).flatten().cumsum(dim=0) - 1).clamp(min=0).view_as(added)
        return fuse(images, restored[source], hidden), hidden[:, -1]


def protect(
    classifier: Classifier,
    *,
    restorer: Restorer | None = None,
    config: BDMAEConfig = PROFILES["default"],
    key: Key = 0,
) -> Classifier:
    """Put BDMAE in front of a classifier: ``protect(classifier)(images)`` are the labels of the purified images.

    restorer: the packaged ``mae-tiny-32`` unless given. See :class:`BDMAE` for the other arguments.
    """
    return BDMAE(restorer or load_restorer(), config, key=key).protect(classifier)


def _candidates(initial: tuple[Tensor, Tensor], config: BDMAEConfig) -> tuple[Tensor, Tensor]:
    """The tokens that each chain may touch, ``(2 B, g, g)``, and the size of the sets to test, ``(2 B,)``.

    Departure: L is rounded down to an even number, so that set and complement are of equal size and the sum of S
    stays the same, as section 4.3 says it does.
    """
    image, label = initial
    suspicious = (image >= config.candidate_threshold).flatten(1).sum(dim=1)  # L of S_i
    flips = label.flatten(1).sum(dim=1).floor().long()  # L of S_l
    sizes = torch.cat([suspicious, flips]) // 2
    return top_tokens(torch.cat(initial), 2 * sizes), sizes


def _growth_noise(streams: list[Stream], live: Tensor, sizes: Tensor, step: int, grid: int) -> Tensor:
    """Uniform numbers for :func:`connected_sets`: ``(len(live), max(sizes) - 1, g * g)``."""
    noise = torch.zeros(len(live), max(int(sizes.max()) - 1, 0), grid * grid)
    for row, chain in enumerate(live.tolist()):
        which, image = divmod(chain, len(streams))
        rows = int(sizes[chain]) - 1
        # Counter 0 belongs to the scoring masks.
        noise[row, :rows] = streams[image].uniform(1 + which, step, shape=(rows, grid * grid))
    return noise
