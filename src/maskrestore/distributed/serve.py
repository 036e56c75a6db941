"""The gateway on Ray Serve: replicas on a cluster, which Serve starts, replaces, updates and sends requests to.

``app`` is for Serve's configuration files; the command line is in ``serving``. A replica is a gateway as in one
process; what replicas have in common is in the actor of ``hub``.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from maskrestore.defense.streams import Key, key_fingerprint, operator_key
from maskrestore.distributed.cluster import cluster_size, load_ray
from maskrestore.errors import ConfigError, MissingDependencyError
from maskrestore.gateway.access import Access
from maskrestore.gateway.app import make_app
from maskrestore.gateway.config import GatewayConfig, checked_config, read_config
from maskrestore.gateway.gateway import Gateway
from maskrestore.gateway.ids import sign
from maskrestore.gateway.ledger import BudgetsInMemory, Ledger
from maskrestore.gateway.process import log_as_json
from maskrestore.gateway.server import check_open
from maskrestore.gateway.shared import shared_by
from maskrestore.mae.choice import load_restorer

__all__ = [
    "ARGUMENTS",
    "DEPLOYMENT",
    "Plan",
    "Replica",
    "Replicas",
    "app",
    "application",
    "check_place",
    "load_serve",
    "plan_of",
]

_START_SECONDS = 10.0
"""A replica waits so long for its models before Serve tries another one."""
_STREAM_SECONDS = 20.0
_MORE_SECONDS = 5.0
"""For answers, behind the limit of a request, before a replica ends in any case."""
_ONGOING = 4.0
"""Requests of a replica, on average, beyond which more are started, as far as they may be."""
ARGUMENTS = {"config", "key_file", "replicas", "revision"}
"""Of :func:`app`."""
DEPLOYMENT = "gateway"
"""Its name in the application."""


@dataclass(frozen=True, kw_only=True)
class Replicas:
    """How many replicas there are."""

    least: int = 1
    most: int = 1

    @classmethod
    def parsed(cls, text: str) -> Replicas:
        """``2``, or ``1:8`` for as many as the load needs. Raises ConfigError."""
        found = re.fullmatch(r"(\d{1,4})(?::(\d{1,4}))?", text.strip())
        least, most = (int(found[1]), int(found[2] or found[1])) if found else (0, 0)
        if not 1 <= least <= most:
            raise ConfigError(f"replicas: expected a number such as 2, or a range such as 1:8, got {text!r}")
        return cls(least=least, most=most)

    def options(self) -> dict[str, Any]:
        """As Serve takes them."""
        if self.least == self.most:
            return {"num_replicas": self.least}
        wanted = {"min_replicas": self.least, "max_replicas": self.most, "target_ongoing_requests": _ONGOING}
        return {"autoscaling_config": wanted}


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a replica needs to know. The key is not in it: each replica reads it on its own machine."""

    config: GatewayConfig
    key_file: Path | None
    """Where the key is on each machine. ``None``: in the variable MASKRESTORE_KEY of Ray's processes."""
    fingerprint: str
    """Of the key, which must be the same for all replicas."""

    @property
    def on_gpu(self) -> bool:
        """Whether each replica needs a GPU."""
        return self.config.device.startswith("cuda")

    def key(self) -> Key:
        """The operator's key. Raises ConfigError if this machine has another one than the others."""
        key = operator_key(self.key_file) or 0
        if key_fingerprint(key) != self.fingerprint:
            where = self.key_file or "MASKRESTORE_KEY, which must be set before `ray start`"
            raise ConfigError(
                f"the key of the masks on this machine is not the one that the gateway was started with; see {where}"
            )
        return key


def plan_of(config: GatewayConfig, key_file: Path | None) -> Plan:
    """A plan with absolute paths, since replicas have working directories of their own. Raises ConfigError."""
    if config.decisions.path is None and config.decisions.url is None:
        raise ConfigError(
            "replicas have their decisions in common: give decisions.path for one machine, or decisions.url with the "
            "address of PostgreSQL"
        )
    Access(config, Ledger(BudgetsInMemory({})))  # raises for a rate that is none
    changes: dict[str, Any] = {"workers": 1, "restorer": _absolute(config.restorer)}
    changes["models"] = {
        name: one.model_copy(update={"classifier": _absolute(one.classifier)}) for name, one in config.models.items()
    }
    if config.decisions.path is not None:
        absolute = config.decisions.path.absolute()
        changes["decisions"] = config.decisions.model_copy(update={"path": absolute})
    key_file = None if key_file is None else key_file.absolute()
    fingerprint = key_fingerprint(operator_key(key_file) or 0)
    return Plan(config=config.model_copy(update=changes), key_file=key_file, fingerprint=fingerprint)


