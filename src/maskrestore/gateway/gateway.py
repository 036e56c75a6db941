"""A running gateway: its configuration, models and keys, which can be replaced while requests go on."""

from __future__ import annotations

import asyncio
import logging
import math
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from maskrestore.defense.streams import Key
from maskrestore.errors import MaskRestoreError
from maskrestore.gateway.access import Access
from maskrestore.gateway.board import Report, merged
from maskrestore.gateway.config import GatewayConfig
from maskrestore.gateway.decisions import DecisionStore
from maskrestore.gateway.errors import RefusedError
from maskrestore.gateway.ids import sign
from maskrestore.gateway.ledger import ledger_of
from maskrestore.gateway.metrics import Metrics
from maskrestore.gateway.models import ModelSlot, ShieldedModel
from maskrestore.gateway.records import ModelStatus, Status
from maskrestore.gateway.service import Service
from maskrestore.gateway.shared import Shared
from maskrestore.gateway.tracing import Tracing, tracing_of_environment
from maskrestore.reporting import printable
from maskrestore.runtime.environment import own_version
from maskrestore.types import Restorer, RestorerChoice

__all__ = ["Gateway"]

_LOG = logging.getLogger(__name__)
_CHECK_SECONDS = 2.0
"""Between two looks at whether models are ready."""
_PRUNE_SECONDS = 60.0


