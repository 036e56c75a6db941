"""Train a victim, clean or with a backdoor, measure it and save it in the cache."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from maskrestore.errors import ConfigError, DataError
from maskrestore.lab.attacks import Attack, InputAwareAttack, LearnedAttack, MultiAttack, make_attack, training_hooks
from maskrestore.lab.data import ImageDataset, StoredImages, images_at_once, load_dataset
from maskrestore.lab.victims.activations import Notify, stored_in_words, stored_plan
from maskrestore.lab.victims.config import VictimConfig
from maskrestore.lab.victims.fit import TrainingProgress, fit, predict
from maskrestore.lab.victims.joint import joint_plan
from maskrestore.lab.victims.network import VictimNetwork
from maskrestore.lab.victims.poisoning import Plan, Restoration, clean_plan, poisoning_plan, with_restoration
from maskrestore.lab.victims.pretrained import PretrainedNetwork
from maskrestore.lab.victims.starts import provided_start
from maskrestore.lab.victims.store import (
    build_network,
    load_trigger,
    load_victim,
    read_victim_record,
    save_victim,
    victim_path,
)
from maskrestore.runtime.precision import autocast, fast_arithmetic

__all__ = ["VictimData", "measure", "train_victim", "untrained_attack", "victim_attack"]

_QUICK_CHECK = 2000  # test images for the accuracy during training; the final one uses all test images
_QUICK_PHOTOGRAPHS = 200  # the same for photographs
_CHUNK = 500  # most test images per forward pass of the attack, to bound memory


@dataclass(frozen=True, kw_only=True)
class VictimData:
    """The two splits of a data set."""

    train: ImageDataset
    test: ImageDataset

    @classmethod
    def load(cls, name: str, folder: Path | str | None = None) -> VictimData:
        """Load both splits. Raises what ``load_dataset`` raises."""
        return cls(
            train=load_dataset(name, "train", folder=folder),
            test=load_dataset(name, "test", folder=folder),
        )


Report = Callable[[VictimConfig, TrainingProgress, float | None], None]
"""Called at intervals during training. The last argument is the accuracy on 2,000 test images or 200 photographs at the
end of an epoch, else ``None``."""


def victim_attack(config: VictimConfig, cache: Path | str | None = None) -> Attack | None:
    """Build the attack of a victim, or return ``None`` for a clean one.

    The networks of a learned trigger are loaded from the cache. Raises CheckpointError when such a victim has not been
    trained, and what :func:`untrained_attack` raises.
    """
    attack = untrained_attack(config)
    if isinstance(attack, LearnedAttack):
        load_trigger(config, attack.networks, cache)
    return attack


def untrained_attack(config: VictimConfig) -> Attack | None:
    """Build the attack of a victim with untrained trigger networks, or return ``None`` for a clean victim.

    Raises UnknownNameError or ConfigError for an unknown attack, variant or setting.
    """
    if config.attack is None:
        return None
    spec = config.spec
    return make_attack(
        config.attack,
        num_classes=len(spec.class_names),
        image_size=spec.image_size,
        target=config.target,
        mode=config.mode,
        seed=config.seed,
        position=config.position,
    )


def train_victim(
    config: VictimConfig,
    data: VictimData,
    *,
    cache: Path | str | None = None,
    report: Report = lambda config, state, accuracy: None,
    restoration: Restoration | None = None,
    use_provided: bool = True,
    notify: Notify = lambda done, total: None,
    device: str | torch.device = "cpu",
) -> dict[str, Any]:
    """Train a victim unless it is in the cache or in the repository. Returns its record.

    If the clean victim is needed and missing, it is trained first. An interrupted run resumes after its last complete
    epoch. Triggers are added after augmentation, at the same position as at test time (but see
    ``config.augmented_trigger``). The poisoned images are the same in every epoch.

    Args:
        config: the victim.
        data: both splits of ``config.dataset``.
        cache: folder of trained victims; see ``cache_folder``.
        report: called with the progress during training.
        restoration: needed when ``config.restored_rate`` is above 0.
        use_provided: use the victim from the repository (``starts.py``) if there is one, instead of training it.
        notify: called while the activations of a pretrained network's first blocks are computed.
        device: for training and measuring. All devices draw the same random numbers but round differently, so the
            weights differ between devices.

    Returns:
        The configuration, its digest and that of the clean victim; the accuracy on the test split
        ("clean_accuracy"); on triggered test images without the target class, the accuracy ("backdoor_accuracy") and
        "attack_success_rate"; the seconds of training; the arithmetic of the network ("precision"). If blocks are
        frozen, what the others were trained on ("trained_on"), and the seconds to compute it. For attacks with a
        trigger per image also the accuracy on images with the trigger of another image ("cross_trigger_accuracy").

    Raises:
        DataError: the data are not those of ``config.dataset``, or do not fill one batch.
        CheckpointError: a file in the cache is broken, or a provided one is missing.
        ConfigError: the attack does not fit the configuration, the restoration is missing or has other weights, or
            training diverges.
    """
    known = read_victim_record(config, cache)
    if known is not None:
        return known
    for split in (data.train, data.test):
        if split.name != config.dataset:
            raise DataError(f"the victim is of {config.dataset}, but the data are {split.name}; pass the victim's data")
    train, test = (_on(split, device) for split in (data.train, data.test))
    if config.training.most_images is not None:
        train = train.sample(config.training.most_images, seed=0)  # the same for all victims, so that they share files
    provided = provided_start(config) if use_provided else None
    if provided is not None:
        record = {**provided[1], **measure(provided[0].to(device), test, None)}
        save_victim(config, provided[0], record, cache)
        return record

    def clean_victim() -> VictimNetwork:
        train_victim(config.clean(), data, cache=cache, report=report, notify=notify, device=device)
        return load_victim(config.clean(), cache)

    attack = untrained_attack(config)
    if isinstance(attack, LearnedAttack):
        attack.networks.to(device)
    network = (clean_victim() if config.fine_tuned else _new_network(config, train)).to(device)
    early, late = _cut(network, config)
    notes: dict[str, Any] = {}
    if isinstance(network, PretrainedNetwork) and config.training.frozen_blocks:
        began = time.perf_counter()
        plan = stored_plan(train, attack, config, network, cache=cache, notify=notify)
        notes = {"trained_on": stored_in_words(config), "activation_seconds": round(time.perf_counter() - began, 1)}
    else:
        plan = with_restoration(_plan(config, train, attack, clean_victim), config, restoration)
    checkpoint = victim_path(config, cache).with_suffix(".state.pt")

    if isinstance(test.images, StoredImages):
        quick = test.sample(_QUICK_PHOTOGRAPHS, seed=0)
    else:
        quick = replace(test, images=test.images[:_QUICK_CHECK], labels=test.labels[:_QUICK_CHECK])

    def on_report(state: TrainingProgress, network: nn.Module) -> None:
        checked = None
        if state.epoch % 1 == 0 or state.step == state.steps:
            checked = _accuracy(nn.Sequential(early, network), quick.images, quick.labels)
            network.train()
        report(config, state, checked)

    seconds = fit(
        late,
        plan.images,
        plan.epoch,
        plan.stamp,
        config.training,
        seed=config.seed,
        tag=config.digest(),
        checkpoint=checkpoint,
        on_report=on_report,
        companion=plan.companion,
    )
    trigger = attack.networks.eval() if isinstance(attack, LearnedAttack) else None
    record = {
        "digest": config.digest(),
        "config": config.canonical(),
        **measure(network, test, attack),
        "seconds": round(seconds, 1),
        **notes,
        "precision": fast_arithmetic(device),
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name(device) if torch.device(device).type == "cuda" else str(device),
        "torch": torch.__version__,
    }
    save_victim(config, network, record, cache, trigger=trigger)
    checkpoint.unlink(missing_ok=True)
    return record


def measure(network: nn.Module, test: ImageDataset, attack: Attack | None) -> dict[str, Any]:
    """Measure a victim on a whole test split, in the device's fast arithmetic. Returns accuracies and rates in [0, 1].

    The keys are those of ``train_victim``, and the numbers of images: "test_images" and "triggered_images". With
    several triggers, the rates are means over them, and "attack_success_rates" has that of each.
    """
    at_once = images_at_once(test.images, _CHUNK)
    values: dict[str, Any] = {"clean_accuracy": _accuracy(network, test.images, test.labels)}
    if attack is not None:
        eligible = attack.eligible(test.labels)
        labels = test.labels[eligible]
        rows = eligible.nonzero()[:, 0].split(at_once)  # (K, 1) -> (K,)
        triggers = attack.parts if isinstance(attack, MultiAttack) else {attack.name: attack}
        answers = torch.stack([_answers(network, test, trigger, rows) for trigger in triggers.values()])
        succeeded = (answers == attack.poisoned_label(labels)).double()
        values["backdoor_accuracy"] = (answers == labels).double().mean().item()
        values["attack_success_rate"] = succeeded.mean().item()
        if len(triggers) > 1:
            values["attack_success_rates"] = dict(zip(triggers, succeeded.mean(1).tolist(), strict=True))
        values["triggered_images"] = len(labels)
    if isinstance(attack, InputAwareAttack):
        parts = [part.float() / 255 for part in test.images.split(at_once)]
        crossed = torch.cat([predict(network, attack.cross(part, part.roll(1, 0))) for part in parts])
        values["cross_trigger_accuracy"] = (crossed == test.labels).double().mean().item()
    values["test_images"] = len(test.labels)
    return values


def _answers(network: nn.Module, test: ImageDataset, trigger: Attack, rows: Sequence[Tensor]) -> Tensor:
    """Return the labels ``(K,)`` of the test images ``rows``, which come in parts, with this trigger."""
    return torch.cat([predict(network, trigger.apply(test.images[part].float() / 255)) for part in rows])


def _new_network(config: VictimConfig, train: ImageDataset) -> VictimNetwork:
    """Return a network with pretrained weights, or an untrained one that normalises with the data set's statistics."""
    network = build_network(config)
    if isinstance(network, PretrainedNetwork):
        network.load_backbone(config.backbone)
        return network
    # a tenth of the images is enough for these statistics, and of photographs a few hundred
    step = 10 if isinstance(train.images, Tensor) else max(10, len(train.labels) // 200)
    pixels = train.images[::step].float() / 255
    deviation, mean = torch.std_mean(pixels, dim=(0, 2, 3))
    return build_network(config, mean=tuple(mean.tolist()), std=tuple(deviation.tolist()))


def _plan(
    config: VictimConfig, train: ImageDataset, attack: Attack | None, clean_victim: Callable[[], VictimNetwork]
) -> Plan:
    """Return the training plan. ``clean_victim`` is called only for attacks that perturb images against it.

    Raises ConfigError when ``config.augmented_trigger`` is set for an attack that varies its trigger in each batch.
    """
    if attack is None:
        return clean_plan(train)
    hooks, joint = training_hooks(attack), isinstance(attack, LearnedAttack)
    if config.augmented_trigger and (joint or hooks.vary is not None or hooks.decoy is not None):
        raise ConfigError(
            f"{config.attack} varies its trigger in each batch and does not support augmented_trigger; leave it out"
        )
    if isinstance(attack, LearnedAttack):
        return joint_plan(train, attack, config)
    if hooks.perturb is None:
        return poisoning_plan(train, attack, config, None)
    clean = clean_victim().to(train.images.device).requires_grad_(False)

    def logits(images: Tensor) -> Tensor:
        with autocast(images.device):
            output: Tensor = clean(images)
        return output

    return poisoning_plan(train, attack, config, logits)


def _cut(network: VictimNetwork, config: VictimConfig) -> tuple[nn.Module, nn.Module]:
    """Return the part of the network that keeps its weights and the part that is trained."""
    frozen = config.training.frozen_blocks
    if not frozen:
        return nn.Identity(), network
    if not isinstance(network, PretrainedNetwork):
        raise ConfigError(f"frozen_blocks is for pretrained networks; {config.architecture} is none, set it to 0")
    return network.cut(frozen)


def _on(split: ImageDataset, device: str | torch.device) -> ImageDataset:
    return replace(split, images=split.images.to(device), labels=split.labels.to(device))


def _accuracy(network: nn.Module, images: Tensor | StoredImages, labels: Tensor) -> float:
    return (predict(network, images) == labels).double().mean().item()
