"""Pictures that wait: a queue for each tenant, emptied in turns."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Sequence
from concurrent.futures import Future
from contextvars import Context, copy_context
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from torch import Tensor

if TYPE_CHECKING:
    from maskrestore.gateway.scheduler import Purified

__all__ = ["FairQueue", "QueuedPicture"]

_REMEMBERED = 1.0
"""Seconds for which it counts what a tenant wanted."""


@dataclass(eq=False, kw_only=True)
class QueuedPicture:
    """A picture that waits or is worked on."""

    image: Tensor
    """``(C, H, W)``."""
    tenant: str
    deadline: float
    """When nobody waits for it any more, by ``time.monotonic``."""
    accepted: float
    begun: float = 0.0
    context: Context = field(default_factory=copy_context)
    """Of the request, such as its trace; questions are asked in it."""
    future: Future[Purified] = field(default_factory=Future)

    @property
    def pixels(self) -> int:
        """Height times width."""
        return self.image.shape[-2] * self.image.shape[-1]


class FairQueue:
    """Bounded queues, one for each tenant. Not safe for use by several threads."""

    def __init__(self, most: int, most_pixels: int) -> None:
        """most, most_pixels: pictures of a tenant that wait, and their pixels; one picture may always wait."""
        self._most, self._most_pixels = most, most_pixels
        self._queues: dict[str, deque[QueuedPicture]] = {}
        self._recent: dict[str, tuple[int, float]] = {}
        """How many places a tenant wanted of late at most, and when."""

    def __len__(self) -> int:
        return sum(map(len, self._queues.values()))

    def ahead(self, tenant: str, more: int) -> int:
        """How many pictures are taken, at most, until those of a tenant are, with ``more`` of them."""
        own = len(self._queues.get(tenant, ())) + more
        return min(len(self) + more, own * len({*self._queues, tenant}))

    def add(self, pictures: Sequence[QueuedPicture]) -> bool:
        """Add pictures of one tenant, all or none; returns whether they have a place."""
        queue = self._queues.get(pictures[0].tenant, deque())
        pixels = sum(one.pixels for one in (*queue, *pictures))
        if len(queue) + len(pictures) > self._most or (queue and pixels > self._most_pixels):
            return False
        self._queues.setdefault(pictures[0].tenant, queue).extend(pictures)
        return True

    def remove(self, picture: QueuedPicture) -> bool:
        """Take out a picture that nobody waits for; returns whether it was there."""
        queue = self._queues.get(picture.tenant, deque())
        if picture not in queue:
            return False
        queue.remove(picture)
        self._forget_if_empty(picture.tenant)
        return True

    def take(self, working: Sequence[QueuedPicture], places: int, pixels: int | None) -> list[QueuedPicture]:
        """Take the next pictures: one of each tenant in turns, while there are places.

        working: those that have a place already. All that have one share the rounds, so a tenant with more of them gets
        more of the machine. While others are there, a tenant gets no more places than the one of them that wants most,
        and no more than its part of all; alone, it gets all. pixels: of all that have a place; a larger picture gets
        one if it is alone.
        """
        held = Counter(one.tenant for one in working)
        wants = self._wants(held)
        part = -(-places // max(1, len(wants)))  # rounded up

        def may(tenant: str) -> int:
            return min(part, max((count for name, count in wants.items() if name != tenant), default=places))

        free, used = places - len(working), sum(one.pixels for one in working)
        taken: list[QueuedPicture] = []
        while free > len(taken):
            tenant = next((name for name in self._queues if held[name] < may(name)), None)
            if tenant is None:
                break
            picture = self._queues[tenant][0]
            if pixels is not None and used + picture.pixels > pixels and (working or taken):
                break  # it waits for its turn, and nobody overtakes it
            queue = self._queues.pop(tenant)
            taken.append(queue.popleft())
            if queue:
                self._queues[tenant] = queue  # behind the others
            held[tenant] += 1
            used += picture.pixels
        return taken

    def _wants(self, held: Counter[str]) -> dict[str, int]:
        """How many places each tenant wants: the most of the last second, so that one that sends picture after picture
        still counts between two of them.
        """
        now = time.monotonic()
        for tenant in {*held, *self._queues}:
            wanted = held[tenant] + len(self._queues.get(tenant, ()))
            most, since = self._recent.get(tenant, (0, now))
            if wanted >= most or now - since > _REMEMBERED:
                self._recent[tenant] = (wanted, now)
        self._recent = {name: one for name, one in self._recent.items() if now - one[1] <= _REMEMBERED}
        return {name: most for name, (most, _) in self._recent.items()}

    def _forget_if_empty(self, tenant: str) -> None:
        if not self._queues[tenant]:
            del self._queues[tenant]
