"""One of several processes that answer requests at the same address."""

from __future__ import annotations

import asyncio
import ctypes
import multiprocessing
import shutil
import signal
import socket
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

import torch

from maskrestore.defense.streams import Key
from maskrestore.errors import MaskRestoreError
from maskrestore.gateway.config import GatewayConfig
from maskrestore.gateway.gateway import Gateway
from maskrestore.gateway.ids import take_every
from maskrestore.gateway.metrics import count_for_worker
from maskrestore.gateway.process import Listening, Process, in_background, log_as_json
from maskrestore.gateway.shared import join
from maskrestore.mae.choice import load_restorer

__all__ = ["BEGUN", "PULSE_SECONDS", "Work", "share_of", "work"]

BEGUN = "requests are accepted"
"""What a worker says first."""
PULSE_SECONDS = 0.5
"""Between two signs of life."""


@dataclass(frozen=True, kw_only=True)
class Work:
    """What a worker does."""

    number: int
    """Of the worker, from 0 on."""
    config: GatewayConfig
    """Of the whole gateway."""
    where: Listening
    key: Key
    folder: Path
    """For the files that belong to all workers."""


def work(given: Work, bound: socket.socket, link: Connection, pulse: ctypes.c_ulong) -> None:
    """Answer requests until SIGTERM, or until the process that started this one is gone.

    bound: the socket that all workers listen on. link: says ``BEGUN``, or the error that it could not begin for; gets
    configurations, and says of each whether it is used. pulse: a number that changes while the loop runs.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # of a terminal; the configuration comes over the link
    log_as_json()
    with suppress(KeyboardInterrupt):
        workers = given.config.workers
        torch.set_num_threads(max(1, torch.get_num_threads() // workers))
        take_every(workers, given.number)
        count_for_worker(given.number, given.folder)
        try:
            process = _made(given, link, pulse)
        except MaskRestoreError as error:
            link.send(error)
            return
        process.answer([bound])
        parent = multiprocessing.parent_process()
        if parent is not None and not parent.is_alive():  # so it does not do this
            shutil.rmtree(given.folder, ignore_errors=True)


def share_of(config: GatewayConfig) -> GatewayConfig:
    """A worker's share of a configuration, so that all workers together do not exceed its limits."""
    workers, limits = config.workers, config.limits
    shared = {
        "connections": -(-limits.connections // workers),
        "queue": max(limits.pictures, -(-limits.queue // workers)),
        "queue_pixels": -(-limits.queue_pixels // workers),
    }
    models = {
        name: one.model_copy(update={"concurrency": max(1, one.concurrency // workers)})
        for name, one in config.models.items()
    }
    return config.model_copy(update={"limits": limits.model_copy(update=shared), "models": models})


def _made(given: Work, link: Connection, pulse: ctypes.c_ulong) -> Process:
    config = share_of(given.config)
    restorer = load_restorer(config.restorer, precision=config.restorer_precision, device=config.device)
    gateway = Gateway(config, restorer, key=given.key, shared=join(given.number, given.folder))

    async def use(new: GatewayConfig) -> None:
        link.send(await gateway.use(share_of(new)))

    def hear() -> None:
        try:
            new = link.recv()
        except (EOFError, OSError):  # the other end was killed, so nobody replaces workers or ends them
            asyncio.get_running_loop().remove_reader(link.fileno())
            process.end()
            return
        in_background(use(new))

    async def live() -> None:
        while True:
            pulse.value += 1
            await asyncio.sleep(PULSE_SECONDS)

    def begun() -> None:
        in_background(live())
        asyncio.get_running_loop().add_reader(link.fileno(), hear)
        link.send(BEGUN)

    process = Process(gateway, given.where, begun)
    return process
