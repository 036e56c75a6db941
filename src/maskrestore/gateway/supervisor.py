"""Start several workers, replace those that die, give all of them a new configuration, and end them together.

This process answers no requests. Connections wait at a socket that all workers listen on, so those of a worker that
dies before it accepts them are for the others. It holds what workers have in common; see ``shared``.
"""

from __future__ import annotations

import asyncio
import logging
import multiprocessing
import signal
import socket
import tempfile
import time
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import uvicorn

from maskrestore.defense.streams import Key
from maskrestore.errors import ConfigError, MaskRestoreError
from maskrestore.gateway.access import Access
from maskrestore.gateway.board import Board
from maskrestore.gateway.config import OF_THE_START, GatewayConfig
from maskrestore.gateway.decisions import DecisionStore
from maskrestore.gateway.ledger import ledger_of
from maskrestore.gateway.process import Listening, in_background
from maskrestore.gateway.shared import Common, offered
from maskrestore.gateway.worker import BEGUN, PULSE_SECONDS, Work, work

__all__ = ["Supervisor"]

_LOG = logging.getLogger(__name__)
_SPAWN = multiprocessing.get_context("spawn")  # a fork would copy threads in any state
_HEALTHY_SECONDS = 10.0
"""A worker that dies sooner is replaced after a pause, which grows with each."""
_LONGEST_PAUSE = 30.0
_LOOK = 2 * PULSE_SECONDS


