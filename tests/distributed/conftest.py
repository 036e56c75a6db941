import pytest

from maskrestore.distributed.cluster import load_ray


@pytest.fixture(scope="session")
def cluster(tmp_path_factory):
    """A Ray cluster of two cores on this machine."""
    ray = load_ray()
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, object_store_memory=200_000_000)
    yield ray
    ray.shutdown()