class Replica:
    """A gateway that Serve sends requests to."""

    def __init__(self, plan: Plan) -> None:
        """Load the models. Raises ConfigError, and what loading raises."""
        from ray import serve  # noqa: PLC0415 - an optional extra

        from maskrestore.distributed.hub import HubLink  # noqa: PLC0415

        log_as_json()
        sign()
        config, key = plan.config, plan.key()
        check_place(config)
        context = serve.get_replica_context()
        link = HubLink(context.app_name, config.decisions)
        shared = shared_by(link, context.replica_tag, folder=None, prunes=True, stream_seconds=_STREAM_SECONDS)
        restorer = load_restorer(config.restorer, precision=config.restorer_precision, device=config.device)
        self._gateway = Gateway(config, restorer, key=key, shared=shared)
        self._has_been_ready = False

    def __serve_build_asgi_app__(self) -> Any:
        return make_app(self._gateway)

    async def check_health(self) -> None:
        """Raises RuntimeError until the models have been ready once: then this replica gets requests.

        Later it is healthy while its loop runs. An upstream that fails is no reason to start replicas again;
        ``/v2/health/ready`` follows it.
        """
        end = time.monotonic() + _START_SECONDS
        while not self._has_been_ready:
            self._has_been_ready = self._gateway.ready
            if not self._has_been_ready and time.monotonic() > end:
                raise RuntimeError("; ".join(f"{one.name}: {one.reason}" for one in self._gateway.models()))
            await asyncio.sleep(0.1)


def check_place(config: GatewayConfig) -> None:
    """Raises ConfigError if Serve listens where a gateway without keys may not, or if machines share no decisions."""
    from ray.serve.context import _get_global_client  # noqa: PLC0415 - an optional extra

    check_open(config, _get_global_client().http_config.host or "")
    machines = len(cluster_size().nodes)
    if config.decisions.url is None and machines > 1:
        raise ConfigError(
            f"the cluster has {machines} machines, and decisions in a file are for one; keep them in PostgreSQL: "
            "decisions.url, or --decisions postgresql://..."
        )


def load_serve() -> Any:
    """Import Ray Serve. Raises MissingDependencyError if it is not installed."""
    load_ray()
    try:
        from ray import serve  # noqa: PLC0415 - an optional extra
    except ImportError as error:  # Ray is there, and what its Serve needs is not
        raise MissingDependencyError("ray", "ray-serve") from error
    return serve


def application(plan: Plan, replicas: Replicas, **more: Any) -> Any:
    """The gateway as an application of Serve. more: options of its deployment.

    Raises MissingDependencyError without the extra ``ray-serve``.
    """
    serve, limits = load_serve(), plan.config.limits
    deployment = serve.deployment(
        serve.ingress()(Replica),
        name=DEPLOYMENT,
        max_ongoing_requests=limits.connections,
        max_queued_requests=limits.connections,
        graceful_shutdown_timeout_s=max(limits.timeout, _STREAM_SECONDS) + _MORE_SECONDS,
        ray_actor_options={"num_cpus": 1, "num_gpus": int(plan.on_gpu)},
        **replicas.options(),
        **more,
    )
    return deployment.bind(plan)


def app(args: Mapping[str, Any]) -> Any:
    """For Serve's configuration files: ``import_path: maskrestore.distributed.serve:app``.

    args: ``config``, the path of a TOML file on the head of the cluster, or its content as a mapping; ``key_file``, a
    path on each machine; ``replicas``, such as 2 or 1:8; ``revision``, any text: Serve looks at the file again when it
    changes. Raises ConfigError and MissingDependencyError.
    """
    unknown = set(args) - ARGUMENTS
    if unknown or "config" not in args:
        raise ConfigError(f"args: expected config, and perhaps key_file, replicas and revision, got {sorted(args)}")
    given, key_file = args["config"], args.get("key_file")
    inline = isinstance(given, Mapping)
    config = checked_config(dict(given), "args.config") if inline else read_config(Path(given))
    plan = plan_of(config, None if key_file is None else Path(key_file))
    return application(plan, Replicas.parsed(str(args.get("replicas", 1))))


def _absolute(text: str) -> str:
    """The name of a file from the root on; other names as they are."""
    return str(Path(text).absolute()) if "://" not in text and Path(text).exists() else text
