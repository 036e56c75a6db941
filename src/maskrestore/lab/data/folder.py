"""Find the parquet files of a data set in a local folder."""

from __future__ import annotations

import os
from pathlib import Path

from maskrestore.errors import DataError
from maskrestore.lab.data.specs import DatasetSpec

__all__ = ["DATA_VARIABLE", "data_folder", "local_files"]

DATA_VARIABLE = "MASKRESTORE_DATA"
"""Environment variable with the folder of data sets, used when no ``folder`` is given."""


def data_folder(folder: Path | str | None = None) -> Path | None:
    """Return ``folder``, else the folder in ``MASKRESTORE_DATA``, else ``None``.

    Raises DataError when the folder does not exist.
    """
    chosen = folder or os.environ.get(DATA_VARIABLE)
    if not chosen:
        return None
    path = Path(chosen).expanduser()
    if not path.is_dir():
        raise DataError(
            f"the data folder {path} does not exist; pass one that contains a folder per data set, or set neither it "
            f"nor {DATA_VARIABLE} to download from the Hugging Face hub"
        )
    return path


def local_files(spec: DatasetSpec, split: str, folder: Path) -> list[Path]:
    """Return the shards of a split in ``folder/<name>``, at any depth, sorted by path.

    Files are named as on the hub: ``<split>-00000-of-00001.parquet``. Raises DataError when there is no file or when
    shards are missing.
    """
    root = folder / spec.name
    files = sorted(root.rglob(f"{split}-*.parquet"))
    if not files:
        wanted = f"the files of {spec.repository}" if spec.repository else "files in the layout of the hub"
        raise DataError(f"no {split}-*.parquet under {root}; expected {wanted} there")
    check_shards(files)
    return files


def check_shards(files: list[Path]) -> None:
    """Raises DataError unless the number of files equals the number in their names (``...-00000-of-00002...``)."""
    expected = {name.split("-of-")[-1][:5] for name in (file.name for file in files) if "-of-" in name}
    if expected and expected != {f"{len(files):05d}"}:
        names = ", ".join(file.name for file in files)
        raise DataError(
            f"found {len(files)} shards ({names}), but their names say {' and '.join(sorted(expected))}; "
            "add the missing files or remove those of another version"
        )
