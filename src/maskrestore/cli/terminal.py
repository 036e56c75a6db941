"""Output that all commands share: consoles, progress, one-line errors and exit statuses."""

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
"""Exit statuses: an operation failed; a command or setting is not valid; interrupted by Ctrl-C or SIGTERM."""

out = Console()
"""Standard output, for results."""
err = Console(stderr=True)
"""Standard error, for progress, notes and errors, so that results can be piped."""

_PLAIN_INTERVAL = 10.0
"""Seconds between two lines of progress when standard error is not a terminal."""


class CommandGroup(TyperGroup):
    """Shows maskrestore's own errors, and those of the operating system, as one line and sets the exit status."""

    def invoke(self, ctx: Any) -> Any:
        """Run a command. Raises typer.Exit with a status other than 0 for an error or an interruption."""
        try:
            return super().invoke(ctx)
        except ConfigError as error:
            _fail(error, USAGE)
        except (MaskRestoreError, OSError) as error:
            _fail(error, FAILED)
        except KeyboardInterrupt:
            say("interrupted; run the same command again to continue where it stopped")
            raise typer.Exit(INTERRUPTED) from None


@contextmanager
def progress(description: str) -> Iterator[ProgressUpdate]:
    """A progress bar on standard error; if that is not a terminal, a line every 10 seconds."""
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
    """Print a note on standard error without markup, colours or wrapping."""
    err.print(message, markup=False, highlight=False, soft_wrap=True)


def warn(message: str) -> None:
    """Print a warning on standard error."""
    say(f"warning: {message}")


def _fail(error: Exception, status: int) -> None:
    # Messages of libraries may span several lines: join them into one.
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
