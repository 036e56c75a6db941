"""What the replicas of a gateway have in common, in an actor that all of them ask."""

from __future__ import annotations

import threading
import time
from collections.abc import Hashable, Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

import ray

from maskrestore.gateway.board import Board
from maskrestore.gateway.config import DecisionsConfig
from maskrestore.gateway.decisions import DecisionStore
from maskrestore.gateway.ledger import ledger_of
from maskrestore.gateway.shared import Common, Part
from maskrestore.runtime.digests import digest_of_json

__all__ = ["Hub", "HubLink"]

_SILENT_SECONDS = 30.0
"""A replica that says nothing for so long has ended."""
_UNUSED_SECONDS = 120.0
"""Without any replica for so long, the actor ends."""
_ANSWER_SECONDS = 5.0
_CALLS = 128
"""At a time. Each replica has one that waits for new decisions."""


class Hub(Common):
    """The ledger and the board of all replicas."""

    def __init__(self, decisions: DecisionsConfig) -> None:
        """decisions: of the replicas. Raises ConfigError if they cannot be opened."""
        super().__init__(ledger_of(DecisionStore(decisions)), Board(decisions.recent))
        self._heard: dict[Hashable, float] = {}
        self._changing = threading.Lock()

    def ask(self, part: Part, name: str, arguments: Sequence[Any], more: Mapping[str, Any]) -> Any:
        """Call a method of the ledger or the board."""
        if name == "report":
            with self._changing:
                self._heard[arguments[0].worker] = time.monotonic()
        return super().ask(part, name, arguments, more)

    def forget_silent(self, now: float) -> bool:
        """Forget replicas that have ended; returns whether there are others."""
        with self._changing:
            ended = [one for one, heard in self._heard.items() if now - heard > _SILENT_SECONDS]
            for one in ended:
                del self._heard[one]
        for one in ended:
            self.board.forget(one)
            self.ledger.abandon(one)
        return bool(self._heard)


class _Actor(Hub):
    """A hub in an actor, which ends when there are no replicas any more."""

    def __init__(self, decisions: DecisionsConfig) -> None:
        super().__init__(decisions)
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self) -> None:
        """End some time behind the last replica."""
        last = time.monotonic()
        while time.monotonic() - last < _UNUSED_SECONDS:
            time.sleep(1)
            now = time.monotonic()
            last = now if self.forget_silent(now) else last
        ray.kill(ray.get_runtime_context().current_actor)


class HubLink:
    """A replica's way to the actor, which is started if there is none."""

    def __init__(self, application: str, decisions: DecisionsConfig) -> None:
        """Replicas of the same application that keep decisions in the same place have one actor in common.

        Returns when it answers. Raises an error of Ray if it cannot start.
        """
        self._name = f"{application} {_digest(decisions)}"
        self._decisions = decisions
        self._actor = self._found()
        ray.get(self._actor.__ray_ready__.remote())

    def ask(self, part: Part, name: str, arguments: Sequence[Any], more: Mapping[str, Any]) -> Any:
        """As :meth:`Hub.ask`. Raises what that raises, and ConnectionError if the actor does not answer."""
        try:
            return ray.get(self._actor.ask.remote(part, name, arguments, more), timeout=_ANSWER_SECONDS)
        except ray.exceptions.RayTaskError as error:
            raise error.cause from None
        except ray.exceptions.RayError as error:
            if isinstance(error, ray.exceptions.ActorDiedError):
                self._actor = self._found()
            raise ConnectionError(f"the actor {self._name!r} does not answer") from error

    def tell(self, part: Part, name: str, arguments: Sequence[Any], more: Mapping[str, Any]) -> None:
        """The same without waiting for it."""
        self._actor.ask.remote(part, name, arguments, more)

    def _found(self) -> Any:
        options = {
            "name": self._name, "namespace": "maskrestore", "get_if_exists": True, "lifetime": "detached",
            "max_restarts": -1, "max_concurrency": _CALLS, "num_cpus": 0,
        }  # fmt: skip
        return ray.remote(_Actor).options(**options).remote(self._decisions)


def _digest(decisions: DecisionsConfig) -> str:
    """Of the place, without its password."""
    url = urlsplit("" if decisions.url is None else decisions.url.get_secret_value())
    place = [str(decisions.path), decisions.recent, url.netloc.rpartition("@")[2], url.username, url.path]
    return digest_of_json(place)
