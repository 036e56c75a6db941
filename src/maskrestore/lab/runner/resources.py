"""The resources of cells: data sets, victims from the cache and defenses, each loaded once."""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from maskrestore.classifiers import ModuleClassifier
from maskrestore.errors import CheckpointError, MaskRestoreError
from maskrestore.lab.attacks import Attack
from maskrestore.lab.baselines.diffusion_models import DiffusionSettings
from maskrestore.lab.data import ImageDataset, load_dataset
from maskrestore.lab.measure.defenses import DefenseUnderTest, VictimUnderTest, make_defense
from maskrestore.lab.measure.detection import DetectorUnderTest, make_detector
from maskrestore.lab.measure.record_files import read_records
from maskrestore.lab.measure.records import DefenseEntry, Record, VictimEntry
from maskrestore.lab.measure.restoration_cache import CachedRestorer
from maskrestore.lab.paper.cells import Cell, Variant
from maskrestore.lab.victims import (
    TrainingProgress,
    VictimConfig,
    load_victim,
    read_victim_record,
    victim_attack,
    victim_path,
)
from maskrestore.mae.checkpoints.weight_files import weights_digest
from maskrestore.mae.choice import named_restorer
from maskrestore.mae.restorer import MAERestorer
from maskrestore.runtime.digests import digest, raw_digest
from maskrestore.runtime.precision import fast_arithmetic

__all__ = ["Resources", "Trainer", "diffusion_digest", "make_resources", "victim_under_test"]


Trainer = Callable[[VictimConfig, Callable[[TrainingProgress], None]], object]
"""Trains a victim unless it is in the cache, stores it and reports the progress."""


@dataclass(frozen=True, kw_only=True)
class Resources:
    """The functions that provide what a cell needs."""

    dataset: Callable[[str], ImageDataset]
    """The test split of a data set."""
    attack: Callable[[Cell], Attack | None]
    victim: Callable[[VictimConfig], VictimUnderTest | None]
    """Load a victim; ``None`` if it is not trained."""
    trained: Callable[[VictimConfig], bool]
    """Whether a victim is trained. Does not load it."""
    victim_file: Callable[[VictimConfig], Path]
    """Path of a victim's weights. The lock of its training is beside it."""
    defense: Callable[[Cell], DefenseUnderTest]
    detector: Callable[[Cell], DetectorUnderTest]
    forget: Callable[[], None] = lambda: None
    """Clears the caches of restorations. Called before another victim is loaded, because they are per victim."""
    train: Trainer | None = None
    """``None``: cells whose victim is not trained are skipped."""
    known: Mapping[str, Record] = field(default_factory=dict)
    """Records of ``evaluate`` by digest. A cell with the same digest is not measured again."""
    device: str = "cpu"


