"""What became of a picture, as a decision that is kept."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from maskrestore.defense.doubt import answers
from maskrestore.errors import MaskRestoreError
from maskrestore.gateway.decisions import iso
from maskrestore.gateway.errors import OverloadedError, RefusedError, described
from maskrestore.gateway.ids import new_id
from maskrestore.gateway.models import ShieldedModel
from maskrestore.gateway.pictures import content_of
from maskrestore.gateway.records import Decision
from maskrestore.gateway.scheduler import Purified
from maskrestore.jobs.result_files import answer, suspicion_of
from maskrestore.reporting import printable
from maskrestore.runtime.environment import own_version
from maskrestore.types import Purification

__all__ = ["Caller", "Outcome", "outcome_of"]

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Caller:
    """Who asks, and for how long."""

    tenant: str
    request: str
    """Id of the request."""
    deadline: float
    """By ``time.monotonic``."""
    gone: Callable[[], Awaitable[None]] | None = None
    """Returns when the client has gone away."""
    abstained: int = 200
    """HTTP status of an answer about a picture that is not answered."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of one picture."""

    decision: Decision
    purification: Purification | None = None
    error: Exception | None = None
    """Why it is not purified."""


def outcome_of(
    model: ShieldedModel,
    caller: Caller,
    place: int,
    *,
    picture: Tensor,
    found: Purified | Exception,
    label: int | None,
    times: tuple[float, float],
) -> Outcome:
    """The decision about one picture. label: the plain one, if there is one. times: of acceptance, and since."""
    started, seconds = times
    channels, height, width = picture.shape
    common: dict[str, Any] = {
        "id": new_id(), "time": iso(started), "model": model.name, "tenant": caller.tenant, "request": caller.request,
        "place": place, "content": content_of(picture), "channels": channels, "height": height, "width": width,
        **model.identity, "version": own_version(),
    }  # fmt: skip
    if isinstance(found, Exception):
        told = printable(f"{type(found).__name__}: {' '.join(str(found).split())}")
        known = isinstance(found, MaskRestoreError)
        if not known:
            _LOG.error("a picture could not be purified", exc_info=found)
        error = found if known else RefusedError(503, "the picture could not be purified", retry_after=1)
        status = described(error)[0] if label is None else 200
        # What was sent before it failed is not known: it counts as the most that it may have been. A picture without a
        # place costs its plain label.
        asked = int(label is not None) if isinstance(found, OverloadedError) else model.max_queries
        decision = Decision(
            **common, shielded=False, label=label, label_name=model.class_name(label), error=told, status=status,
            seconds=seconds, queries=asked,
        )  # fmt: skip
        return Outcome(decision=decision, error=error)
    result = found.purification
    decision = Decision(
        **common, **_answered(model, caller, picture, result), shielded=True,
        restored=None if result.hidden is None else round(float(result.hidden[0].float().mean()), 6),
        suspicion=suspicion_of(result),
        waited=found.waited, seconds=found.waited + found.worked, result=content_of(result.images[0]),
        restorer=model.restorer_name(picture),
    )  # fmt: skip
    return Outcome(decision=decision, purification=result)


def _answered(model: ShieldedModel, caller: Caller, picture: Tensor, result: Purification) -> dict[str, Any]:
    """The labels of a picture, and what is answered if that is in doubt, as fields of its decision."""
    on_doubt, limit = model.config.on_doubt, model.config.doubt_limit
    paid = answer(result, single_query=model.defense.config.restoration.single_query)
    original, purified = paid["original_label"], paid["label"]
    doubtful = bool(result.doubtful(limit)[0])
    abstained = doubtful and on_doubt == "abstain"
    label = None if abstained else int(answers(picture[None], result, on_doubt, limit)[0])
    if model.interface.answer == "upstream" and not abstained:
        paid["queries"] += 1
    return {
        **paid, "label": label, "purified_label": purified,
        "original_name": model.class_name(original), "label_name": model.class_name(label),
        "purified_name": model.class_name(purified),
        "changed": None if original is None else original != purified,
        "doubtful": None if result.suspicion is None else doubtful, "abstained": abstained,
        "status": caller.abstained if abstained else 200,
    }  # fmt: skip
