"""Run checks in a child process, which may crash, hang, or take too much memory."""

from __future__ import annotations

import multiprocessing
import os
import resource
import time
import traceback
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Any

__all__ = ["Find", "Outcome", "guarded"]

MAX_BYTES = 2 * 2**30
"""Of memory, with everything that is imported."""

Check = Callable[[Any], str | None]
"""Tries a case: returns what is wrong, or ``None``. It must be a function of a module. What it raises is wrong, too."""


@dataclass(frozen=True)
class Find:
    """A case and what is wrong with it."""

    case: Any
    what: str


@dataclass
class Outcome:
    """What became of the cases of a part."""

    tried: int = 0
    finds: list[Find] = field(default_factory=list)


def guarded(check: Check, cases: Iterable[Any], seconds: float, *, longest: float = 10.0) -> Outcome:
    """Try cases until they end or the time is up, which runs from the first case on: that may take long to make.

    cases: each can be pickled. longest: seconds for a case, after which it counts as a hang.
    """
    outcome, worker = Outcome(), _Worker(check)
    end: float | None = None
    try:
        for case in cases:
            end = time.monotonic() + seconds if end is None else end
            if time.monotonic() >= end:
                break
            outcome.tried += 1
            what = worker.try_case(case, longest)
            if what is not None:
                outcome.finds.append(Find(case, what))
    finally:
        worker.end()
    return outcome


class _Worker:
    """A child process that is started anew after a crash, a hang, or a case that took too much memory."""

    def __init__(self, check: Check) -> None:
        self._check = check
        self._process: Any = None
        self._pipe: Any = None

    def try_case(self, case: Any, longest: float) -> str | None:
        if self._process is None:
            self._start()
        self._pipe.send(case)
        if not self._pipe.poll(longest):
            self.end()
            return f"no end within {longest:g} seconds"
        try:
            what, peak = self._pipe.recv()
        except EOFError:
            self._process.join()
            what, peak = f"the process died with exit code {self._process.exitcode}", 0
            self.end()
        if peak > MAX_BYTES:
            self.end()  # the peak of a process never falls
            what = what or f"took {peak / 2**30:.1f} GiB"
        return what

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_work, args=(self._check, theirs), daemon=True)
        self._process.start()
        theirs.close()
        assert self._pipe.recv() == "ready"

    def end(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.join()
            self._process = None


def _work(check: Check, pipe: Connection) -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # libraries in C write about broken files there
    pipe.send("ready")
    while True:
        try:
            case = pipe.recv()
        except EOFError:
            return
        try:
            what = check(case)
        except Exception:
            what = traceback.format_exc()
        pipe.send((what, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024))
