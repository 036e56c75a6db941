"""``maskrestore records``: check, merge and sort files of records."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from maskrestore.cli.terminal import out, say
from maskrestore.errors import DataError
from maskrestore.lab.measure.detection import DetectionRecord
from maskrestore.lab.measure.record_files import RecordFile
from maskrestore.lab.measure.records import Record, decode
from maskrestore.lab.runner.results_folder import Failure

__all__ = ["records"]

KINDS: dict[str, type[Any]] = {"defense": Record, "detector": DetectionRecord, "error": Failure}
"""Kinds of records by an entry that only this kind has."""

records = typer.Typer(
    help="Check, merge and sort files of records.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)

FilesArgument = Annotated[list[Path], typer.Argument(metavar="FILE...", help="Files of records (`.jsonl`).")]


@records.command("add")
def add(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The file to which the records are added.")],
    sources: Annotated[
        list[Path],
        typer.Argument(metavar="RECORD...", help="Files with a single record (`.json`) or with several (`.jsonl`)."),
    ],
) -> None:
    """Add records to a file, e.g. from another machine. A record replaces one with the same name.

    Several processes may add to a file at once. Nothing is added if any record is invalid.

    Example:

        maskrestore records add benchmarks/results/local/cells.jsonl elsewhere/cells.jsonl
    """
    found = [record for source in sources for record in _read(source)]
    kinds = {type(record) for record in found}
    if file.exists() and (kind := _kind_of_file(file)) is not None:
        kinds.add(kind)
    if len(kinds) > 1:
        raise DataError(
            f"these are records of several kinds: {', '.join(sorted(kind.__name__ for kind in kinds))}; "
            "add one kind at a time"
        )
    if found:
        target = RecordFile(file, kinds.pop())
        target.read()
        target.append(*found)
        target.compact()
    say(f"added {len(found)} records to {file}")


@records.command("check")
def check(files: FilesArgument) -> None:
    """Check every line of files of records against the schema. The first invalid line is an error.

    Example:

        maskrestore records check benchmarks/results/*.jsonl
    """
    for file in files:
        kind = _kind_of_file(file)
        if kind is None:
            out.print(f"{file}: no records", highlight=False, soft_wrap=True)
            continue
        checked: RecordFile[Any] = RecordFile(file, kind)
        note = "" if checked.is_compact() else ", not sorted (see `maskrestore records sort`)"
        count = len(checked.read())
        out.print(f"{file}: {count} valid records ({kind.__name__}){note}", highlight=False, soft_wrap=True)


@records.command("sort")
def sort(files: FilesArgument) -> None:
    """Sort files of records by name, and remove lines that were replaced by later ones."""
    for file in files:
        kind = _kind_of_file(file)
        if kind is not None:
            RecordFile(file, kind).compact()


def _read(source: Path) -> list[Any]:
    """Return the records of a ``.jsonl`` file, or the single record of a JSON file. Raises DataError."""
    if source.suffix == ".jsonl":
        kind = _kind_of_file(source)
        return [] if kind is None else list(RecordFile(source, kind).read().values())
    try:
        values = json.loads(source.read_text(encoding="utf-8"))
        return [decode(_kind(values), values)]
    except (OSError, ValueError) as error:
        raise DataError(f"{source} is not a valid record: {error}") from error


def _kind_of_file(file: Path) -> type[Any] | None:
    """Return the kind of the first record, or ``None`` for an empty file. Raises DataError."""
    try:
        with file.open(encoding="utf-8") as stream:
            line = stream.readline()
        return _kind(json.loads(line)) if line.endswith("\n") else None
    except (OSError, ValueError) as error:
        raise DataError(f"{file}, line 1: {error}") from error


def _kind(values: Any) -> type[Any]:
    """Return the kind of a parsed record. Raises ValueError for anything else."""
    found = [kind for entry, kind in KINDS.items() if isinstance(values, dict) and entry in values]
    if len(found) != 1:
        raise ValueError(f"this is not a record: expected an object with one of the entries {', '.join(KINDS)}")
    return found[0]
