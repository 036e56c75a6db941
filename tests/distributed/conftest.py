import os
import sys

import pytest

from maskrestore.distributed.cluster import load_ray


@pytest.fixture(scope="session")
def cluster():
    """A Ray cluster of two cores on this machine, whose workers find the modules of the tests."""
    ray = load_ray()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S", "60")  # on a busy machine
        patch.setenv("PYTHONPATH", os.pathsep.join(path for path in sys.path if path))
        ray.init(
            address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, object_store_memory=200_000_000
        )
    yield ray
    ray.shutdown()
