"""Output that all commands share: consoles, progress, one-line errors and exit statuses."""

from __future__ import annotations

import shlex
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn
from typer.core import TyperGroup

from maskrestore.distributed.cluster import AUTO
from maskrestore.errors import ConfigError, MaskRestoreError
from maskrestore.types import Progress as ProgressUpdate

__all__ = [
    "FAILED",
    "INTERRUPTED",
    "USAGE",
    "CommandGroup",
    "command_line",
    "err",
    "out",
    "progress",
    "say",
    "warn",
]

FAILED, USAGE, INTERRUPTED = 1, 2, 130
"""Exit statuses: an operation failed; a command or setting is not valid; interrupted by Ctrl-C or SIGTERM."""

out = Console()
"""Standard output, for results."""
err = Console(stderr=True)
"""Standard error, for progress, notes and errors, so that results can be piped."""

_RAY = "--ray"

_PLAIN_INTERVAL = 10.0
"""Seconds between two lines of progress when standard error is not a terminal."""

_SIGN_OF_LIFE = 30.0
"""Seconds after which a line says that nothing has changed."""


class CommandGroup(TyperGroup):
    """Shows maskrestore's own errors, and those of the operating system, as one line and sets the exit status.

    ``--ray`` may stand without an address: before another option, or at the end.
    """

    def parse_args(self, ctx: Any, args: Sequence[str]) -> list[str]:
        """Read the words of a command line."""
        following = [*args[1:], "--"]
        pairs = zip(args, following, strict=True)
        words = [f"{_RAY}={AUTO}" if word == _RAY and after.startswith("-") else word for word, after in pairs]
        return super().parse_args(ctx, words)

    def invoke(self, ctx: Any) -> Any:
        """Run a command. Raises typer.Exit with a status other than 0 for an error or an interruption."""
        try:
            return super().invoke(ctx)
        except typer.BadParameter as error:
            error.message = error.message.removeprefix("Value error, ")  # of the library that Typer checks values with
            raise
        except ConfigError as error:
            _fail(error, USAGE)
        except (MaskRestoreError, OSError) as error:
            _fail(error, FAILED)
        except KeyboardInterrupt:
            say(f"interrupted; to continue where it stopped, run the same command again: {command_line()}")
            raise typer.Exit(INTERRUPTED) from None


@contextmanager
def progress(description: str) -> Iterator[ProgressUpdate]:
    """A progress bar on standard error; if that is not a terminal, a line every 10 seconds.

    While there is nothing new, the bar shows that the program lives, and a line repeats the last state every 30 s.
    """
    if not err.is_terminal:
        lines = _Lines(description)
        with lines.repeated():
            yield lines
        return
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=err) as bar:
        task = bar.add_task(description, total=None, note="")

        def update(done: int, total: int, note: str = "") -> None:
            bar.update(task, completed=done, total=total, note=note)

        yield update


def say(message: str) -> None:
    """Print a note on standard error without markup, colours or wrapping."""
    err.print(message, markup=False, highlight=False, soft_wrap=True)


def warn(message: str) -> None:
    """Print a warning on standard error."""
    say(f"warning: {message}")


def command_line() -> str:
    """The command that runs, as one would type it; without what a shell may have put into a header: a secret."""
    words = sys.argv[1:]
    for place, word in enumerate(words):
        is_value = place > 0 and words[place - 1] == "--header"
        if (is_value or word.startswith("--header=")) and "$" not in word:
            words[place] = f"{word.partition(':')[0]}: ..."
    return shlex.join(["maskrestore", *words])


def _fail(error: Exception, status: int) -> None:
    # Messages of libraries may span several lines: join them into one.
    say(f"error: {' '.join(str(error).split()) or type(error).__name__}")
    raise typer.Exit(status) from None


class _Lines:
    """Progress as lines."""

    def __init__(self, description: str) -> None:
        self._description = description
        self._state = ""
        self._shown = self._begun = time.monotonic()
        self._lock = threading.Lock()

    def __call__(self, done: int, total: int, note: str = "") -> None:
        with self._lock:
            finished = done >= total and self._state.partition(" ")[0] != f"{done}/{total}"
            self._state = f"{done}/{total} {note}".rstrip()
            if finished or time.monotonic() - self._shown >= _PLAIN_INTERVAL:
                self._say()

    @contextmanager
    def repeated(self) -> Iterator[None]:
        """Repeat the last line from time to time while the program waits for something."""
        end = threading.Event()
        thread = threading.Thread(target=self._repeat, args=(end,), daemon=True)
        thread.start()
        try:
            yield
        finally:
            end.set()
            thread.join()

    def _repeat(self, end: threading.Event) -> None:
        while not end.wait(_SIGN_OF_LIFE / 10):
            with self._lock:
                if time.monotonic() - self._shown >= _SIGN_OF_LIFE:
                    self._say(f" ({time.monotonic() - self._begun:.0f} s)")

    def _say(self, more: str = "") -> None:
        self._shown = time.monotonic()
        say(f"{self._description}: {self._state}{more}")
