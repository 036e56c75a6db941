import pytest

from maskrestore.distributed.cluster import load_ray
from ray_clusters import small_cluster


@pytest.fixture(scope="module")
def cluster():
    """A Ray cluster of two cores on this machine, which this process is connected to."""
    ray = load_ray()
    with small_cluster(cpus=2) as started:
        ray.init(address=started.address, log_to_driver=False)
        yield ray
        ray.shutdown()
