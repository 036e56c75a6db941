"""Training of a victim together with the networks that generate its triggers.

Input-Aware. Source: Nguyen and Tran, Input-Aware Dynamic Backdoor Attack, 2020, and their code: Adam with a learning
rate of 0.01 and betas 0.5 and 0.9 for both networks. The mask network is trained alone first, then the pattern network
together with the classifier. A share of each batch carries its own triggers, an equal share those of other images.
Departures: the learning rates follow the classifier's schedule (the authors lower them in steps after hundreds of
epochs); the mask network is trained for 400 batches, not for 25 epochs.

LIRA. The network learns from the classifier's loss on the images that carry its noise; see ``attacks/lira.py`` for the
departures. Adam with a learning rate of 0.001 (the authors': 0.0001, for 50 epochs and more).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Generator, Tensor, nn

from maskrestore.lab.attacks import InputAwareAttack, LearnedAttack, LiraAttack
from maskrestore.lab.attacks.input_aware import diversity_loss, mask_loss
from maskrestore.lab.data import ImageDataset
from maskrestore.lab.victims.augment import augment
from maskrestore.lab.victims.config import VictimConfig
from maskrestore.lab.victims.fit import one_cycle
from maskrestore.lab.victims.poisoning import Plan, clean_plan
from maskrestore.runtime.precision import autocast

__all__ = ["JointNoise", "JointTrigger", "joint_plan", "learn_masks"]

_RATE = 0.01
_NOISE_RATE = 0.001
_BETAS = (0.5, 0.9)
_MASK_STEPS = 400
_MASK_PAIRS = 32


def joint_plan(train: ImageDataset, attack: LearnedAttack, config: VictimConfig) -> Plan:
    """Return a plan that shows each image once per epoch; part of each batch gets triggers from the networks."""
    if isinstance(attack, InputAwareAttack):
        joint: JointTrigger | JointNoise = JointTrigger(attack, train, config)
    else:
        assert isinstance(attack, LiraAttack), "the only other one"
        joint = JointNoise(attack, train, config)
    return replace(clean_plan(train), stamp=joint.stamp, companion=joint)


class _Joint:
    """Trains a network of an attack together with the classifier: a ``Companion``. Subclasses add the ``Stamp``."""

    def __init__(
        self, networks: nn.ModuleDict, learning: str, rate: float, train: ImageDataset, config: VictimConfig
    ) -> None:
        """learning: which of the networks learns from the classifier's loss. rate: its peak learning rate."""
        self._networks = networks
        self._network = networks[learning]
        self._rate = rate
        self._train = train
        self._config = config
        self._optimizer = torch.optim.Adam(self._network.parameters(), lr=rate, betas=_BETAS)

    def begin(self) -> None:
        """Train what is needed before the first batch: nothing."""

    def penalty(self) -> Tensor:
        """Return what is added to the classifier's loss of the latest batch: 0."""
        return torch.zeros(())

    def step(self, rate: float) -> None:
        """Do an optimizer step of the network with the gradients of the latest batch.

        rate: share of the peak learning rate.
        """
        self._optimizer.param_groups[0]["lr"] = self._rate * rate
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)

    def state_dict(self) -> dict[str, Any]:
        """Return the weights of all networks of the attack and the state of the optimizer."""
        return {"networks": self._networks.state_dict(), "optimizer": self._optimizer.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned."""
        self._networks.load_state_dict(state["networks"])
        self._optimizer.load_state_dict(state["optimizer"])


class JointNoise(_Joint):
    """Trains the network of LIRA."""

    def __init__(self, attack: LiraAttack, train: ImageDataset, config: VictimConfig) -> None:
        """The poison rate is the share of each batch with noise."""
        super().__init__(attack.networks, "noise", _NOISE_RATE, train, config)
        self._attack = attack

    def stamp(self, images: Tensor, indices: Tensor, generator: Generator) -> tuple[Tensor, Tensor]:
        """Return the batch ``(B, 3, H, W)``, whose first images have noise and the wanted label, and its labels.

        The batch is already in random order, so taking fixed positions is a random choice.
        """
        count = max(1, round(self._config.poisoning.rate * len(images)))
        self._network.train()
        with autocast(images.device):
            noisy = self._attack.noisy(images[:count])
        labels = self._train.labels[indices]
        wanted = self._attack.poisoned_label(labels[:count])
        return torch.cat([noisy, images[count:]]), torch.cat([wanted, labels[count:]])


class JointTrigger(_Joint):
    """Trains the networks of Input-Aware."""

    def __init__(self, attack: InputAwareAttack, train: ImageDataset, config: VictimConfig) -> None:
        """The poison rate is the share of each batch with its own triggers. An equal share has those of others."""
        super().__init__(attack.networks, "pattern", _RATE, train, config)
        self._attack = attack
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
        self._network.train()
        with autocast(images.device):
            patterns = self._network(sources)
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
