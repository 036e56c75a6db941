"""``maskrestore serve --ray``: run a gateway on a cluster as long as this process runs."""

from __future__ import annotations

import logging
import os
import queue
import signal
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from maskrestore.distributed.cluster import connect
from maskrestore.distributed.nodes import check_nodes
from maskrestore.distributed.serve import Plan, Replicas, application, check_place, load_serve, plan_of
from maskrestore.errors import ConfigError, MaskRestoreError
from maskrestore.gateway.config import GatewayConfig
from maskrestore.gateway.process import Listening, log_as_json
from maskrestore.gateway.server import check_open

__all__ = ["NAME", "serve_on_ray"]

_LOG = logging.getLogger(__name__)
NAME = "maskrestore"
"""Of the application."""


def serve_on_ray(
    config: GatewayConfig,
    where: Listening,
    *,
    address: str | None,
    replicas: Replicas,
    key_file: Path | None,
    read_config: Callable[[], GatewayConfig] | None = None,
    told: Callable[[str], None] = lambda _: None,
) -> None:
    """Answer requests until SIGTERM or SIGINT; then those that were accepted get their answers.

    SIGHUP reads the configuration again, and replaces the replicas one after the other. address: as for
    :func:`~maskrestore.distributed.cluster.connect`. told: is told the address of the gateway. Raises ConfigError, and
    MissingDependencyError without the extra ``ray-serve``.
    """
    check_open(config, where.host)
    if where.proxies is not None:
        raise ConfigError("--proxies is not for --ray: Serve's proxy does not tell the gateway what other proxies said")
    serve = load_serve()
    log_as_json()
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    os.environ.setdefault("RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S", "60")  # by itself, Serve waits 5 s on a busy machine
    # One core more than replicas, for updates: the cores of this machine are shared in any case.
    cpus = max(os.cpu_count() or 1, replicas.most + 1)
    with tempfile.TemporaryDirectory(prefix="maskrestore-") as folder, connect(address, cpus=cpus) as new:
        plan = plan_of(_with_decisions(config, Path(folder)) if new else config, key_file)
        check_nodes()
        _start(serve, where)
        check_place(plan.config)
        try:
            with suppress(KeyboardInterrupt):
                _deploy(serve, plan, replicas)
                told(_begun(where))
                _follow_signals(serve, plan, replicas, read_config)
        finally:
            serve.delete(NAME)
            if new:
                serve.shutdown()


def _begun(where: Listening) -> str:
    """The address, which the log gets."""
    address = f"{'http' if where.tls_certificate is None else 'https'}://{where.host}:{where.port}"
    _LOG.info("listening", extra={"address": address})
    return address


def _follow_signals(
    serve: Any, plan: Plan, replicas: Replicas, read_config: Callable[[], GatewayConfig] | None
) -> None:
    """Do what signals say, until one says to end."""
    wanted: queue.SimpleQueue[str] = queue.SimpleQueue()
    for number, word in ((signal.SIGTERM, "end"), (signal.SIGINT, "end"), (signal.SIGHUP, "again")):
        signal.signal(number, lambda *_, word=word: wanted.put(word))
    for _ in iter(wanted.get, "end"):
        if read_config is None:
            _LOG.warning("there is no configuration file to read again")
        else:
            plan = _reloaded(serve, plan, replicas, read_config)


def _with_decisions(config: GatewayConfig, folder: Path) -> GatewayConfig:
    """For a cluster that ends with this process, a file that does so, too, if there is no other place."""
    if config.decisions.path is not None or config.decisions.url is not None:
        return config
    decisions = config.decisions.model_copy(update={"path": folder / "decisions.sqlite"})
    return config.model_copy(update={"decisions": decisions})


def _start(serve: Any, where: Listening) -> None:
    """Let Serve listen. Raises ConfigError if it cannot, or listens elsewhere already."""
    from ray.exceptions import RayError  # noqa: PLC0415 - an optional extra
    from ray.serve.context import _get_global_client  # noqa: PLC0415

    options: dict[str, Any] = {"host": where.host, "port": where.port}
    if where.tls_certificate is not None:
        options |= {"ssl_certfile": str(where.tls_certificate), "ssl_keyfile": str(where.tls_key)}
    try:
        serve.start(http_options=options)
    except (RayError, TimeoutError) as error:
        raise ConfigError(
            f"Serve cannot listen at {where.host}:{where.port}: {' '.join(str(error).split())}"
        ) from error
    found = _get_global_client().http_config
    others = [name for name, value in options.items() if getattr(found, name) != value]
    if others:
        raise ConfigError(
            f"Serve runs on this cluster already, at {found.host}:{found.port}; give the same --host, --port and "
            f"certificates, or end it with `serve shutdown` (other: {', '.join(others)})"
        )


def _deploy(serve: Any, plan: Plan, replicas: Replicas) -> None:
    """Replace what runs, one replica after the other. Raises ConfigError if the new replicas do not start.

    Where there is room for one more, new ones start before old ones end.
    """
    import ray  # noqa: PLC0415 - an optional extra

    free = ray.available_resources()
    room = free.get("CPU", 0) >= 1 and (not plan.on_gpu or free.get("GPU", 0) >= 1)
    try:
        serve.run(application(plan, replicas, max_surge_percent=100 * room), name=NAME, route_prefix="/")
    except RuntimeError as error:
        raise ConfigError(f"Serve cannot start the gateway: {_reason(serve) or error}") from error


def _reason(serve: Any) -> str:
    """What the last replica that could not start said at last."""
    deployments = serve.status().applications[NAME].deployments
    lines = [line for one in deployments.values() for line in one.message.splitlines() if line.strip()]
    return lines[-1].strip() if lines else ""


def _reloaded(serve: Any, plan: Plan, replicas: Replicas, read_config: Callable[[], GatewayConfig]) -> Plan:
    """The plan of the configuration as it is now, if that can be used."""
    try:
        config = read_config()
        decisions = config.decisions if config.decisions.path or config.decisions.url else plan.config.decisions
        new = plan_of(config.model_copy(update={"decisions": decisions}), plan.key_file)
        check_place(new.config)
    except (MaskRestoreError, OSError) as error:
        _LOG.error("the configuration stays as it was: %s", error)
        return plan
    try:
        _deploy(serve, new, replicas)
    except MaskRestoreError as error:
        _LOG.error("the configuration becomes again what it was: %s", error)
        _deploy(serve, plan, replicas)
        return plan
    _LOG.warning("the configuration was read again")
    return new
