"""BDMAE, "Mask and Restore": the stages of the paper, composed."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from maskrestore.classifiers import CountingClassifier, as_classifier
from maskrestore.defense.case import Case
from maskrestore.defense.config import PROFILES, BDMAEConfig, profile
from maskrestore.defense.refinement import chain_candidates, connected_sets, growth_noise, updated_scores
from maskrestore.defense.restoration import adaptive_masks, restore_levels
from maskrestore.defense.schedule import Schedule, scheduled
from maskrestore.defense.scores import consensus, contrast_scores, flip_scores, image_scores, random_masks
from maskrestore.defense.squares import least_restorable_squares, square_scores
from maskrestore.defense.streams import Key, Stream, key_bytes
from maskrestore.defense.sweep import sweep
from maskrestore.defense.transfer import Attempt, transfer_queries, transfer_test
from maskrestore.errors import ConfigError, PurificationInterruptedError
from maskrestore.imaging.inputs import as_batch
from maskrestore.mae.restorer import DEFAULT_RESTORER, load_restorer
from maskrestore.types import Classifier, Purification, Restorer

__all__ = ["BDMAE", "protect"]


_CHUNK, _LARGE_CHUNK = (64, 2**19), (64, 32 * 224**2)
"""Images and pixels that are worked on at a time, at most, where nothing is said: everywhere, and on a GPU, where the
restorer takes 64 masks at a time, and refinement has two for each image."""


class BDMAE:
    """Blind defense with a masked autoencoder.

    For each image: score every token by how badly it is restored (S_i) and by how much the label depends on it
    (S_l), sharpen both scores along connected tokens, restore the tokens that score high, ask the classifier again.
    """

    def __init__(
        self,
        restorer: Restorer | str,
        config: BDMAEConfig | str = PROFILES["default"],
        *,
        key: Key = 0,
        chunk_size: int | None = None,
    ) -> None:
        """Raises ConfigError, and what :func:`load_restorer` raises.

        restorer: one that is loaded, or a name for :func:`load_restorer`. config: settings, or the name of a profile.
        key: the operator's secret; masks are unpredictable without it, and 0 is known to everybody. A text is the same
        key as in MASKRESTORE_KEY.

        chunk_size: images worked on at a time; it bounds memory and changes no result. ``None`` is 64, and fewer where
        those would have more than 2^19 pixels: 10 at 224 x 224; with a restorer on a GPU 32 there. The random masks of
        a chunk with more pixels are looked at round by round, or as many rounds at a time as make up that many pixels
        (with a plain function 2^19, on a GPU, too). That bounds memory for a single large image.
        """
        if chunk_size is not None and chunk_size < 1:
            raise ConfigError(f"chunk_size must be at least 1, got {chunk_size}")
        self.restorer = load_restorer(restorer) if isinstance(restorer, str) else restorer
        if not isinstance(self.restorer, Restorer):
            raise ConfigError(f"expected a restorer or the name of one, got a {type(restorer).__name__}")
        self.config = profile(config)
        key_bytes(key)  # what is no key is an error now, not at the first image
        self.key = key
        self.chunk_size = chunk_size

    def purify(self, images: object, classifier: Callable[[Tensor], Any]) -> Purification:
        """Purify images, each on its own, and label them.

        images: whatever :func:`maskrestore.imaging.inputs.as_batch` takes: uint8 or float in [0, 1], one or a
        batch, grey or RGB, any size. classifier: ``(B, C, H, W)`` in [0, 1] -> ``(B,)`` hard labels, or a module
        that returns logits (see :func:`maskrestore.classifiers.as_classifier`).

        Returns a :class:`Purification` with every map; ``images`` are float32 and equal to the input bit for bit
        outside ``hidden``. Raises InvalidImageError, and PurificationInterruptedError (with the finished part) if
        the classifier raises or answers with something else; its own error, of a budget say, is the ``__cause__``.
        """
        batch, ask = as_batch(images), as_classifier(classifier)
        done: list[Purification] = []
        most, pixels = self._limits
        fitting = pixels // (batch.shape[-2] * batch.shape[-1])
        for chunk in batch.split(self.chunk_size or max(1, min(most, fitting))):
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

    def protect(self, classifier: Callable[[Tensor], Any]) -> Callable[[object], Tensor]:
        """A drop-in replacement for ``classifier`` that purifies each image before it answers.

        It can be pickled if the classifier can. Raises ClassifierError for what is no classifier; called, what
        :meth:`purify` raises.
        """
        return functools.partial(_labels, self, as_classifier(classifier))

    @property
    def _device(self) -> torch.device:
        """Where pixels are worked on; a restorer that does not say so works on the CPU."""
        return torch.device(getattr(self.restorer, "device", "cpu"))

    def _prepare(self, images: Tensor) -> Any:
        """What the restorer is given for the images: see :class:`~maskrestore.types.PreparingRestorer`."""
        # Of its class: what merely passes on the attributes of another restorer is not prepared for this.
        prepare = getattr(type(self.restorer), "prepare_images", None)
        return images if prepare is None else prepare(self.restorer, images)

    @property
    def _limits(self) -> tuple[int, int]:
        """Images and pixels to work on at a time."""
        return _CHUNK if self._device.type == "cpu" else _LARGE_CHUNK

    def _askable(self, classifier: Classifier) -> int:
        """Pixels of images whose random masks may all be asked about in one call."""
        while isinstance(classifier, CountingClassifier):
            classifier = classifier.classifier
        # What has no device of its own is a function, which gets its pictures all at once and on the CPU.
        return self._limits[1] if hasattr(classifier, "device") else _CHUNK[1]

    def _purify_chunk(self, images: Tensor, classifier: Classifier) -> Purification:
        config = self.config
        streams = [Stream(self.key, image) for image in images]
        images = images.to(self._device)
        prepared = self._prepare(images)
        if config.blind:
            return self._purify_blindly(images, prepared, streams, classifier)
        labels = classifier(images)
        case = Case(images=images, prepared=prepared, original=labels, streams=streams, grid=self.restorer.grid)
        if config.sweep:
            sweep(case, self.restorer, classifier, grids=config.cloud_grids[: config.clouds])
        rows = case.open
        if len(rows):
            initial_image, initial_label, votes = self._score(case, rows, classifier)
            original = case.original[rows]
            image_scores, label_scores = self._refine(case, rows, (initial_image, initial_label), classifier)
            # Without votes there is no S_l.
            weight = config.label_weight if config.voting_masks else 0.0
            scores = (1 - weight) * image_scores + weight * label_scores
            if config.consensus:
                scores = torch.maximum(scores, consensus(votes, original)[:, None, None] * image_scores)
            case.keep(rows, scores=scores, image_scores=image_scores, label_scores=label_scores)
            case.keep(rows, initial_image_scores=initial_image, initial_label_scores=initial_label)
            self._recover(case, rows, scores, classifier)
            if config.squares and config.voting_masks:
                changed = (votes != original.unsqueeze(1)).float().mean(dim=1)
                self._hide_squares(case, rows, initial_image, changed, classifier)
        return case.result()

    def _purify_blindly(
        self, images: Tensor, prepared: Any, streams: list[Stream], classifier: Classifier
    ) -> Purification:
        """Restore what S_i asks for, and spend the only query on that."""
        rows = torch.arange(len(images))
        _, scores, _ = self._look(images, prepared, streams, classifier, voting=0)
        levels = adaptive_masks(scores, self.config)
        purified = restore_levels(self.restorer, images, prepared, levels)
        labels = classifier(purified)
        case = Case(images=images, prepared=prepared, original=labels, streams=streams, grid=self.restorer.grid)
        case.keep(rows, scores=scores, image_scores=scores, initial_image_scores=scores)
        case.purified, case.hidden = purified, levels[:, -1]
        return case.result()

    def _look(
        self, images: Tensor, prepared: Any, streams: Sequence[Stream], classifier: Classifier, *, voting: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Hide every random mask, and ask about the first ``voting`` of each image (4.2).

        All of them go through the restorer in one call, and through the classifier in another; of images that are large
        so many rounds at a time as fit. Returns masks ``(B, M, g, g)``, S_i ``(B, g, g)``, labels ``(B, voting)``.
        """
        masks = random_masks(streams, self.restorer.grid, self.config)  # (B, N_o, N_i, g, g)
        pixels = len(images) * images.shape[-2] * images.shape[-1]
        fitting = max(1, masks.shape[1] * self._askable(classifier) // pixels)
        scores: list[Tensor] = []
        votes: list[Tensor] = []
        for hidden in masks.split(fitting, dim=1):
            left = voting - sum(labels.shape[1] for labels in votes)
            of_rounds, labels = self._look_at(images, prepared, hidden, classifier, voting=left)
            scores.append(of_rounds)
            votes.append(labels)
        return masks.flatten(1, 2), torch.cat(scores, dim=1).mean(dim=1), torch.cat(votes, dim=1)

    def _look_at(
        self, images: Tensor, prepared: Any, hidden: Tensor, classifier: Classifier, *, voting: int
    ) -> tuple[Tensor, Tensor]:
        """Hide the masks of some rounds, ``(B, N, N_i, g, g)``. Returns scores ``(B, N, g, g)`` and labels ``(B, M)``
        under the first ``voting`` masks, or as many as there are."""
        restored = self.restorer.restore(prepared, hidden.flatten(1, 2))
        scores = image_scores(images, restored.unflatten(1, hidden.shape[1:3]), hidden, self.config)
        asked = restored[:, :voting]
        if not asked.shape[1]:
            return scores, torch.zeros(len(images), 0, dtype=torch.int64)
        # (B, M, C, H, W) -> (B M, C, H, W) -> (B M,) -> (B, M)
        return scores, classifier(asked.flatten(0, 1)).unflatten(0, asked.shape[:2])

    def _score(self, case: Case, rows: Tensor, classifier: Classifier) -> tuple[Tensor, Tensor, Tensor]:
        """S_i and S_l (4.2) of some images, from one call of the classifier for all of them.

        Returns S_i, S_l, and the labels under the masks that were asked about, ``(R, M)``.
        """
        config, original = self.config, case.original[rows]
        images, prepared = case.images[rows], case.prepared[rows]
        asked, streams = config.voting_masks, [case.streams[row] for row in rows]
        hidden, s_i, votes = self._look(images, prepared, streams, classifier, voting=asked)
        if not asked:
            return s_i, torch.zeros_like(s_i), original.unsqueeze(1)
        case.queries[rows] += asked
        flipped, hidden = votes != original.unsqueeze(1), hidden[:, :asked]
        if config.label_score == "contrast":
            s_l = contrast_scores(flipped, hidden, config.contrast_windows)
        else:
            s_l = flip_scores(flipped, hidden)
        return s_i, s_l, votes

    def _refine(
        self, case: Case, rows: Tensor, initial: tuple[Tensor, Tensor], classifier: Classifier
    ) -> tuple[Tensor, Tensor]:
        """Refine both scores side by side (4.3). Returns S_i and S_l."""
        config, count = self.config, len(rows)
        scores = torch.cat(initial)  # (2 R, g, g): the chains of S_i, then those of S_l
        candidates, sizes = chain_candidates(*initial, config)
        live = (sizes > 0).nonzero().squeeze(1)
        streams = [case.streams[row] for row in rows]
        chains = rows[live % count]
        prepared, original = case.prepared[chains], case.original[chains]
        for step in range(config.refinement_steps if len(live) else 0):
            noise = growth_noise(streams, live, sizes, step, self.restorer.grid)
            tested = connected_sets(scores[live], candidates[live], sizes[live], noise, config.neighbour_bonus)
            flipped = classifier(self.restorer.restore(prepared, tested)) != original
            scores[live] = updated_scores(scores[live], tested, candidates[live], flipped, config.refinement_rate)
        case.queries[rows] += config.refinement_steps * (sizes > 0).view(2, count).sum(dim=0)
        return scores[:count], scores[count:]

    def _recover(self, case: Case, rows: Tensor, scores: Tensor, classifier: Classifier) -> None:
        """Restore what scores high and ask again, attempt by attempt, until a restoration is believed (4.4).

        Where nothing is believed, the image and its label stay what they were.
        """
        config = self.config
        tried = torch.zeros_like(scores, dtype=torch.bool)
        for number, lowered in enumerate(config.attempts):
            where = (~case.settled[rows]).nonzero().squeeze(1)
            levels = adaptive_masks(scores[where] + lowered, config)  # (R, K, g, g)
            hidden = levels[:, -1]
            # Nothing to restore, or nothing but what was tried before, is worth no query.
            fresh = (hidden != tried[where]).flatten(1).any(dim=1)
            tried[where] = hidden
            if not fresh.any():
                continue
            asked, grids = rows[where[fresh]], config.cloud_grids
            restored = restore_levels(self.restorer, case.images[asked], case.prepared[asked], levels[fresh])
            self._attempt(case, asked, restored, hidden[fresh], classifier, grids=grids, first=number == 0)

    def _hide_squares(
        self, case: Case, rows: Tensor, image_scores: Tensor, changed: Tensor, classifier: Classifier
    ) -> None:
        """Hide one suspicious square after the other, while queries last, until a restoration is believed
        (``squares.py``).

        image_scores: ``(R, g, g)``; changed: ``(R,)``, the share of random masks that changed the label.
        """
        config, grid = self.config, self.restorer.grid
        price = 1 + transfer_queries(config.clouds, compare=False)
        hidden = least_restorable_squares(image_scores, config.squares, max(1, round(config.square_side * grid)))
        scores = square_scores(image_scores, hidden, changed, config.square_label_weight)
        suspicious = scores >= config.square_threshold  # (R, K)
        for number in range(config.squares):
            affordable = case.queries[rows] + price <= config.square_limit
            ask = suspicious[:, number] & affordable & ~case.settled[rows]
            if ask.any():
                asked, square = rows[ask], hidden[ask, number]
                restored = self.restorer.restore(case.prepared[asked], square)
                self._attempt(case, asked, restored, square, classifier, grids=config.square_cloud_grids)

    def _attempt(
        self,
        case: Case,
        rows: Tensor,
        restored: Tensor,
        hidden: Tensor,
        classifier: Classifier,
        *,
        grids: Sequence[int],
        first: bool = False,
    ) -> None:
        """Ask about a restoration of each image, and settle those that are believed.

        grids: of the clouds; the first ``clouds`` of them are asked about. first: whether it is the first attempt.
        """
        config = self.config
        attempt = Attempt(
            images=case.images[rows],
            restored=restored,
            hidden=hidden,
            before=case.original[rows],
            after=classifier(restored),
            streams=[case.streams[row] for row in rows],
        )
        case.queries[rows] += 1
        believed = torch.ones_like(rows, dtype=torch.bool)
        if config.transfer_test:
            grids = grids[: config.clouds]
            enough, compare = (config.enough_clouds, config.comparison) if first else (len(grids), False)
            believed, queries = transfer_test(attempt, classifier, grids=grids, enough=enough, compare=compare)
            case.queries[rows] += queries
        case.take(rows, attempt, believed)


def protect(
    classifier: Callable[[Tensor], Any],
    *,
    restorer: Restorer | str = DEFAULT_RESTORER,
    config: BDMAEConfig | str = PROFILES["default"],
    schedule: Schedule = "exact",
    max_queries: int | None = None,
    key: Key | None = None,
    chunk_size: int | None = None,
) -> Callable[[object], Tensor]:
    """Put BDMAE in front of a classifier.

    ``protect(classifier, key=...)(images)`` are the labels ``(B,)`` int64 of the purified images.

    classifier: see :meth:`BDMAE.purify`, which also says what images may be and what is raised for them. schedule,
    max_queries: ``fast``, and a limit for each image: see :func:`scheduled`. See :class:`BDMAE` for the other
    arguments; without a key, which is warned of, an attacker can predict the masks. Raises ConfigError,
    ClassifierError for what is no classifier, and what :func:`load_restorer` raises.
    """
    if key is None:
        warnings.warn("no key: an attacker can predict the masks; pass key=, a secret of yours", stacklevel=2)
    chosen = scheduled(profile(config), schedule, max_queries)
    return BDMAE(restorer, chosen, key=0 if key is None else key, chunk_size=chunk_size).protect(classifier)


def _labels(defense: BDMAE, classifier: Classifier, images: object) -> Tensor:
    return defense.purify(images, classifier).labels
