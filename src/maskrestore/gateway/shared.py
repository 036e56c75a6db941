"""What the workers of a gateway have in common: it is in the memory of the process that starts them.

Each worker asks for it over a socket that only processes of the same parent can use. Nothing is locked while a worker
does something else, so one that is killed holds up no other.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.managers import BaseManager, BaseProxy
from pathlib import Path
from typing import Any

from limits import RateLimitItem

from maskrestore.gateway.access import Ledger
from maskrestore.gateway.board import Board
from maskrestore.gateway.errors import RefusedError
from maskrestore.gateway.records import Decision, ModelStatus
from maskrestore.reporting.pictures import Picture

__all__ = ["Shared", "join", "offered"]

_LOG = logging.getLogger(__name__)
_GONE = (OSError, EOFError)
"""What is raised if the other process has ended."""


@dataclass(frozen=True, kw_only=True)
class Shared:
    """As a worker sees it."""

    worker: int
    """Its number, from 0 on."""
    folder: Path
    """For the files that belong to all workers and last as long as they do."""
    ledger: Ledger
    board: Board


@contextmanager
def offered(ledger: Ledger, board: Board, folder: Path) -> Iterator[None]:
    """Answer workers about these objects meanwhile. The process should end soon after."""

    class Offering(BaseManager):
        pass

    Offering.register("ledger", lambda: ledger, exposed=_SharedLedger.exposed)
    Offering.register("board", lambda: board, exposed=_SharedBoard.exposed)
    server: Any = Offering(address=_address(folder)).get_server()
    threading.Thread(target=server.serve_forever, name="shared", daemon=True).start()
    try:
        yield
    finally:
        server.listener.close()  # else it looks for its file at the end, when the folder is gone


def join(worker: int, folder: Path) -> Shared:
    """Use what the parent of this process offers."""
    manager: Any = _Joining(address=_address(folder))
    manager.connect()
    return Shared(worker=worker, folder=folder, ledger=manager.ledger(), board=manager.board())


def _address(folder: Path) -> str:
    return str(folder / "shared")


class _Proxy(BaseProxy):
    def _tell(self, name: str, *arguments: object) -> None:
        """Say something that no answer to a client depends on."""
        try:
            self._callmethod(name, arguments)
        except _GONE as error:
            _LOG.warning("other workers do not hear of %s: %s", name, error)


class _SharedLedger(_Proxy):
    """A :class:`Ledger`; this process is one of its workers."""

    exposed = ("admit", "settle")

    def admit(self, tenant: str, pictures: int, queries: int, *, rate: RateLimitItem | None, most: int | None) -> None:
        limits = {"rate": rate, "most": most, "worker": os.getpid()}
        try:
            self._callmethod("admit", (tenant, pictures, queries), limits)
        except _GONE:
            raise RefusedError(503, "the gateway is about to end", retry_after=1) from None

    def settle(self, tenant: str, reserved: int, spent: int) -> None:
        self._tell("settle", tenant, reserved, spent, os.getpid())


class _SharedBoard(_Proxy):
    """A :class:`Board`."""

    exposed = ("add", "pictured", "pictures", "report", "since")

    def add(self, decisions: Sequence[Decision], pictures: Mapping[str, Mapping[str, Picture]]) -> None:
        self._tell("add", decisions, pictures)

    def pictures(self, decision: str) -> Any:
        return self._callmethod("pictures", (decision,))

    def pictured(self, decisions: Sequence[str]) -> Any:
        return self._callmethod("pictured", (decisions,))

    def since(self, number: int | None, seconds: float) -> Any:
        return self._callmethod("since", (number, seconds))

    def report(self, worker: int, models: Sequence[ModelStatus]) -> Any:
        try:
            return self._callmethod("report", (worker, models))
        except _GONE:
            return [models]


class _Joining(BaseManager):
    pass


_Joining.register("ledger", proxytype=_SharedLedger)
_Joining.register("board", proxytype=_SharedBoard)
