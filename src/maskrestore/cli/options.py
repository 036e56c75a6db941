"""Options that several commands have, and how their texts are read."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Literal

import torch
import typer

from maskrestore.cli.terminal import warn
from maskrestore.errors import ConfigError

__all__ = [
    "CacheOption",
    "DataOption",
    "DefenseSetOption",
    "DeviceOption",
    "KeyFileOption",
    "MaxQueriesOption",
    "Profile",
    "ProfileOption",
    "RestorerOption",
    "ScheduleOption",
    "TrainingSetOption",
    "parse_channels",
    "read_key",
    "scheduled_profile",
]

DefenseSetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="NAME=VALUE",
        help="Change one setting of the method, e.g. `scores.label_score=flip`, `restoration.thresholds=0.6,0.5` or "
        "`squares=none`. May be repeated.",
    ),
]
Profile = Literal["default", "paper", "fast", "paper-fast"]
ProfileOption = Annotated[
    Profile,
    typer.Option(
        help="Settings of the method. `paper` is the method as published. `fast` and `paper-fast` hide nine windows "
        "first, which settles most images with fewer queries."
    ),
]
ScheduleOption = Annotated[
    Literal["exact", "fast"] | None,
    typer.Option(hidden=True, help="Deprecated until 0.2: use `--profile fast` or `--profile paper-fast`."),
]
MaxQueriesOption = Annotated[
    int | None,
    typer.Option(min=1, help="Queries for one image at most: the method gives the best answer within them."),
]
TrainingSetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="NAME=VALUE", help="Change any other setting; see above. May be repeated."),
]


def _usable_device(name: str) -> str:
    """The name as it is. Raises ConfigError for a device that torch does not know or does not find here."""
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(f"--device {name} cannot be used here; `cpu` always can ({reason})") from error
    return name


DeviceOption = Annotated[
    str, typer.Option("--device", callback=_usable_device, help="Where networks run: `cpu`, or `cuda` for a GPU.")
]
RestorerOption = Annotated[
    str,
    typer.Option(help="Masked autoencoder: name of a packaged one, file of weights, folder or hub name."),
]
DataOption = Annotated[
    Path | None,
    typer.Option(
        "--data",
        envvar="MASKRESTORE_DATA",
        help="Folder with data sets in the Hugging Face hub's layout; without it they come from the hub.",
    ),
]
CacheOption = Annotated[
    Path | None,
    typer.Option("--cache", envvar="MASKRESTORE_CACHE", help="Folder of trained victims, if not the user's cache."),
]
KeyFileOption = Annotated[
    Path | None,
    typer.Option(
        "--key-file",
        help="File with the secret that the masks are drawn from; else the variable MASKRESTORE_KEY is used. "
        "Records hold its fingerprint, never the secret.",
    ),
]


def scheduled_profile(profile: Profile, schedule: str | None) -> Profile:
    """The profile that a profile and the deprecated ``--schedule`` mean together, with a warning."""
    if schedule is None:
        return profile
    chosen: Profile = profile
    if schedule == "fast":
        chosen = "paper-fast" if profile in ("paper", "paper-fast") else "fast"
    warn(f"--schedule goes away in 0.2; use --profile {chosen}")
    return chosen


def read_key(key_file: Path | None, *, warn_without: bool = True) -> bytes | int:
    """The operator's secret: of the file, else of MASKRESTORE_KEY, else 0, perhaps with a warning.

    The same secret is the same key wherever it comes from; white space around it does not count. Raises
    ConfigError when it is empty or the file cannot be read.
    """
    variable = os.environ.get("MASKRESTORE_KEY")
    if key_file is not None:
        try:
            secret = key_file.read_bytes().strip()
        except OSError as error:
            raise ConfigError(f"cannot read the key from {key_file}: {error.strerror}") from error
    elif variable is not None:
        secret = variable.strip().encode()
    else:
        if warn_without:
            warn("no key: an attacker can predict the masks; in production set MASKRESTORE_KEY or --key-file")
        return 0
    if not secret:
        raise ConfigError(f"the key in {key_file or 'MASKRESTORE_KEY'} is empty; use 16 characters or more")
    return secret


def parse_channels(text: str | None, name: str) -> tuple[float, ...] | None:
    """``0.5`` or ``0.49,0.48,0.45`` -> one number for each channel. Raises ConfigError for anything else."""
    if text is None:
        return None
    try:
        values = tuple(float(item) for item in text.split(","))
    except ValueError as error:
        raise ConfigError(f"{name} must be numbers separated by commas, got {text!r}") from error
    if len(values) not in (1, 3):
        raise ConfigError(f"{name} must have one number or one for each of three channels, got {len(values)}")
    return values