class _Worker:
    """A process, and what it says."""

    def __init__(self, given: Work, bound: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        self.config, self.started = given.config, time.monotonic()
        self.begun: asyncio.Future[None] = loop.create_future()
        """Fails with why it could not begin."""
        self.ended: asyncio.Future[None] = loop.create_future()
        self._used: asyncio.Future[bool] = loop.create_future()
        self._link, theirs = _SPAWN.Pipe()
        self._pulse = _SPAWN.RawValue("L", 0)
        self.process = _SPAWN.Process(
            target=work, args=(given, bound, theirs, self._pulse), name=f"worker {given.number}"
        )
        self.process.start()
        theirs.close()
        loop.add_reader(self._link.fileno(), self._hear)

    async def until_ended_or_silent(self, seconds: float) -> None:
        """Wait until it has ended, or until its loop has done nothing for so long."""
        # Looks are counted, not time, because this process may have been stopped as well.
        silent, last = 0, self._pulse.value
        while not self.ended.done() and silent * _LOOK < seconds:
            await asyncio.wait([self.ended], timeout=_LOOK)
            silent, last = (silent + 1 if self._pulse.value == last else 0), self._pulse.value

    async def use(self, config: GatewayConfig) -> bool:
        """Give it a configuration; returns whether it uses that now."""
        self._used = asyncio.get_running_loop().create_future()
        try:
            self._link.send(config)
        except OSError:  # it is about to end
            return False
        answers: list[asyncio.Future[Any]] = [self._used, self.ended]
        await asyncio.wait(answers, return_when=asyncio.FIRST_COMPLETED)
        used = self._used.done() and self._used.result()
        if used:
            self.config = config
        return used

    def _hear(self) -> None:
        try:
            said = self._link.recv()
        except (EOFError, OSError):
            asyncio.get_running_loop().remove_reader(self._link.fileno())
            self._link.close()
            self.process.join()
            if not self.begun.done():
                self.begun.set_exception(ConfigError("a worker ended before it began; what it said is above"))
            self.ended.set_result(None)
            return
        if said == BEGUN:
            self.begun.set_result(None)
        elif isinstance(said, Exception):
            self.begun.set_exception(said)
        else:
            self._used.set_result(said)


class Supervisor:
    """Runs the workers of a gateway."""

    def __init__(
        self,
        config: GatewayConfig,
        where: Listening,
        *,
        key: Key,
        read_config: Callable[[], GatewayConfig] | None,
        begun: Callable[[socket.socket], None],
    ) -> None:
        """key: the operator's secret. read_config: reads the configuration again. begun: is called once all answer."""
        self._config, self._where, self._key, self._read_config = config, where, key, read_config
        self._first = config
        self._workers: dict[int, _Worker] = {}
        self._begun: Callable[[socket.socket], None] | None = begun
        self._ending = asyncio.Event()
        self._reloading = asyncio.Lock()

    async def run(self) -> None:
        """Answer requests until SIGTERM or SIGINT; then all workers answer what they have accepted, and end.

        SIGHUP reads the configuration again. Raises ConfigError, and what loading raises.
        """
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._ending.set)
        loop.add_signal_handler(signal.SIGHUP, lambda: in_background(self._reload()))
        with tempfile.TemporaryDirectory(prefix="maskrestore-") as name:
            folder = Path(name)
            store = self._prepared(folder)
            with closing(store), offered(Common(self._ledger, self._board), folder):
                await self._run(folder)

    def _prepared(self, folder: Path) -> DecisionStore:
        decisions = self._config.decisions
        if decisions.path is None and decisions.url is None:
            decisions = decisions.model_copy(update={"path": folder / "decisions.sqlite"})
            self._config = self._config.model_copy(update={"decisions": decisions})
        store = DecisionStore(decisions)
        self._ledger, self._board = ledger_of(store), Board(decisions.recent)
        return store

    async def _run(self, folder: Path) -> None:
        listening = uvicorn.Config("", host=self._where.host, port=self._where.port, log_config=None)
        with listening.bind_socket() as bound:
            kept = [asyncio.create_task(self._keep(one, bound, folder)) for one in range(self._config.workers)]
            try:
                ending = asyncio.create_task(self._ending.wait())
                await asyncio.wait([ending, *kept], return_when=asyncio.FIRST_COMPLETED)
            finally:
                self._ending.set()
                bound.close()
                for worker in self._workers.values():
                    worker.process.terminate()
                errors = [one for one in await asyncio.gather(*kept, return_exceptions=True) if one is not None]
        if errors:
            raise errors[0]

    async def _keep(self, number: int, bound: socket.socket, folder: Path) -> None:
        """Have a worker of this number until the end. Raises what the first one could not begin for."""
        pause, has_begun = 0.0, False
        while not self._ending.is_set():
            given = Work(number=number, config=self._config, where=self._where, key=self._key, folder=folder)
            try:
                worker = self._workers[number] = _Worker(given, bound)
            except OSError as error:  # no memory is left, say
                if not has_begun:
                    raise
                _LOG.error("a worker cannot be started: %s", error)
                await self._wait(_LONGEST_PAUSE)
                continue
            told = {"worker": number, "pid": worker.process.pid}
            try:
                await worker.begun
            except MaskRestoreError as error:
                if not self._ending.is_set():
                    if not has_begun:
                        raise
                    _LOG.error("a worker cannot begin: %s", error, extra=told)
            else:
                has_begun = True
                _LOG.info("a worker has begun", extra=told)
                self._say_begun(bound)
                await worker.until_ended_or_silent(self._config.worker_timeout)
                if not worker.ended.done():
                    _LOG.error("a worker does not respond, and is killed", extra=told)
                    worker.process.kill()
            await worker.ended
            self._board.forget(number)
            self._ledger.abandon(number)
            if self._ending.is_set():
                return
            _LOG.error("a worker has ended, and is replaced", extra={**told, "exit": worker.process.exitcode})
            sick = time.monotonic() - worker.started < _HEALTHY_SECONDS
            pause = min(_LONGEST_PAUSE, 2 * pause + 0.5) if sick else 0.0
            await self._wait(pause)

    async def _wait(self, seconds: float) -> None:
        """So long, or until the end."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._ending.wait(), seconds)

    def _say_begun(self, bound: socket.socket) -> None:
        all_begun = all(one.begun.done() and not one.begun.exception() for one in self._workers.values())
        if all_begun and self._begun is not None:
            self._begun(bound)
            self._begun = None

    async def _reload(self) -> None:
        async with self._reloading:
            if self._read_config is None:
                _LOG.warning("there is no configuration file to read again")
                return
            try:
                config = await asyncio.to_thread(self._read_config)
                self._first.warn_of_what_waits(config)
                config = config.model_copy(update={name: getattr(self._config, name) for name in OF_THE_START})
                Access(config, self._ledger)
            except (MaskRestoreError, OSError) as error:
                _LOG.error("the configuration stays as it was: %s", error)
                return
            await self._use(config)

    async def _use(self, config: GatewayConfig) -> None:
        """Give a configuration to the workers, one after the other. What the first cannot use changes none."""
        while waiting := [one for one in self._workers.values() if one.config is not config and not one.ended.done()]:
            worker = waiting[0]
            await asyncio.wait([worker.begun, worker.ended], return_when=asyncio.FIRST_COMPLETED)
            if await worker.use(config):
                self._config = config
            elif self._config is not config:
                break
            else:  # its successor will use it
                worker.process.terminate()
                await worker.ended
        if self._config is not config:
            _LOG.error("the configuration stays as it was: no worker could use it")
