"""Describe where a result was computed: code, processor, threads and library versions."""

from __future__ import annotations

import functools
import platform
import subprocess
from dataclasses import dataclass
from importlib import metadata
from importlib.resources import files
from pathlib import Path

import torch

from maskrestore.runtime.digests import digest

__all__ = ["Environment", "current_environment", "own_version", "source_digest"]

_LIBRARIES = ("maskrestore", "torch", "numpy", "pillow", "safetensors")


@dataclass(frozen=True, kw_only=True)
class Environment:
    """Where a result was computed."""

    commit: str
    """Git revision of the code, with ``+dirty`` if tracked files differ from it; ``unknown`` outside its repository."""
    device: str
    """Name of the CPU."""
    threads: int
    """Threads that PyTorch computes with."""
    python: str
    """Version of Python."""
    libraries: dict[str, str]
    """Version of each installed library that can change a result."""
    accelerator: str | None = None
    """Name of the device that the networks ran on, if that was not the CPU."""


def current_environment(device: str | torch.device = "cpu") -> Environment:
    """Describe this process, its CPU and its code. device: where the networks run."""
    place = torch.device(device)
    return Environment(
        commit=_commit(),
        device=_processor(),
        threads=torch.get_num_threads(),
        python=platform.python_version(),
        libraries={name: version for name in _LIBRARIES if (version := _version(name))},
        accelerator=None if place.type == "cpu" else _accelerator(place),
    )


def _accelerator(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)


@functools.cache  # a running process does not notice later changes of the files
def source_digest() -> str:
    """Sixteen hex digits that identify the source code of the package, also when it differs from the commit."""
    package = Path(str(files("maskrestore")))
    sources = sorted(package.rglob("*.py"))
    return digest(path.relative_to(package).as_posix().encode() + path.read_bytes() for path in sources)


@functools.cache
def _commit() -> str:
    folder = Path(__file__).parent

    def git(*arguments: str) -> str:
        done = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, timeout=30, check=True)
        return done.stdout.strip()

    try:
        # An installed copy may be inside the repository of another project, so this file must be tracked.
        git("ls-files", "--error-unmatch", Path(__file__).name)
        return git("rev-parse", "HEAD") + ("+dirty" if git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.SubprocessError):
        return "unknown"


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass  # not Linux
    return platform.processor() or platform.machine() or "unknown"


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


@functools.cache
def own_version() -> str:
    """The version of the installed maskrestore."""
    return _version("maskrestore") or "unknown"
