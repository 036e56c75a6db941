"""Options that several commands share, and functions that read their values."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import torch
import typer

from maskrestore.cli.terminal import warn
from maskrestore.defense.doubt import DoubtPolicy
from maskrestore.defense.streams import operator_key
from maskrestore.errors import ConfigError

__all__ = [
    "CacheOption",
    "DataOption",
    "DefenseSetOption",
    "DeviceOption",
    "DoubtLimitOption",
    "KeyFileOption",
    "MaxQueriesOption",
    "OnDoubtOption",
    "Profile",
    "ProfileOption",
    "RayOption",
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
        help="Change one setting of the profile, e.g. `masks.rounds=4`, `scores.label_weight=0` or `squares=none`. "
        "May be repeated.",
    ),
]
Profile = Literal["default", "paper", "fast", "paper-fast"]
ProfileOption = Annotated[
    Profile,
    typer.Option(
        help="Settings of the method. `paper` is the method as published. `fast` and `paper-fast` need fewer "
        "queries for most images: they hide nine windows first, and score tokens only if the label changes."
    ),
]
ScheduleOption = Annotated[
    Literal["exact", "fast"] | None,
    typer.Option(hidden=True, help="Deprecated until 0.2: use `--profile fast` or `--profile paper-fast`."),
]
MaxQueriesOption = Annotated[
    int | None,
    typer.Option(min=1, help="The most queries for one image. Stages that need more are shortened or skipped."),
]
OnDoubtOption = Annotated[
    DoubtPolicy,
    typer.Option(
        help="What to answer if the answer does not fit the suspicion: `answer` with the label of the purified image, "
        "`original` with the label of the image as it came, `abstain` with none. Costs no query."
    ),
]
DoubtLimitOption = Annotated[
    float,
    typer.Option(help="An answer is in doubt if its doubt, in [0, 1], is above this. Records hold the suspicion."),
]
TrainingSetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="NAME=VALUE", help="Change any other setting. May be repeated."),
]


def _usable_device(name: str) -> str:
    """Return the name. Raises ConfigError if torch cannot use the device on this machine."""
    try:
        torch.zeros(1, device=name).cpu()  # of the device `meta` no value can be read
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(f"--device {name} cannot be used here; `cpu` always can ({reason})") from error
    return name


DeviceOption = Annotated[
    str,
    typer.Option("--device", callback=_usable_device, help="Device of the networks: `cpu`, or `cuda` for a GPU."),
]
RestorerOption = Annotated[
    str,
    typer.Option(
        help="The masked autoencoder: `auto` for the packaged one that fits the size of a picture, the name of a "
        "packaged one, a file of weights, or a folder or name on the hub."
    ),
]
DataOption = Annotated[
    Path | None,
    typer.Option(
        "--data",
        envvar="MASKRESTORE_DATA",
        help="Folder with data sets in the layout of the Hugging Face hub. If not given, they are downloaded from it.",
    ),
]
CacheOption = Annotated[
    Path | None,
    typer.Option("--cache", envvar="MASKRESTORE_CACHE", help="Folder of trained victims. Default: the user's cache."),
]
RayOption = Annotated[
    str | None,
    typer.Option(
        "--ray",
        metavar="[ADDRESS]",
        help="Work on a Ray cluster: the one at `HOST:PORT`, or without an address the one that this machine belongs "
        "to, else a new one on this machine that ends with the command.",
    ),
]
KeyFileOption = Annotated[
    Path | None,
    typer.Option(
        "--key-file",
        help="File with the secret key that the random masks depend on. If not given, the variable MASKRESTORE_KEY is "
        "used. Records hold a fingerprint of the key, never the key.",
    ),
]


def scheduled_profile(profile: Profile, schedule: str | None) -> Profile:
    """The profile that ``--profile`` and the deprecated ``--schedule`` mean together. Warns if the latter is given."""
    if schedule is None:
        return profile
    chosen: Profile = profile
    if schedule == "fast":
        chosen = "paper-fast" if profile in ("paper", "paper-fast") else "fast"
    warn(f"--schedule will be removed in 0.2; use --profile {chosen}")
    return chosen


def read_key(key_file: Path | None, *, warn_without: bool = True) -> bytes | int:
    """The operator's key: from the file, else from MASKRESTORE_KEY, else 0, by default with a warning.

    Raises ConfigError if the key is empty or the file cannot be read.
    """
    key = operator_key(key_file)
    if key is None:
        if warn_without:
            warn("no key: an attacker can predict the masks; in production set MASKRESTORE_KEY or --key-file")
        return 0
    return key


def parse_channels(text: str | None, name: str) -> tuple[float, ...] | None:
    """Read ``0.5`` or ``0.49,0.48,0.45``: one number, or one for each channel. Raises ConfigError for other texts."""
    if text is None:
        return None
    try:
        values = tuple(float(item) for item in text.split(","))
    except ValueError as error:
        raise ConfigError(f"{name} must be numbers separated by commas, got {text!r}") from error
    if len(values) not in (1, 3):
        raise ConfigError(f"{name} must have one number or one for each of three channels, got {len(values)}")
    return values
