"""Results as rows of parquet files, in the layout of the Hugging Face hub: one file for each part."""

from __future__ import annotations

import io
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from pathlib import Path, PurePosixPath
from typing import Any

from maskrestore.distributed.storage import Storage
from maskrestore.errors import ImageFileError
from maskrestore.jobs.image_records import ImageRecords
from maskrestore.jobs.result_files import load_purification
from maskrestore.types import Purification

__all__ = ["Shards", "shard_of"]

_FOLDER = "shards"
_FEATURES = {
    "file": {"dtype": "string", "_type": "Value"},
    "image": {"_type": "Image"},
    "label": {"dtype": "int64", "_type": "Value"},
    "original_label": {"dtype": "int64", "_type": "Value"},
    "queries": {"dtype": "int64", "_type": "Value"},
    "restored": {"dtype": "float64", "_type": "Value"},
    "purified_label": {"dtype": "int64", "_type": "Value"},
    "suspicion": {"dtype": "float64", "_type": "Value"},
    "doubtful": {"dtype": "bool", "_type": "Value"},
    "maps": {"dtype": "binary", "_type": "Value"},
    "record": {"dtype": "string", "_type": "Value"},
}
"""Columns. maps: an NPZ file. record: the whole record, as JSON."""

_COPIED = ("file", "label", "original_label", "queries", "restored", "purified_label", "suspicion", "doubtful")
"""Columns that are entries of the record as well."""


_ANSWERS = ("label", "doubtful")
"""Those that the policy for answers in doubt decides."""


class Shards:
    """Parquet files of purified images.

    The name of a file ends in the number of its rows. The ``output`` of a record is the file, ``#`` and a number of its
    own there.
    """

    def __init__(self, storage: Storage) -> None:
        self._storage = storage

    def write(self, part: str, folder: Path, records: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
        """Write the results of a part, and return the records with the place of each.

        folder: with the files that the records name. Records with an error have no result. Raises OSError.
        """
        import pyarrow as pa  # noqa: PLC0415 - an extra

        records = list(records)
        name = f"{_FOLDER}/{part}-{sum(record['error'] is None for record in records)}.parquet"
        placed: list[dict[str, Any]] = []
        rows: list[dict[str, Any]] = []
        for record in records:
            if record["error"] is not None:
                placed.append(record)
                continue
            place = f"{name}#{len(rows)}"
            whole = {**record, "output": place, "maps": place}
            image, maps = ((folder / record[entry]).read_bytes() for entry in ("output", "maps"))
            placed.append(whole)
            rows.append(
                {
                    **{entry: record[entry] for entry in _COPIED},
                    "image": {"bytes": image, "path": record["output"]},
                    "maps": maps,
                    "record": json.dumps(whole),
                }
            )
        if rows:
            self._write(name, pa.Table.from_pylist(rows, schema=_schema()))
        return placed

    def load(self, record: dict[str, Any], folder: Path, *, keep_grey: bool) -> Purification:
        """The result of a record, as a batch of one image. folder: to unpack it in. Raises ImageFileError, OSError."""
        rows = self._rows(shard_of(record), ["file", "image", "maps"])
        row = next((row for row in rows if row["file"] == record["file"]), None)
        if row is None:
            raise ImageFileError(f"{record['output']}: no result of {record['file']}")
        unpacked = {**record, "output": "image.png", "maps": "maps.npz"}
        (folder / "image.png").write_bytes(row["image"]["bytes"])
        (folder / "maps.npz").write_bytes(row["maps"])
        return load_purification(folder, unpacked, keep_grey=keep_grey)

    def names(self) -> Iterator[str]:
        """The files, in order. Raises OSError."""
        return self._storage.names(_FOLDER)

    def settle(self, records: ImageRecords) -> None:
        """Leave one row for each image: the one that its record names. Raises OSError.

        Others are of parts that were written and never recorded, or of images that were purified again. Only files
        that have some are read.
        """
        named = Counter(place.partition("#")[0] for place in records.outputs())
        for name in self.names():
            if not named[name]:
                self._storage.delete(name)
            elif named[name] < int(PurePosixPath(name).stem.rpartition("-")[2]):
                shard = self._rows(name, ["file"])
                kept = [row for row, one in enumerate(shard) if _place(records, one["file"]) == name]
                self._keep(name, kept)

    def answer_again(self, names: Set[str], records: ImageRecords) -> None:
        """Write what records answer now into the rows of files, those that are there. Raises OSError."""
        import pyarrow as pa  # noqa: PLC0415 - an extra

        for name in names & set(self.names()):
            table = self._table(name)
            rows = table.select(["file", *_ANSWERS, "record"]).to_pylist()
            for row in rows:
                if _place(records, row["file"]) == name:  # else of a part that was never recorded
                    record = records.record(row["file"])
                    row.update({entry: record[entry] for entry in _ANSWERS}, record=json.dumps(record))
            for column in (*_ANSWERS, "record"):
                place, kind = table.schema.get_field_index(column), table.schema.field(column)
                table = table.set_column(place, kind, pa.array([row[column] for row in rows], kind.type))
            self._write(name, table)

    def _keep(self, name: str, rows: Sequence[int]) -> None:
        self._write(name, self._table(name).take(rows))

    def _table(self, name: str) -> Any:
        import pyarrow.parquet as pq  # noqa: PLC0415 - an extra

        with self._storage.open(name) as stream:
            return pq.read_table(stream)

    def _write(self, name: str, table: Any) -> None:
        import pyarrow.parquet as pq  # noqa: PLC0415 - an extra

        content = io.BytesIO()
        pq.write_table(table, content)
        self._storage.write(name, content.getvalue())

    def _rows(self, name: str, columns: list[str]) -> list[dict[str, Any]]:
        import pyarrow as pa  # noqa: PLC0415 - an extra
        import pyarrow.parquet as pq  # noqa: PLC0415

        try:
            with self._storage.open(name) as stream:
                rows: list[dict[str, Any]] = pq.read_table(stream, columns=columns).to_pylist()
        except pa.ArrowInvalid as error:
            raise ImageFileError(f"{name}: the parquet file is damaged: {error}") from error
        return rows


def shard_of(record: Mapping[str, Any]) -> str:
    """The file that holds the result of a record; empty if there is none."""
    return str(record.get("output", "")).partition("#")[0]


def _place(records: ImageRecords, name: str) -> str:
    try:
        return shard_of(records.record(name))
    except KeyError:
        return ""


def _schema() -> Any:
    import pyarrow as pa  # noqa: PLC0415 - an extra

    kinds = {
        "string": pa.string(),
        "int64": pa.int64(),
        "float64": pa.float64(),
        "bool": pa.bool_(),
        "binary": pa.binary(),
    }
    picture = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    columns = [(name, picture if "dtype" not in one else kinds[one["dtype"]]) for name, one in _FEATURES.items()]
    return pa.schema(columns, metadata={"huggingface": json.dumps({"info": {"features": _FEATURES}})})
