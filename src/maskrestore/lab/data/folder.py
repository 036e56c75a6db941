"""Find the files of a data set in a local folder."""

from __future__ import annotations

import os
from pathlib import Path

from maskrestore.errors import DataError
from maskrestore.lab.data.specs import DatasetSpec

__all__ = ["DATA_VARIABLE", "data_folder", "dataset_folder", "local_files"]

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
    """Return the shards of a split in the folder of the data set, at any depth, sorted by path.

    Files are named as on the hub: ``<split>-00000-of-00001.parquet``. Raises DataError when there is no file or when
    shards are missing.
    """
    root = dataset_folder(spec, folder)
    files = sorted(root.rglob(f"{split}-*.parquet"))
    if not files and split == "test":
        files = sorted(root.rglob("validation-*.parquet"))  # what the hub calls it for some data sets
    if not files:
        wanted = f"the files of {spec.repository}" if spec.repository else "files in the layout of the hub"
        raise DataError(f"no {split}-*.parquet under {root}; expected {wanted} there, or class folders in {split}/")
    check_shards(files)
    return files


def dataset_folder(spec: DatasetSpec, folder: Path) -> Path:
    """Return ``folder/<name>``, or the folder of the source if only that exists."""
    own = folder / spec.name
    return folder / spec.source if spec.source is not None and not own.is_dir() else own


def check_shards(files: list[Path]) -> None:
    """Raises DataError unless the number of files equals the number in their names (``...-00000-of-00002...``)."""
    expected = {name.split("-of-")[-1][:5] for name in (file.name for file in files) if "-of-" in name}
    if expected and expected != {f"{len(files):05d}"}:
        names = ", ".join(file.name for file in files)
        raise DataError(
            f"found {len(files)} shards ({names}), but their names say {' and '.join(sorted(expected))}; "
            "add the missing files or remove those of another version"
        )
