"""What the workers of a gateway have in common: it is in the memory of another process, which they ask.

Workers of one machine ask the process that started them, over a socket that only its own processes can use. Nothing is
locked while a worker does something else, so one that is killed holds up no other. ``distributed`` has another way.
"""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.managers import BaseManager
from pathlib import Path
from typing import Any, Literal, Protocol

from limits import RateLimitItem

from maskrestore.gateway.board import Board, Report
from maskrestore.gateway.errors import RefusedError
from maskrestore.gateway.ledger import Ledger, Reservation
from maskrestore.gateway.records import Decision
from maskrestore.reporting.pictures import Picture

__all__ = ["Common", "Link", "Part", "Shared", "join", "offered", "shared_by"]

_LOG = logging.getLogger(__name__)
_GONE = (OSError, EOFError)
"""What a link raises if the other process has ended or does not answer."""
Part = Literal["ledger", "board"]


class Common:
    """A ledger and a board, and a way to ask them with names of their methods."""

    def __init__(self, ledger: Ledger, board: Board) -> None:
        self.ledger, self.board = ledger, board

    def ask(self, part: Part, name: str, arguments: Sequence[Any], more: Mapping[str, Any]) -> Any:
        """Call a method of the ledger or the board."""
        return getattr(getattr(self, part), name)(*arguments, **more)


class Link(Protocol):
    """How a worker asks the process that has the :class:`Common`. Raises OSError or EOFError if that has ended."""

    def ask(self, part: Part, name: str, arguments: Sequence[Any], more: Mapping[str, Any]) -> Any:
        """As :meth:`Common.ask`."""

    def tell(self, part: Part, name: str, arguments: Sequence[Any], more: Mapping[str, Any]) -> None:
        """The same, where no answer to a client depends on what it does."""


@dataclass(frozen=True, kw_only=True)
class Shared:
    """What a worker has in common with others, as it sees it."""

    worker: Hashable
    """Its number or name."""
    folder: Path | None
    """For the files that belong to all workers and last as long as they do; ``None``: they have no files in common."""
    ledger: Ledger
    board: Board
    prunes: bool
    """Whether it deletes old decisions."""
    stream_seconds: float = math.inf
    """After so long a live stream ends, and its reader begins a new one: for a worker that ends behind its requests."""


def shared_by(link: Link, worker: Hashable, **more: Any) -> Shared:
    """What a worker has in common with others, which it asks for over a link. more: fields of :class:`Shared`."""
    return Shared(worker=worker, ledger=_SharedLedger(link, worker), board=_SharedBoard(link), **more)


@contextmanager
def offered(common: Common, folder: Path) -> Iterator[None]:
    """Answer workers about these objects meanwhile. The process should end soon after."""

    class Offering(BaseManager):
        pass

    Offering.register("common", lambda: common, exposed=["ask"])
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
    return shared_by(_Socket(manager.common()), worker, folder=folder, prunes=worker == 0)


def _address(folder: Path) -> str:
    return str(folder / "shared")


class _Joining(BaseManager):
    pass


_Joining.register("common", exposed=["ask"])


class _Socket:
    """A link to the parent of this process."""

    def __init__(self, common: Any) -> None:
        self._common = common

    def ask(self, part: Part, name: str, arguments: Sequence[Any], more: Mapping[str, Any]) -> Any:
        return self._common.ask(part, name, arguments, more)

    tell = ask


class _SharedLedger(Ledger):
    """A :class:`Ledger` in another process; this one is one of its workers."""

    def __init__(self, link: Link, worker: Hashable) -> None:
        self._link, self._worker, self.waits = link, worker, True

    def admit(
        self, tenant: str, pictures: int, queries: int, *, rate: RateLimitItem | None, most: int | None,
        worker: Hashable = None,
    ) -> Reservation:  # fmt: skip
        limits = {"rate": rate, "most": most, "worker": self._worker}
        try:
            reserved: Reservation = self._link.ask("ledger", "admit", (tenant, pictures, queries), limits)
        except _GONE:
            raise RefusedError(503, "the limits cannot be checked now", retry_after=1) from None
        return reserved

    def settle(self, reserved: Reservation, spent: int, *, worker: Hashable = None) -> None:
        _tell(self._link, "ledger", "settle", (reserved, spent), {"worker": self._worker})


class _SharedBoard(Board):
    """A :class:`Board` in another process."""

    def __init__(self, link: Link) -> None:
        self._link = link

    def add(self, decisions: Sequence[Decision], pictures: Mapping[str, Mapping[str, Picture]]) -> None:
        _tell(self._link, "board", "add", (decisions, pictures), {})

    def pictures(self, decision: str) -> Any:
        return self._link.ask("board", "pictures", (decision,), {})

    def pictured(self, decisions: Any) -> Any:
        return self._link.ask("board", "pictured", (decisions,), {})

    def since(self, number: int | None, seconds: float) -> Any:
        return self._link.ask("board", "since", (number, seconds), {})

    def report(self, own: Report) -> Any:
        try:
            return self._link.ask("board", "report", (own,), {})
        except _GONE:
            return []


def _tell(link: Link, part: Part, name: str, arguments: Sequence[Any], more: Mapping[str, Any]) -> None:
    try:
        link.tell(part, name, arguments, more)
    except _GONE as error:
        _LOG.warning("other workers do not hear of %s: %s", name, error)
