"""The JSON of decisions: what the page, and any other program of the operator, reads.

All of it needs the operator's key, if there is one: ``Authorization: Bearer KEY``, or HTTP Basic with the key as the
password and any name (a browser asks for it). Errors are ``{"error": "..."}`` with a status.

================================================  ==================================================================
``GET /v1/decisions``                             a :class:`DecisionPage`, the newest first. Filters, all optional:
                                                  ``changed=true``, ``doubtful=true``, ``errors=true``,
                                                  ``unshielded=true``, ``suspicion=0.5`` (at least), ``model=``,
                                                  ``tenant=``;
                                                  ``limit=`` (1 to 500, default 50); ``before=ID`` for the next page
``GET /v1/decisions/stream``                      server-sent events: ``event: decision``, ``id: ID``,
                                                  ``data:`` a :class:`Decision`. The same filters. With the header
                                                  ``Last-Event-ID`` it begins behind that one
``GET /v1/decisions/ID``                          a :class:`DecisionWithMaps`
``GET /v1/decisions/ID/stages``                   a list of :class:`Stage`, without the pictures themselves if they
                                                  are not kept
``GET /v1/decisions/ID/{before,after,removed}.png``  a picture of at most 224 pixels a side; 404 if it is not kept:
                                                  ``Decision.pictures`` says which are
``POST /v1/decisions/ID/replay``                  body as for ``POST /v1/purify`` -> a :class:`Replay`; 409 for
                                                  another picture
``POST /v1/purify?model=NAME&stages=true``        body: an image file, or multipart with the field ``file`` ->
                                                  a :class:`Purified`; ``png=true`` adds the purified picture
``GET /v1/statistics?minutes=60``                 :class:`Statistics`: counts, queries and seconds over time
``GET /v1/status``                                :class:`Status`: models, queues and whether they are ready
================================================  ==================================================================

Texts such as ``error`` and ``label_name`` may come from an upstream that is not trusted: show them as text.
"""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, model_validator

__all__ = [
    "Bucket",
    "Decision",
    "DecisionPage",
    "DecisionWithMaps",
    "ModelStatus",
    "Purified",
    "Replay",
    "Stage",
    "Statistics",
    "Status",
]


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True)


class Decision(_Record):
    """What became of one picture. The fields that folder jobs have, too, mean the same as in ``records.jsonl``."""

    id: str
    """Later decisions have larger ids."""
    time: str
    """When it was made, ISO 8601 in UTC."""
    model: str
    tenant: str
    request: str
    """Id of the request, which may hold several pictures."""
    place: int
    """Of the picture in the request, from 0 on."""
    content: str
    """Sixteen hex digits of the picture's pixels."""
    channels: int
    height: int
    width: int
    shielded: bool
    """False: the label is the model's plain one (``fail-open``), and ``error`` says why."""
    original_label: int | None = None
    """Of the picture as it came; None if it is not known."""
    label: int | None = None
    """What clients get: the label of the purified picture, unless the answer is in doubt and the model's ``on_doubt``
    says otherwise. None if there is only an error, or if ``abstained``."""
    purified_label: int | None = None
    """Of the purified picture; None if it could not be purified."""
    original_name: str | None = None
    label_name: str | None = None
    purified_name: str | None = None
    """Names of the classes, if they are known."""
    changed: bool | None = None
    """Whether the label of the purified picture is another than the original one; None if one is not known."""
    doubtful: bool | None = None
    """Whether the answer is in doubt: the picture looks as if it carried a trigger and its label stayed, or it does not
    and its label changed. None if the picture could not be purified."""
    abstained: bool = False
    """Whether it is not answered, since the answer would be in doubt: ``label`` is None, and nothing failed."""
    queries: int | None = None
    restored: float | None = None
    """Share of the tokens that were restored, in [0, 1]."""
    restorer: str | None = None
    """Name of the masked autoencoder that restored it."""
    suspicion: float | None = None
    """In [0, 1]: how likely the picture carries a trigger; None where the defense does not estimate it."""
    waited: float = 0.0
    """Seconds in the queue."""
    seconds: float = 0.0
    """From acceptance to the result."""
    notes: list[str] = []
    error: str | None = None
    status: int = 200
    """HTTP status that the client got for it."""
    result: str | None = None
    """Sixteen hex digits of the purified pixels: a replay has the same."""
    classifier: str
    """Which model it was."""
    key_fingerprint: str
    config_digest: str
    version: str
    """Of maskrestore."""
    pictures: list[str] = []
    """Which of ``before``, ``after`` and ``removed`` can be had now."""

    @model_validator(mode="before")
    @classmethod
    def _answered_with_the_purified_label(cls, values: Any) -> Any:
        """Decisions that were kept before there was a choice have no ``purified_label``: it was answered."""
        if isinstance(values, dict) and values.get("shielded") and "purified_label" not in values:
            return {**values, "purified_label": values.get("label"), "purified_name": values.get("label_name")}
        return values