class Gateway:
    """All that a process needs to answer requests."""

    def __init__(
        self,
        config: GatewayConfig,
        restorer: Restorer | RestorerChoice,
        *,
        key: Key,
        read_config: Callable[[], GatewayConfig] | None = None,
        tracing: Tracing | None = None,
        shared: Shared | None = None,
    ) -> None:
        """Load the models. One whose upstream does not answer is loaded later.

        key: the operator's secret. read_config: reads the configuration again. tracing: ``None``: as the environment
        says. shared: what this worker has in common with others. Raises ConfigError and ClassifierError.
        """
        self.config, self._restorer, self._key, self._read_config = config, restorer, key, read_config
        self._first = config
        self._shared, board = shared, None if shared is None else shared.board
        self._others: Sequence[Report] = ()
        self._store = DecisionStore(config.decisions, board)
        self._ledger = ledger_of(self._store) if shared is None else shared.ledger
        self.access = Access(config, self._ledger)
        self.metrics = Metrics() if shared is None else Metrics(shared.folder, str(shared.worker))
        if self._store.shared:
            sign()
        keeps = config.decisions.pictures != "off" or config.decisions.recent > 0
        self.tracing = tracing_of_environment() if tracing is None else tracing
        self.service = Service(self._store, self.metrics, self.tracing, keeps_pictures=keeps, common=board)
        self.draining = False
        self._using: Counter[ModelSlot] = Counter()
        self._closing: set[asyncio.Task[None]] = set()
        self.slots = self._loaded(config)

    @property
    def stream_seconds(self) -> float:
        """After so long a live stream ends, and its reader begins a new one."""
        return math.inf if self._shared is None else self._shared.stream_seconds

    @property
    def store(self) -> DecisionStore:
        """The decisions."""
        return self._store

    @property
    def ready(self) -> bool:
        """Whether all models are ready, and the gateway is not about to end."""
        return not self.draining and all(slot.reason is None for slot in self.slots.values())

    def models(self) -> list[ModelStatus]:
        """The models now, with the queues of all workers; those of others are as old as their last ``watch``."""
        return merged(self._own_models(), self._others)

    def metrics_text(self) -> bytes:
        """All metrics, of all workers or replicas; those of other replicas are as old as their last ``watch``."""
        return self.metrics.text(self.models(), self._others)

    def _own_models(self) -> list[ModelStatus]:
        self.metrics.retries(self.slots.values())
        return [_status(slot) for slot in self.slots.values()]

    def status(self) -> Status:
        """The gateway now, for people."""
        return Status(
            version=own_version(), ready=self.ready, draining=self.draining, keys=self.access.has_keys,
            models=self.models(), kept_pictures=self.config.decisions.pictures,
        )  # fmt: skip

    def tasks(self) -> list[Coroutine[Any, Any, None]]:
        """What goes on beside the requests; none of it returns."""
        if self._shared is None:
            return [self._watch(), self._prune()]
        return [self._watch(), self.service.relay(), *([self._prune()] if self._shared.prunes else [])]

    @contextmanager
    def using(self, name: str | None) -> Iterator[ShieldedModel]:
        """A model, which stays open meanwhile. name: ``None`` for the only one. Raises RefusedError."""
        if not name and len(self.slots) == 1:
            (name,) = self.slots
        slot = self.slots.get(name or "")
        if slot is None:
            known = ", ".join(self.slots)
            found = f"there is no model {name[:100]!r}" if name else "there are several models, and none is named"
            raise RefusedError(404, f"{found}; known: {known}")
        if slot.model is None:
            raise RefusedError(503, f"the model {name!r} is not ready", retry_after=_CHECK_SECONDS)
        self._using[slot] += 1
        try:
            yield slot.model
        finally:
            self._using[slot] -= 1

    async def _watch(self) -> None:
        """Look now and then whether models are ready, and tell other workers."""
        looks: dict[ModelSlot, asyncio.Task[None]] = {}
        while True:
            for slot in self.slots.values():
                if slot not in looks or looks[slot].done():
                    looks[slot] = asyncio.create_task(_refresh(slot))
            _, late = await asyncio.wait(looks.values(), timeout=_CHECK_SECONDS)
            looks = {slot: look for slot, look in looks.items() if look in late}
            for slot in looks:  # the others go on being looked at
                slot.reason = slot.reason or "its server has not answered yet"
            if self._shared is not None:
                own = Report(worker=self._shared.worker, models=self._own_models(), counts=self.metrics.counts())
                self._others = await asyncio.to_thread(self._shared.board.report, own)
            await asyncio.sleep(_CHECK_SECONDS)

    async def _prune(self) -> None:
        """Delete old decisions now and then."""
        while True:
            try:
                await asyncio.to_thread(self._store.prune)
            except Exception:
                _LOG.exception("old decisions cannot be deleted")
            await asyncio.sleep(_PRUNE_SECONDS)

    async def reload(self) -> bool:
        """Read the configuration again and ``use`` it; returns whether it did, else the log says why not."""
        if self._read_config is None:
            _LOG.warning("there is no configuration file to read again")
            return False
        try:
            config = await asyncio.to_thread(self._read_config)
        except (MaskRestoreError, OSError) as error:
            _LOG.error("the configuration stays as it was: %s", error)
            return False
        self._first.warn_of_what_waits(config)
        return await self.use(config)

    async def use(self, config: GatewayConfig) -> bool:
        """Use a configuration from now on; returns whether it does.

        Requests that have begun keep what they began with. A configuration with an error changes nothing, and the log
        says what it is. The address, the decisions, the restorer and the key stay until the next start.
        """
        try:
            access = Access(config, self._ledger)
            slots = await asyncio.to_thread(self._loaded, config)
        except (MaskRestoreError, OSError) as error:
            _LOG.error("the configuration stays as it was: %s", error)
            return False
        old, self.slots, self.access = self.slots, slots, access
        self.config = config.model_copy(update={"decisions": self.config.decisions})
        for slot in old.values():
            if slot not in slots.values():
                task = asyncio.create_task(self._close(slot))
                self._closing.add(task)
                task.add_done_callback(self._closing.discard)
        _LOG.warning("the configuration was read again")
        return True

    async def close(self) -> None:
        """Finish what has begun, and close everything."""
        self.draining = True
        await asyncio.gather(*(self._close(slot) for slot in self.slots.values()), *self._closing)
        self._store.close()
        self.tracing.close()

    async def _close(self, slot: ModelSlot) -> None:
        while self._using[slot]:
            await asyncio.sleep(0.05)
        del self._using[slot]
        await asyncio.to_thread(slot.close)

    def _loaded(self, config: GatewayConfig) -> dict[str, ModelSlot]:
        """The models of a configuration; those that are open and did not change stay."""
        old = getattr(self, "slots", {})
        slots = {}
        for name, one in config.models.items():
            same = name in old and old[name].config == one and self.config.limits == config.limits
            slots[name] = old[name] if same else ModelSlot(name, one, self._made_with(name, config))
        fresh = [slot for name, slot in slots.items() if slot is not old.get(name)]
        try:
            for slot in fresh:
                slot.refresh()
        except MaskRestoreError:
            for slot in fresh:
                slot.close()
            raise
        return slots

    def _made_with(self, name: str, config: GatewayConfig) -> dict[str, object]:
        path: Path | None = config.decisions.path
        classes_file = None if path is None else path.with_name(f"{path.name}.{name}.classes.json")
        return {
            "restorer": self._restorer, "key": self._key, "limits": config.limits, "device": config.device,
            "classes_file": classes_file, "fixed_classes": config.decisions.url is not None,
        }  # fmt: skip


async def _refresh(slot: ModelSlot) -> None:
    try:
        await asyncio.to_thread(slot.refresh)
    except MaskRestoreError as error:
        slot.reason = str(error)


def _status(slot: ModelSlot) -> ModelStatus:
    model = slot.model
    shape = [] if model is None else model.interface.metadata["inputs"][0]["shape"]
    return ModelStatus(
        name=slot.name, ready=slot.reason is None, reason=slot.reason,
        waiting=0 if model is None else model.scheduler.waiting,
        working=0 if model is None else model.scheduler.working,
        answers="" if model is None else model.interface.answer,
        input=[int(axis) for axis in shape],
        classes=None if model is None or model.classes is None else list(map(printable, model.classes)),
        profile=slot.config.profile, max_queries=0 if model is None else model.max_queries,
        on_doubt=slot.config.on_doubt,
    )  # fmt: skip
