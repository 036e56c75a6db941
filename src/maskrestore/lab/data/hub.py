"""Download the parquet files of a data set from the Hugging Face hub. The hub's client caches them."""

from __future__ import annotations

from pathlib import Path

from maskrestore.errors import DataError, MissingDependencyError
from maskrestore.lab.data.folder import DATA_VARIABLE, check_shards

__all__ = ["hub_files"]


def hub_files(repository: str, split: str) -> list[Path]:
    """Return the shards of a split, sorted by path, from the client's cache or the hub.

    Raises:
        DataError: the hub cannot be reached and the files are not in the cache, the data set has no such split, or
            shards are missing.
        MissingDependencyError: huggingface_hub is not installed.
    """
    try:
        from huggingface_hub import snapshot_download  # noqa: PLC0415 - an optional dependency
    except ImportError as error:
        raise MissingDependencyError("huggingface_hub", "lab") from error
    pattern = f"*/{split}-*.parquet"
    try:
        root = snapshot_download(repository, repo_type="dataset", allow_patterns=[pattern])
    except Exception as error:  # the client's network, cache and repository errors have no common base class
        raise DataError(
            f"{repository} could not be downloaded from the Hugging Face hub: {error}. "
            f"Without a connection, name a folder with its parquet files in {DATA_VARIABLE}."
        ) from error
    files = sorted(Path(root).rglob(f"{split}-*.parquet"))
    if not files:
        raise DataError(f"{repository} on the hub has no file {pattern}")
    check_shards(files)
    return files