class DecisionWithMaps(Decision):
    """A decision with its maps."""

    maps: dict[str, list[list[float]]] = {}
    """Rows of tokens: ``hidden`` (0 or 1: restored), ``scores``, ``image_scores``, ``label_scores``,
    ``initial_image_scores``, ``initial_label_scores``; those that the profile has."""


class DecisionPage(_Record):
    """Some decisions, the newest first."""

    decisions: list[Decision]
    next: str | None
    """``before=`` for the following page; None if there is none."""


class Stage(_Record):
    """A picture of one stage of the purification."""

    title: str
    meaning: str
    caption: str
    picture: str
    """``data:image/png;base64,...``"""


class Purified(_Record):
    """The answer of ``POST /v1/purify``."""

    decision: Decision
    stages: list[Stage] = []
    """With ``stages=true``: the input, the maps, what was hidden, the purified picture and what was removed."""
    png: str | None = None
    """With ``png=true``: the purified picture in its own size, as ``data:image/png;base64,...``"""


class Replay(_Record):
    """A decision that was made again."""

    same: bool
    """Whether labels, queries and every bit of the purified picture are the same."""
    differences: dict[str, tuple[Any, Any]]
    """Fields of the result that differ: then and now."""
    changed: dict[str, tuple[Any, Any]]
    """What the result depends on and differs: version, model, settings and weights (``config_digest``), key."""
    decision: Decision
    replayed: Decision
    """It is not kept."""


class Bucket(_Record):
    """A piece of time."""

    time: str
    """Its begin."""
    decisions: int
    changed: int
    doubtful: int
    errors: int
    unshielded: int
    queries: int
    seconds: float
    """Mean from acceptance to result."""
    slowest: float
    waited: float
    """Mean in the queue."""


class Statistics(_Record):
    """Decisions over time."""

    minutes: float
    buckets: list[Bucket]
    """At most 60, the oldest first; pieces without a decision are left out."""


class ModelStatus(_Record):
    """A model now."""

    name: str
    ready: bool
    reason: str | None
    """Why it is not ready."""
    waiting: int
    """Pictures in the queue."""
    working: int
    """Pictures that are purified."""
    answers: str
    """What clients get: ``one-hot``, ``upstream``, ``labels`` or ``names``."""
    input: list[int]
    """The shape that clients send, -1 for any."""
    classes: list[str] | None
    profile: str
    max_queries: int
    on_doubt: str = "answer"
    """What clients get for a picture whose answer is in doubt: ``answer``, ``original`` or ``abstain``."""


class Status(_Record):
    """The gateway now."""

    version: str
    ready: bool
    draining: bool
    keys: bool
    """Whether clients need keys."""
    models: list[ModelStatus]
    kept_pictures: str
    """``off``, ``changed`` or ``all``."""
