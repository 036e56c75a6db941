"""``maskrestore records``: files of records, checked, merged and sorted."""

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
"""An entry that only this kind of record has."""

records = typer.Typer(
    help="Check, merge and sort files of records.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)

FilesArgument = Annotated[list[Path], typer.Argument(metavar="FILE...", help="Files of records (`.jsonl`).")]


@records.command("add")
def add(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The file of records that is added to.")],
    sources: Annotated[
        list[Path],
        typer.Argument(metavar="RECORD...", help="Records: a file with a single one (`.json`), or files of records."),
    ],
) -> None:
    """Add records to a file: those of another machine, say. A record replaces one of the same name.

    Several processes may add to a file at once. Nothing is added if any record is not valid.

    Example:

        maskrestore records add benchmarks/results/local/cells.jsonl elsewhere/cells.jsonl
    """
    found = [record for source in sources for record in _read(source)]
    kinds = {type(record) for record in found}
    if file.exists() and (kind := _kind_of_file(file)) is not None:
        kinds.add(kind)
    if len(kinds) > 1:
        raise DataError(f"these are records of several kinds: {', '.join(sorted(kind.__name__ for kind in kinds))}")
    if found:
        target = RecordFile(file, kinds.pop())
        target.read()
        target.append(*found)
        target.compact()
    say(f"added {len(found)} records to {file}")


@records.command("check")
def check(files: FilesArgument) -> None:
    """Check every line of files of records against the schema; the first that does not fit is named.

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
    """Sort files of records by name, and drop the lines that later ones replaced."""
    for file in files:
        kind = _kind_of_file(file)
        if kind is not None:
            RecordFile(file, kind).compact()


def _read(source: Path) -> list[Any]:
    """The records of a file of records, or the only one of a JSON file. Raises DataError."""
    if source.suffix == ".jsonl":
        kind = _kind_of_file(source)
        return [] if kind is None else list(RecordFile(source, kind).read().values())
    try:
        values = json.loads(source.read_text(encoding="utf-8"))
        return [decode(_kind(values), values)]
    except (OSError, ValueError) as error:
        raise DataError(f"{source} is not a valid record: {error}") from error


def _kind_of_file(file: Path) -> type[Any] | None:
    """The kind of the first line; ``None`` without any. Raises DataError."""
    try:
        with file.open(encoding="utf-8") as stream:
            line = stream.readline()
        return _kind(json.loads(line)) if line.endswith("\n") else None
    except (OSError, ValueError) as error:
        raise DataError(f"{file}, line 1: {error}") from error


def _kind(values: Any) -> type[Any]:
    """Raises ValueError for what is no record."""
    found = [kind for entry, kind in KINDS.items() if isinstance(values, dict) and entry in values]
    if len(found) != 1:
        raise ValueError(f"this is no record: expected an object with one of the entries {', '.join(KINDS)}")
    return found[0]
