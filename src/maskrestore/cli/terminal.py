"""What all commands share towards the user: consoles, progress, one-line errors."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from typer.core import TyperGroup

from maskrestore.errors import ConfigError, MaskRestoreError
from maskrestore.types import Progress as ProgressUpdate

__all__ = [
    "FAILED",
    "INTERRUPTED",
    "USAGE",
    "CommandGroup",
    "err",
    "out",
    "progress",
    "say",
    "warn",
]

FAILED, USAGE, INTERRUPTED = 1, 2, 130
"""Exit statuses: something failed; the command or a setting makes no sense; Ctrl-C."""

out = Console()
"""Results."""
err = Console(stderr=True)
"""Progress, notes and errors, so that results can be piped."""

_PLAIN_INTERVAL = 10.0
"""Seconds between two lines of progress where there is no terminal."""


class CommandGroup(TyperGroup):
    """Shows the project's own errors as one line, without a traceback, and sets the exit status."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command that was asked for."""
        try:
            return super().invoke(ctx)
        except ConfigError as error:
            _fail(error, USAGE)
        except (MaskRestoreError, OSError) as error:
            _fail(error, FAILED)
        except KeyboardInterrupt:
            say("interrupted; run the same command again to go on where it stopped")
            raise typer.Exit(INTERRUPTED) from None


@contextmanager
def progress(description: str) -> Iterator[ProgressUpdate]:
    """A progress bar on standard error, or a line now and then where that is no terminal."""
    if not err.is_terminal:
        yield _plain_progress(description)
        return
    columns = (
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
    """Print a note on standard error as it is, without colours or wrapping."""
    err.print(message, markup=False, highlight=False, soft_wrap=True)


def warn(message: str) -> None:
    """Print a warning on standard error."""
    say(f"warning: {message}")


def _fail(error: Exception, status: int) -> None:
    # Exceptions of libraries may span lines; the first says what is wrong.
    say(f"error: {' '.join(str(error).split()) or type(error).__name__}")
    raise typer.Exit(status) from None


def _plain_progress(description: str) -> ProgressUpdate:
    shown = time.monotonic()

    def update(done: int, total: int, note: str = "") -> None:
        nonlocal shown
        if done >= total or time.monotonic() - shown >= _PLAIN_INTERVAL:
            shown = time.monotonic()
            say(f"{description}: {done}/{total} {note}".rstrip())

    return update
