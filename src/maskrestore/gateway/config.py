"""The configuration of a gateway: frozen, checked when it is read, from a TOML file or from the command line."""

from __future__ import annotations

import logging
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, model_validator

from maskrestore.classifiers.normalisation import ChannelOrder, Layout
from maskrestore.defense.config import BDMAEConfig
from maskrestore.defense.doubt import DOUBT_LIMIT, DoubtPolicy, check_on_doubt
from maskrestore.defense.profiles import PROFILES, profile_config
from maskrestore.errors import ConfigError
from maskrestore.imaging.views import Convention
from maskrestore.mae.choice import DEFAULT_RESTORER

__all__ = [
    "OF_THE_START",
    "DecisionsConfig",
    "FailurePolicies",
    "GatewayConfig",
    "LimitsConfig",
    "ModelConfig",
    "OperatorConfig",
    "Policy",
    "TenantConfig",
    "checked_config",
    "read_config",
]

_LOG = logging.getLogger(__name__)
OF_THE_START = ("decisions", "workers", "worker_timeout", "restorer", "restorer_precision", "device")
"""Settings that a changed configuration does not change until the next start."""

Policy = Literal["fail-closed", "fail-open"]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,99}$")]
KeyHash = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class FailurePolicies(_Frozen):
    """What clients get if a picture cannot be purified: an error, or the model's plain label, marked as such.

    ``fail-open`` lets a trigger pass while it lasts, and whoever can cause the failure can cause that.
    """

    upstream: Policy = "fail-closed"
    """The model fails at one of the questions, or cannot be reached: 503."""
    overload: Policy = "fail-closed"
    """The queue is full: 429 with the time to wait."""
    deadline: Policy = "fail-closed"
    """The time of the request is over: 504. With ``fail-open``, half of it is for the plain
    label."""
    defense: Policy = "fail-closed"
    """The purification itself fails: 503."""


class ModelConfig(_Frozen):
    """A model, what its clients send and get, and how it is shielded."""

    classifier: str
    """As ``--classifier``: a model file, ``package.module:name``, or the address of the upstream."""
    mean: float | tuple[float, ...] | None = None
    """What clients' pictures are normalised with. It is undone before they are purified, and done again for the
    model. So are ``std``, ``pixel_range``, ``channel_order`` and ``layout``."""
    std: float | tuple[float, ...] | None = None
    pixel_range: tuple[float, float] | None = None
    channel_order: ChannelOrder | None = None
    layout: Layout | None = None
    input_size: int | tuple[int, int] | None = None
    output: str | None = None
    threshold: float | None = None
    classes: tuple[str, ...] | None = None
    """Names of the classes in the order of their labels."""
    micro_batch: Count | None = None
    threads: Count | None = None
    precision: Literal["auto", "float32", "bfloat16"] | None = None
    headers: dict[str, str] = {}
    """Of each request to the upstream. ``$NAME`` is a variable of the environment."""
    body: str | None = None
    label: str | None = None
    binary: bool | None = None
    concurrency: Count = 8
    """Questions to the upstream at a time."""
    timeout: Positive = 10.0
    """Seconds for an answer of the upstream."""
    connect_timeout: Positive = 5.0
    most_bytes: Count = 2**24
    """Of an answer of the upstream."""
    scores: Literal["one-hot", "upstream", "labels"] = "one-hot"
    """What clients get where the model answers with scores: 1 for the label and 0 for the others; the model's own
    for the purified picture, with one more query (``upstream``); or labels."""
    class_count: Annotated[int, Field(ge=2)] | None = None
    """Of one-hot scores, where the model does not say it."""
    profile: str = "fast"
    """With fewer queries than ``default`` for most pictures."""
    settings: dict[str, Any] = {}
    """Settings of the profile that are changed, such as ``masks.rounds``."""
    max_queries: Count | None = None
    """The most queries for a picture."""
    on_doubt: DoubtPolicy = "answer"
    """What clients get for a picture whose answer is in doubt: the purified label all the same, the label of the
    picture as it came (``original``, with two queries or more), or none (``abstain``)."""
    doubt_limit: Annotated[float, Field(ge=0, le=1)] = DOUBT_LIMIT
    """An answer is in doubt if its doubt is above this."""
    resize: Convention = "crop"
    """How image files get the size of the model's input."""
    crop_share: Annotated[float, Field(gt=0, le=1)] = 1.0
    version: str | None = None
    """A text for the decisions. Change it when the model behind the same address changes."""
    on_failure: FailurePolicies = FailurePolicies()
    patience: Annotated[float, Field(ge=0)] = 5.0
    """Seconds that a round of questions waits at most for an upstream that says "later"."""
    breaker_failures: Count = 5
    """After so many failures of the upstream in a row, it is left alone."""
    breaker_seconds: Positive = 10.0
    """For so long."""
    places: Count | None = None
    """Pictures that are purified together at most. ``None``: 64, or fewer if they are large."""

    @property
    def is_address(self) -> bool:
        """Whether the model is behind an address."""
        return self.classifier.startswith(("http://", "https://"))

    def defense_config(self) -> BDMAEConfig:
        """The settings of the defense. Raises ConfigError, also if ``on_doubt`` does not fit them."""
        from maskrestore.defense.beyond_paper.budget import within  # noqa: PLC0415 - after the check of the fields
        from maskrestore.runtime.settings import with_settings  # noqa: PLC0415

        config = with_settings(profile_config(self.profile), self.settings)
        if self.max_queries is not None:
            config = within(config, self.max_queries)
        check_on_doubt(self.on_doubt, self.doubt_limit, config)
        return config

    @model_validator(mode="after")
    def _fits(self) -> ModelConfig:
        if self.profile not in PROFILES:
            raise ValueError(f"profile must be one of {', '.join(PROFILES)}, got {self.profile!r}")
        return self


