"""Whether all machines of a cluster have the code of this process."""

from __future__ import annotations

from maskrestore.errors import ConfigError
from maskrestore.runtime.environment import own_version, source_digest

__all__ = ["check_nodes"]

_SECONDS = 120.0
"""For an answer of a machine: the first process there has to start."""


def check_nodes() -> None:
    """Ask each machine of the cluster which code it has. Raises ConfigError if it is missing or another one."""
    import ray  # noqa: PLC0415 - an extra
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy as On  # noqa: PLC0415

    ask = ray.remote(num_cpus=0, max_retries=0)(_code)
    nodes = [node for node in ray.nodes() if node["Alive"]]
    asked = [ask.options(scheduling_strategy=On(node["NodeID"], soft=False)).remote() for node in nodes]
    for node, answer in zip(nodes, asked, strict=True):
        address = node["NodeManagerAddress"]
        wanted = f"install maskrestore {own_version()}, as it is here, on all machines"
        try:
            found = ray.get(answer, timeout=_SECONDS)
        except ray.exceptions.RayError as error:
            reason = " ".join(str(error).split())[-300:]
            raise ConfigError(f"the machine {address} cannot run maskrestore: {reason}; {wanted}") from error
        if found != source_digest():
            raise ConfigError(f"the machine {address} has another maskrestore; {wanted}")


def _code() -> str:
    return source_digest()
