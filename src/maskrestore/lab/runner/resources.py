"""What cells are made of: data sets, victims of the cache, defenses, each loaded once."""

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
from maskrestore.lab.victims import TrainingProgress, VictimConfig, load_victim, read_record, victim_attack, victim_path
from maskrestore.mae.checkpoints.weight_files import weights_digest
from maskrestore.mae.restorer import MAERestorer, load_restorer
from maskrestore.runtime.digests import digest, raw_digest
from maskrestore.runtime.precision import fast_arithmetic

__all__ = ["Resources", "Trainer", "diffusion_digest", "make_resources", "victim_under_test"]


Trainer = Callable[[VictimConfig, Callable[[TrainingProgress], None]], object]
"""Trains a victim unless the cache has it, keeps it, and reports its progress."""


@dataclass(frozen=True, kw_only=True)
class Resources:
    """Loads what a cell needs: data, attack, victim, defense. Tests replace it by small fakes."""

    dataset: Callable[[str], ImageDataset]
    """The test split of a data set."""
    attack: Callable[[Cell], Attack | None]
    victim: Callable[[VictimConfig], VictimUnderTest | None]
    """``None`` for one that is not trained."""
    trained: Callable[[VictimConfig], bool]
    """Whether there is such a victim; does not load it."""
    victim_file: Callable[[VictimConfig], Path]
    """Where the victim is kept; the lock of its training lies beside it."""
    defense: Callable[[Cell], DefenseUnderTest]
    detector: Callable[[Cell], DetectorUnderTest]
    forget: Callable[[], None] = lambda: None
    """Called when another victim is loaded: empties the cache of restorations."""
    train: Trainer | None = None
    """``None`` leaves cells without a victim out."""
    known: Mapping[str, Record] = field(default_factory=dict)
    """Records of ``evaluate`` by their digest; a cell with the same digest is not measured again."""
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
    """Data of ``data`` (else as ``load_dataset`` finds them), victims of ``cache``.

    diffusion: a folder with a diffusion model in place of the defenses' own; its cells carry its ``diffusion_digest``.
    device: where networks run. train: trains a victim that the cache lacks. known: record files of ``evaluate``, or
    folders with one; these records stand for the cells that they are. Raises DataError if one has none or is broken.
    """

    @functools.cache
    def test_split(name: str) -> ImageDataset:
        return load_dataset(name, "test", folder=data)

    @functools.cache
    def restorer(name: str) -> MAERestorer:
        return load_restorer(name, device=device)

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
        variant: Variant, architecture: str, repeat: int, name: str, *, shared: bool
    ) -> DefenseUnderTest | MaskRestoreError:
        config = variant.config(architecture)
        folder = diffusion if isinstance(config, DiffusionSettings) else None
        own = dataclasses.replace(config, model=str(folder)) if folder is not None else config
        load = functools.partial(cached_restorer if shared else restorer, name)
        try:
            built = make_defense(variant.defense, own, restorer=load, restorer_name=name, key=repeat, device=device)
        except MaskRestoreError as error:  # cached: the next cell would wait for the same error
            return error
        built = dataclasses.replace(built, shares_restorations=shared)
        return built if folder is None else dataclasses.replace(built, entry=_portable(built.entry, variant, folder))

    def defense(cell: Cell) -> DefenseUnderTest:
        built = build(
            cell.variant,
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
        trained=lambda config: read_record(config, cache) is not None,
        victim_file=lambda config: victim_path(config, cache),
        defense=defense,
        detector=lambda cell: make_detector(cell.variant.defense, key=cell.repeat),
        forget=forget,
        train=train,
        known={one.digest: one for folder in known for one in read_records(folder) if not one.cost.recalled},
        device=device,
    )


def victim_under_test(config: VictimConfig, cache: Path | None, *, device: str = "cpu") -> VictimUnderTest | None:
    """Load a victim with what a record says about it, or ``None`` when it is not trained. Raises CheckpointError."""
    measured = read_record(config, cache)
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
    """The entry of a defense by diffusion without the absolute path of its model."""
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
    """Sixteen hex digits that identify the diffusion model of a folder: its weights and their configuration.

    Raises CheckpointError for a folder without safetensors.
    """
    network = folder / "unet" if (folder / "unet").is_dir() else folder  # as in a saved pipeline
    weights = sorted(network.glob("*.safetensors"))
    if not weights:
        raise CheckpointError(f"{folder} holds no diffusion model: expected config.json and *.safetensors in it")
    files = [path for path in (network / "config.json", *weights) if path.exists()]
    return digest(path.name.encode() + raw_digest([path.read_bytes()]) for path in files)
