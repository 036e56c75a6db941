"""Small Ray clusters on this machine, for tests: no dashboard, little memory, a folder of their own."""

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import pytest

NODE = {"object_store_memory": 200_000_000}
"""Arguments of any node."""


@contextmanager
def small_cluster(*, cpus: int) -> Iterator[Any]:
    """A ``ray.cluster_utils.Cluster`` with one node, to which others can be added. This process is not connected to it.

    While it runs, ``ray.init()`` finds it and no other cluster of this machine.
    """
    pytest.importorskip("ray")
    # A short name, because sockets with long ones cannot be opened.
    with tempfile.TemporaryDirectory(prefix="rc", dir="/tmp", ignore_cleanup_errors=True) as folder:
        settings = {
            "RAY_TMPDIR": folder,
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_worker_niceness": "0",  # else they hardly get on beside another program
            "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "60",  # on a busy machine
            "PYTHONPATH": os.pathsep.join(sys.path),  # workers import modules of tests
        }
        with mock.patch.dict(os.environ, settings):
            os.environ.pop("RAY_ADDRESS", None)
            from ray.cluster_utils import Cluster

            cluster = Cluster(
                initialize_head=True, head_node_args={"num_cpus": cpus, "include_dashboard": False, **NODE}
            )
            try:
                yield cluster
            finally:
                cluster.shutdown()