class TenantConfig(_Frozen):
    """Somebody who may send pictures."""

    key_hash: KeyHash
    """Of the tenant's key, as ``maskrestore serve --new-key`` prints it. The key itself is kept nowhere."""
    rate: str | None = None
    """Pictures in a time, such as ``600/minute``."""
    queries_per_day: Count | None = None
    """The most queries that the tenant's pictures may cost from midnight to midnight (UTC)."""
    models: tuple[str, ...] | None = None
    """Names of the models that the tenant may use. ``None``: all."""


class OperatorConfig(_Frozen):
    """Who may see the page, the decisions and the metrics."""

    key_hash: KeyHash


class LimitsConfig(_Frozen):
    """Limits of a request."""

    timeout: Positive = 30.0
    """Seconds for a request, from its first byte to the answer. Clients may ask for less."""
    body_timeout: Positive = 10.0
    """Seconds for its body."""
    body_bytes: Count = 2**24
    pixels: Count = 2**22
    """Of a picture, before it is resized."""
    pictures: Count = 64
    """In a request."""
    queue: Count = 256
    """Pictures of a tenant that wait."""
    queue_pixels: Count = 2**24
    """And their pixels."""
    connections: Count = 1024
    """At a time; a further one takes the place of one without a request. They and ``connection_timeout`` stay until the
    next start."""
    connection_timeout: Positive = 10.0
    """Seconds for the headers of a request, from the connection or the last answer on, and for a client to take a part
    of its answer."""


class DecisionsConfig(_Frozen):
    """Where decisions are kept, and for how long."""

    path: Path | None = None
    """A file of SQLite. Without it and ``url`` they are in memory, until the gateway ends."""
    url: SecretStr | None = None
    """Instead, a database of PostgreSQL, ``postgresql://USER@HOST:PORT/NAME``: gateways on several machines may share
    it. PostgreSQL's library takes the password from ``PGPASSWORD`` or ``~/.pgpass`` as well."""
    pictures: Literal["off", "changed", "all"] = "off"
    """Which pictures are kept with their decision, in the file: those whose label changed, or all."""
    recent: Annotated[int, Field(ge=0)] = 100
    """Pictures of so many last decisions are kept in memory, for the page."""
    max_age_days: Positive = 30.0
    max_megabytes: Positive = 1024.0
    """Of the file, or of what is in PostgreSQL. The oldest decisions are deleted beyond it."""

    @model_validator(mode="after")
    def _fits(self) -> DecisionsConfig:
        if self.path is not None and self.url is not None:
            raise ValueError("decisions are kept in one place: give path or url, not both")
        return self


class GatewayConfig(_Frozen):
    """A whole gateway."""

    models: dict[Name, ModelConfig] = Field(min_length=1)
    tenants: dict[Name, TenantConfig] = {}
    """Without any, everyone may send pictures, and the gateway listens on the loopback only."""
    operator: OperatorConfig | None = None
    limits: LimitsConfig = LimitsConfig()
    decisions: DecisionsConfig = DecisionsConfig()
    workers: Count = 1
    """Processes that answer requests. They share the cores."""
    worker_timeout: Positive = 30.0
    """Seconds after which a worker that does not respond is killed and replaced, if there are several."""
    restorer: str = DEFAULT_RESTORER
    restorer_precision: Literal["auto", "float32", "bfloat16", "int8"] = "auto"
    device: str = "cpu"

    def warn_of_what_waits(self, changed: GatewayConfig) -> None:
        """Log which changes of this configuration, that of the start, hold from the next start on."""
        waiting = [name for name in OF_THE_START if getattr(self, name) != getattr(changed, name)]
        if waiting:
            _LOG.warning("changes of these settings hold from the next start on: %s", ", ".join(waiting))

    @model_validator(mode="after")
    def _fits(self) -> GatewayConfig:
        for name, tenant in self.tenants.items():
            if name in ("everyone", "operator"):
                raise ValueError(f"a tenant needs another name than {name!r}")
            unknown = set(tenant.models or ()) - set(self.models)
            if unknown:
                raise ValueError(f"tenant {name!r} may use {', '.join(sorted(unknown))}, which is no model")
        if self.tenants and self.operator is None:
            raise ValueError("tenants have keys, so the page and the decisions need one: [operator] with a key_hash")
        if self.limits.queue < self.limits.pictures:
            raise ValueError("limits.queue must be at least limits.pictures, or a request would never fit")
        hashes = [one.key_hash for one in self.tenants.values()] + ([self.operator.key_hash] if self.operator else [])
        if len(set(hashes)) < len(hashes):
            raise ValueError("two keys are the same; each tenant and the operator need their own")
        return self


def read_config(path: Path) -> GatewayConfig:
    """Read a TOML file. Relative paths in it are relative to its folder. Raises ConfigError that says what is wrong."""
    try:
        values = tomllib.loads(path.read_text())
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror or error}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is no TOML file: {error}") from error
    return checked_config(values, str(path), path.parent)


def checked_config(values: dict[str, Any], what: str, folder: Path = Path()) -> GatewayConfig:
    """A configuration from plain values. what: names them in messages. Raises ConfigError."""
    try:
        config = GatewayConfig.model_validate(values)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(map(str, first["loc"])) or "it"
        raise ConfigError(f"{what}: {place}: {first['msg'].removeprefix('Value error, ')}") from error
    for name, model in config.models.items():
        try:
            model.defense_config()
        except ConfigError as error:
            raise ConfigError(f"{what}: models.{name}: {error}") from error
    if config.decisions.path is None:
        return config
    decisions = config.decisions.model_copy(update={"path": folder / config.decisions.path})
    return config.model_copy(update={"decisions": decisions})
