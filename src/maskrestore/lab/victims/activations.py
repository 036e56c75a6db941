"""Fine-tune the last blocks of a pretrained network on stored activations of its first blocks.

The first blocks of a pretrained network are the costly ones (two thirds of EfficientNet-Lite0's time, and their
backward pass is slower still), and they need not change. So they run once for each picture; the other blocks are
trained on what they answered, in half precision.

What is stored must be what the network would see in training. So the only augmentation is the mirror image: each
picture is stored in both views, and a view with a trigger is computed from the mirrored picture with the trigger in its
place. Shifts, squares and changes of contrast have too many outcomes to store and are refused.

Clean activations are files in the cache that all victims with the same first blocks share; triggered ones are kept in
memory.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from maskrestore.errors import ConfigError
from maskrestore.lab.attacks import Attack, LearnedAttack, choose_poisoned, training_hooks
from maskrestore.lab.data import ImageDataset, images_at_once
from maskrestore.lab.victims.config import VictimConfig
from maskrestore.lab.victims.poisoning import Plan
from maskrestore.lab.victims.pretrained import PretrainedNetwork
from maskrestore.lab.victims.store import cache_folder
from maskrestore.runtime.digests import digest

__all__ = ["stored_in_words", "stored_plan"]

_AT_ONCE = 500
_SAMPLED = 20
"""Pictures that identify a split, besides its labels."""

Notify = Callable[[int, int], None]
"""Called with the number of pictures done and the number of all."""


def stored_plan(
    train: ImageDataset,
    attack: Attack | None,
    config: VictimConfig,
    network: PretrainedNetwork,
    *,
    cache: Path | str | None = None,
    notify: Notify = lambda done, total: None,
) -> Plan:
    """Return a plan whose images are activations ``(M, C, h, w)`` of the first ``frozen_blocks`` blocks.

    An epoch shows each clean picture once in each view, and each poisoned one ``poison_repeats`` times, always with
    the trigger. notify: called while activations are computed. Raises ConfigError for an augmentation that cannot be
    stored and for an attack that changes its trigger or its images in training, and as ``choose_poisoned`` does.
    """
    recipe = config.training
    augmentation = recipe.augmentation
    if augmentation.shift or augmentation.cutout or augmentation.jitter or config.restored_rate:
        raise ConfigError(
            "with frozen_blocks the only augmentation is flip: set recipe.augmentation.shift, cutout and jitter and "
            f"restored_rate to 0, got {augmentation} and {config.restored_rate}"
        )
    views = (False, True) if augmentation.flip else (False,)
    early = network.cut(recipe.frozen_blocks)[0].eval().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    path = _path(train, early, recipe.frozen_blocks, views, cache)
    clean = _stored(train, early, views, path, notify)
    device, own = train.labels.device, train.labels.cpu()
    labels = own.repeat(len(views))
    if attack is None:
        return _plan(clean, labels, torch.arange(len(labels)), device)
    hooks = training_hooks(attack)
    if isinstance(attack, LearnedAttack) or any((hooks.vary, hooks.decoy, hooks.perturb)) or config.augmented_trigger:
        raise ConfigError(
            f"{attack.name} changes its trigger or its images in training, so that activations cannot be stored; "
            "set recipe.frozen_blocks=0"
        )
    chosen = choose_poisoned(own, attack, config.poisoning.rate, config.seed)
    poisoned = torch.zeros(len(own), dtype=torch.bool)
    poisoned[chosen] = True
    triggered = torch.empty((len(views) * len(chosen), *clean.shape[1:]), dtype=torch.half)
    _compute(train, early, views, triggered, notify, rows=chosen, change=attack.apply)
    wanted = attack.poisoned_label(own[chosen]).repeat(len(views))
    rows = torch.arange(len(labels))[~poisoned.repeat(len(views))]
    shown = (len(labels) + torch.arange(len(wanted))).repeat(config.poisoning.repeats)
    return _plan(_Joined(clean, triggered), torch.cat([labels, wanted]), torch.cat([rows, shown]), device)


def stored_in_words(config: VictimConfig) -> str:
    """Say for a record what the last blocks are trained on."""
    views = "each picture and its mirror image" if config.training.augmentation.flip else "each picture as it is"
    trigger = "" if config.attack is None else "; the trigger is added to the view, in its place"
    blocks = config.training.frozen_blocks
    return f"activations of the stem and the first {blocks} blocks in half precision, of {views}{trigger}"


def _plan(activations: Tensor | _Joined, labels: Tensor, epoch: Tensor, device: torch.device) -> Plan:
    """All arguments but ``device``, where the network is, are in main memory."""
    return Plan(
        images=activations,
        epoch=epoch,
        stamp=lambda batch, indices, generator: (batch.to(device), labels[indices].to(device)),
    )


class _Joined:
    """Two tensors of rows, indexed as if they were one. Does not copy the first, which is a file of gigabytes."""

    def __init__(self, first: Tensor, second: Tensor) -> None:
        self._first, self._second = first, second
        self.shape = torch.Size((len(first) + len(second), *first.shape[1:]))
        self.device = first.device

    def __getitem__(self, rows: Tensor) -> Tensor:
        out = torch.empty((len(rows), *self.shape[1:]), dtype=self._first.dtype)
        later = rows >= len(self._first)
        out[~later] = self._first[rows[~later]]
        out[later] = self._second[rows[later] - len(self._first)]
        return out


def _path(
    train: ImageDataset, early: nn.Module, blocks: int, views: tuple[bool, ...], cache: Path | str | None
) -> Path:
    """Name the file by all that the activations depend on: pictures (a sample of them), labels, weights and views."""
    sample = train.images[torch.linspace(0, len(train.labels) - 1, _SAMPLED).long()]
    tensors = [*early.state_dict().values(), train.labels, sample]
    name = digest(tensor.contiguous().cpu().numpy().tobytes() for tensor in tensors)
    file = f"{train.name}-{train.images.shape[-1]}-{blocks}blocks-{len(views)}views-{name}.f16"
    return cache_folder(cache) / "activations" / file


def _stored(train: ImageDataset, early: nn.Module, views: tuple[bool, ...], path: Path, notify: Notify) -> Tensor:
    """Return the activations of all views ``(views*N, C, h, w)`` from the file, which is written if it is missing."""
    with torch.inference_mode():
        shape = (len(views) * len(train.labels), *early(train.images[:1].float() / 255).shape[1:])
    count = torch.Size(shape).numel()
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial")
        partial.unlink(missing_ok=True)
        mapped = torch.from_file(str(partial), shared=True, size=count, dtype=torch.half).view(shape)
        _compute(train, early, views, mapped, notify)
        partial.replace(path)
    return torch.from_file(str(path), shared=False, size=count, dtype=torch.half).view(shape)


@torch.inference_mode()
def _compute(
    train: ImageDataset,
    early: nn.Module,
    views: tuple[bool, ...],
    out: Tensor,
    notify: Notify,
    *,
    rows: Tensor | None = None,
    change: Callable[[Tensor], Tensor] = lambda images: images,
) -> None:
    """Write the activations of each view, one view after the other, into ``out`` ``(views*K, C, h, w)``.

    rows: ``(K,)`` pictures; ``None`` for all. change: adds the trigger to a view.
    """
    chosen = torch.arange(len(train.labels)) if rows is None else rows
    at_once = images_at_once(train.images, _AT_ONCE)
    for start in range(0, len(chosen), at_once):
        images = train.images[chosen[start : start + at_once]].float() / 255
        for number, mirrored in enumerate(views):
            view = change(images.flip(3) if mirrored else images).contiguous(memory_format=torch.channels_last)
            place = number * len(chosen) + start
            out[place : place + len(images)] = early(view).half()
        notify(min(start + at_once, len(chosen)), len(chosen))
