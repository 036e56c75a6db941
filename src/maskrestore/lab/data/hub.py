"""Fetch the parquet files of a data set from the Hugging Face hub (cached by its client)."""

from __future__ import annotations

from pathlib import Path

from maskrestore.errors import DataError, MissingDependencyError
from maskrestore.lab.data.folder import check_shards

__all__ = ["hub_files"]


def hub_files(repository: str, split: str) -> list[Path]:
    """Download the shards of a split, or find them in the client's cache, in their order.

    Raises:
        DataError: the hub cannot be reached and the cache lacks the files, or the data set has no such split.
        MissingDependencyError: huggingface_hub is not installed.
    """
    try:
        from huggingface_hub import snapshot_download  # noqa: PLC0415 - an optional dependency
    except ImportError as error:
        raise MissingDependencyError("huggingface_hub", "lab") from error
    pattern = f"*/{split}-*.parquet"
    try:
        root = snapshot_download(repository, repo_type="dataset", allow_patterns=[pattern])
    except Exception as error:  # the client has no common base for network, cache and repository errors
        raise DataError(
            f"{repository} could not be fetched from the Hugging Face hub: {error}. "
            "Offline, name a folder that holds its parquet files."
        ) from error
    files = sorted(Path(root).rglob(f"{split}-*.parquet"))
    if not files:
        raise DataError(f"{repository} on the hub has no file {pattern}")
    check_shards(files)
    return files
