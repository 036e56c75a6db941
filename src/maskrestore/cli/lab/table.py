"""``maskrestore table``: Markdown tables from records."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from maskrestore.cli.terminal import say
from maskrestore.lab.measure.record_files import read_records
from maskrestore.lab.show.tables import markdown
from maskrestore.runtime.files import write_text_atomically

__all__ = ["table"]


def table(
    records: Annotated[
        Path, typer.Argument(metavar="FILE", help="Records of `maskrestore evaluate`: a file or its folder.")
    ],
    out_file: Annotated[
        Path | None, typer.Option("--out", help="Write the tables to this file instead of printing them.")
    ] = None,
) -> None:
    """Print the records of a file as Markdown tables.

    There is one table for each data set, with a row for each attack and CA / BA / ASR of each defense, and one table of
    costs. Only means are computed.

    Example:

        maskrestore table benchmarks/results/cifar10.jsonl --out tables.md
    """
    text = markdown(read_records(records))
    if out_file is None:
        typer.echo(text, nl=False)
    else:
        write_text_atomically(out_file, text)
        say(f"wrote {out_file}")