def make_resources(
    *,
    data: Path | None = None,
    cache: Path | None = None,
    diffusion: Path | None = None,
    device: str = "cpu",
    train: Trainer | None = None,
    known: Sequence[Path] = (),
) -> Resources:
    """Return the resources of this machine.

    data: folder of data sets, as in ``load_dataset``. cache: folder of victims. diffusion: folder with a diffusion
    model that replaces the defenses' default; its digest (``diffusion_digest``) is part of the cells. device: where
    networks run. train: trains victims that the cache lacks. known: files or folders with records of ``evaluate``, to
    use instead of measuring the same cell. Raises DataError if one of them has no records or is broken.
    """

    @functools.cache
    def test_split(name: str) -> ImageDataset:
        return load_dataset(name, "test", folder=data)

    @functools.cache
    def restorer(name: str) -> MAERestorer:
        return named_restorer(name, device=device)

    def attack(cell: Cell) -> Attack | None:
        return victim_attack(cell.poisoned, cache)

    caches: dict[str, CachedRestorer] = {}

    def cached_restorer(name: str) -> CachedRestorer:
        return caches.setdefault(name, CachedRestorer(restorer(name)))

    def forget() -> None:
        for one in caches.values():
            one.forget()

    @functools.cache
    def build(
        variant: Variant, dataset: str, architecture: str, repeat: int, name: str, *, shared: bool
    ) -> DefenseUnderTest | MaskRestoreError:
        config = variant.config(architecture)
        folder = diffusion if isinstance(config, DiffusionSettings) else None
        own = dataclasses.replace(config, model=str(folder)) if folder is not None else config
        load = functools.partial(cached_restorer if shared else restorer, name)
        try:
            built = make_defense(
                variant.defense,
                own,
                dataset=dataset,
                restorer=load,
                restorer_name=name,
                key=repeat,
                device=device,
            )
        except MaskRestoreError as error:  # cache the error as well, because loading it again takes time
            return error
        built = dataclasses.replace(built, shares_restorations=shared)
        return built if folder is None else dataclasses.replace(built, entry=_portable(built.entry, variant, folder))

    def defense(cell: Cell) -> DefenseUnderTest:
        built = build(
            cell.variant,
            cell.case.dataset,
            cell.case.architecture,
            cell.repeat,
            cell.restorer,
            shared=cell.scale.shares_restorations,
        )
        if isinstance(built, MaskRestoreError):
            raise built
        return built

    return Resources(
        dataset=test_split,
        attack=attack,
        victim=lambda config: victim_under_test(config, cache, device=device),
        trained=lambda config: read_victim_record(config, cache) is not None,
        victim_file=lambda config: victim_path(config, cache),
        defense=defense,
        detector=lambda cell: make_detector(cell.variant.defense, key=cell.repeat),
        forget=forget,
        train=train,
        known={one.digest: one for folder in known for one in read_records(folder) if not one.cost.shared_restorations},
        device=device,
    )


def victim_under_test(config: VictimConfig, cache: Path | None, *, device: str = "cpu") -> VictimUnderTest | None:
    """Load a victim and its entry for a record, or return ``None`` when it is not trained.

    Raises CheckpointError when its files are broken.
    """
    measured = read_victim_record(config, cache)
    if measured is None:
        return None
    network = load_victim(config, cache)
    precision = fast_arithmetic(device)
    entry = VictimEntry(
        config=json.loads(json.dumps(config.canonical())),
        digest=config.digest(),
        weights=weights_digest(network) or "",
        precision=precision,
        ca=measured.get("clean_accuracy"),
        asr=measured.get("attack_success_rate"),
        cross_trigger=measured.get("cross_trigger_accuracy"),
    )
    return VictimUnderTest(classifier=ModuleClassifier(network, precision=precision, device=device), entry=entry)


def _portable(entry: DefenseEntry, variant: Variant, diffusion: Path) -> DefenseEntry:
    """Return the entry of a diffusion defense with the name of its model instead of the path on this machine."""
    changed = ",".join(f"{name}={value}" for name, value in variant.settings)
    name = variant.defense + (f"[{changed}]" if changed else "")
    return dataclasses.replace(
        entry,
        name=name,
        config={**entry.config, "model": diffusion.name},
        restorer=diffusion.name,
        restorer_weights=diffusion_digest(diffusion),
        restorer_precision=entry.config["precision"],
    )


@functools.cache
def diffusion_digest(folder: Path) -> str:
    """Return 16 hexadecimal digits that identify the diffusion model in a folder: its weights and configuration.

    Raises CheckpointError for a folder without safetensors.
    """
    network = folder / "unet" if (folder / "unet").is_dir() else folder  # a saved pipeline has the subfolder
    weights = sorted(network.glob("*.safetensors"))
    if not weights:
        raise CheckpointError(f"{folder} contains no diffusion model: expected config.json and *.safetensors in it")
    files = [path for path in (network / "config.json", *weights) if path.exists()]
    return digest(path.name.encode() + raw_digest([path.read_bytes()]) for path in files)
