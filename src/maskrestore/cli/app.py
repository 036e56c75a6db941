"""The program ``maskrestore`` and the list of its commands."""

from __future__ import annotations

import signal
import warnings
from typing import Annotated

import typer

from maskrestore import __version__
from maskrestore.cli.cost import cost
from maskrestore.cli.demo import demo
from maskrestore.cli.inspect import inspect
from maskrestore.cli.lab.detect import detect
from maskrestore.cli.lab.evaluate import evaluate
from maskrestore.cli.lab.records import records
from maskrestore.cli.lab.reproduce import reproduce
from maskrestore.cli.lab.table import table
from maskrestore.cli.lab.train_diffusion import train_diffusion
from maskrestore.cli.lab.train_victim import train_victim
from maskrestore.cli.pretrain import pretrain
from maskrestore.cli.purify import purify
from maskrestore.cli.serve import serve
from maskrestore.cli.terminal import CommandGroup, warn

__all__ = ["app", "main"]

app = typer.Typer(
    cls=CommandGroup,
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,  # an unexpected exception is a bug: show the whole traceback
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"maskrestore {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version and exit."),
    ] = False,
) -> None:
    """Shield an untrusted image classifier against backdoors, image by image, at test time.

    For each image, maskrestore finds suspicious patches by masking, restores them with a masked autoencoder, and
    returns the classifier's label of the purified image. It asks the classifier for labels only.

    Start with `maskrestore demo`.
    """


app.command("demo")(demo)
app.command("purify")(purify)
app.command("serve")(serve)
app.command("inspect")(inspect)
app.command("cost")(cost)
app.command("evaluate")(evaluate)
app.command("detect")(detect)
app.command("reproduce")(reproduce)
app.command("table")(table)
app.add_typer(records, name="records")
app.command("train-victim")(train_victim)
app.command("pretrain")(pretrain)
app.command("train-diffusion")(train_diffusion)


def main() -> None:
    """Run the program."""
    # SIGTERM, sent by `kill` and `timeout`, interrupts a command as Ctrl-C does, so that records stay complete and no
    # child process is left behind.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    warnings.filterwarnings("ignore", module="PIL")  # about a file that they do not name; records say what was faulty
    warnings.showwarning = lambda message, *_: warn(str(message))  # without the file and line that issued it
    app()
