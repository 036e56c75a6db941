"""Records for the programs that draw them."""

from maskrestore import PROFILES, BDMAEConfig
from maskrestore.lab.measure.metrics import Metrics
from maskrestore.lab.measure.records import Cost, DefenseEntry, Record, VictimEntry
from maskrestore.runtime.environment import Environment
from maskrestore.statistics import Rate

DEFAULT = PROFILES["default"]


def record(config: BDMAEConfig, right: int) -> Record:
    """right: of 20 images of each kind."""
    rates = Metrics(ca=Rate(right, 20), ba=Rate(right, 20), asr=Rate(20 - right, 20))
    return Record(
        name=f"{right}",
        digest=f"{right}",
        created="2026-01-01T00:00:00+00:00",
        dataset="signs",
        clean_images=20,
        triggered_images=20,
        seed=0,
        attack="badnets:2x2-white",
        victim=VictimEntry(config={}, digest="v", weights="w", precision="float32", ca=None, asr=None),
        defense=DefenseEntry(
            name="bdmae",
            config=config.to_dict(),
            restorer=None,
            restorer_weights=None,
            restorer_precision=None,
            key_fingerprint=None,
        ),
        environment=Environment(commit="c", device="cpu", threads=1, python="3", libraries={}),
        before=rates,
        after=rates,
        kept=right,
        cost=Cost(queries_mean=12.0, queries_max=47, restored_mean=0.1, seconds=1.0, images_per_second=40.0),
    )
