"""Training of a victim together with the networks that generate its triggers.

Source: Nguyen and Tran, Input-Aware Dynamic Backdoor Attack, 2020, and their code: Adam with a learning rate of 0.01
and betas 0.5 and 0.9 for both networks. The mask network is trained alone first, then the pattern network together with
the classifier. A share of each batch carries its own triggers, an equal share those of other images. Departures: the
learning rates follow the classifier's schedule (the authors lower them in steps after hundreds of epochs); the mask
network is trained for 400 batches, not for 25 epochs.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Generator, Tensor

from maskrestore.lab.attacks import InputAwareAttack
from maskrestore.lab.attacks.input_aware import diversity_loss, mask_loss
from maskrestore.lab.data import ImageDataset
from maskrestore.lab.victims.augment import augment
from maskrestore.lab.victims.config import VictimConfig
from maskrestore.lab.victims.fit import one_cycle
from maskrestore.lab.victims.poisoning import Plan, clean_plan
from maskrestore.runtime.precision import autocast

__all__ = ["JointTrigger", "joint_plan", "learn_masks"]

_RATE = 0.01
_BETAS = (0.5, 0.9)
_MASK_STEPS = 400
_MASK_PAIRS = 32


def joint_plan(train: ImageDataset, attack: InputAwareAttack, config: VictimConfig) -> Plan:
    """Return a plan that shows each image once per epoch; part of each batch gets triggers from the networks."""
    joint = JointTrigger(attack, train, config)
    return replace(clean_plan(train), stamp=joint.stamp, companion=joint)


class JointTrigger:
    """Trains the networks of an attack together with the classifier: a ``Stamp`` and its ``Companion``."""

    def __init__(self, attack: InputAwareAttack, train: ImageDataset, config: VictimConfig) -> None:
        """The poison rate is the share of each batch with its own triggers. An equal share has those of others."""
        self._attack = attack
        self._train = train
        self._config = config
        self._pattern = attack.networks["pattern"]
        self._optimizer = torch.optim.Adam(self._pattern.parameters(), lr=_RATE, betas=_BETAS)
        self._diversity = torch.zeros(())

    def begin(self) -> None:
        """Train the mask network. It is frozen afterwards."""
        learn_masks(self._attack, self._train, self._config, steps=_MASK_STEPS)

    def stamp(self, images: Tensor, indices: Tensor, generator: Generator) -> tuple[Tensor, Tensor]:
        """Return the batch ``(B, 3, H, W)`` with triggers, and its labels ``(B,)``.

        The first images get their own triggers and the wanted label. The next ones get the triggers of the last images
        and keep their label. The batch is already in random order, so taking fixed positions is a random choice.
        """
        count = max(1, min(round(self._config.poisoning.rate * len(images)), len(images) // 3))
        carriers, rest = images[: 2 * count], images[2 * count :]
        own, others = images[:count], rest[-count:]
        sources = torch.cat([own, others])
        self._pattern.train()
        with autocast(images.device):
            patterns = self._pattern(sources)
            with torch.no_grad():
                masks = self._attack.mask(sources)
        self._diversity = diversity_loss((own, others), (patterns[:count], patterns[count:]))
        labels = self._train.labels[indices]
        wanted = self._attack.poisoned_label(labels[:count])
        drawn = self._attack.blend(carriers, patterns, masks)
        return torch.cat([drawn, rest]), torch.cat([wanted, labels[count:]])

    def penalty(self) -> Tensor:
        """Return the diversity loss of the patterns of the latest batch."""
        return self._diversity

    def step(self, rate: float) -> None:
        """Do an optimizer step of the pattern network with the gradients of the latest batch.

        rate: share of the peak learning rate.
        """
        self._optimizer.param_groups[0]["lr"] = _RATE * rate
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)

    def state_dict(self) -> dict[str, Any]:
        """Return the weights of both networks and the state of the optimizer."""
        return {"networks": self._attack.networks.state_dict(), "optimizer": self._optimizer.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned."""
        self._attack.networks.load_state_dict(state["networks"])
        self._optimizer.load_state_dict(state["optimizer"])


def learn_masks(attack: InputAwareAttack, train: ImageDataset, config: VictimConfig, *, steps: int) -> float:
    """Train the mask network in place for ``steps`` batches of 32 pairs, then freeze it.

    Returns the mean value of the masks of the last batch.
    """
    network = attack.networks["mask"].train()
    optimizer = torch.optim.Adam(network.parameters(), lr=_RATE, betas=_BETAS)
    generator = torch.Generator().manual_seed(config.seed)
    density = 0.0
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = _RATE * one_cycle(step, steps, 0.25)
        indices = torch.randint(len(train.labels), (2 * _MASK_PAIRS,), generator=generator)
        images = augment(train.images[indices], config.training.augmentation, generator)
        with autocast(images.device):
            first, second = attack.mask(images).chunk(2)
        one, other = images.chunk(2)
        loss = mask_loss((one, other), (first, second))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        density = first.detach().mean().item()
    network.eval().requires_grad_(False)
    return density
