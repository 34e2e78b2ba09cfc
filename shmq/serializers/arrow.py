"""arrow: tables as an Arrow IPC stream, which any Arrow implementation reads.

Takes `pyarrow.Table`, `pyarrow.RecordBatch`, `pandas.DataFrame` and `polars.DataFrame`, and gives the
same type back; an entry in the schema's metadata says which, and a plain stream is read as a Table.
The stream is written straight into shared memory; columns read with ``copy`` false lie there.
"""

from __future__ import annotations

import sys
from typing import Any

from shmq.errors import explain
from shmq.serializers import Encoded, require

KIND = b"shmq.kind"


class Arrow:
    """Columns come back as views into shared memory, or as their own with ``copy``."""

    name = "arrow"
    content_type = "application/vnd.apache.arrow.stream"

    def __init__(self) -> None:
        """Import the package; MissingPackage when it is not there."""
        self._pa = require("pyarrow", "arrow", self.name)
        self._ipc = require("pyarrow.ipc", "arrow", self.name)

    def encode(self, obj: Any) -> Encoded:
        """Return what writes ``obj``; TypeError for what is no table."""
        pa, ipc = self._pa, self._ipc
        kind, table = self._table_of(obj)
        schema = table.schema
        if kind != b"table":
            schema = schema.with_metadata({**(schema.metadata or {}), KIND: kind})
            table = table.replace_schema_metadata(schema.metadata)

        def stream(sink: Any) -> None:
            with ipc.new_stream(sink, schema) as writer:
                writer.write_table(table)

        measure = pa.MockOutputStream()
        stream(measure)

        def write(out: memoryview) -> None:
            with pa.FixedSizeBufferWriter(pa.py_buffer(out)) as sink:
                stream(sink)

        return Encoded(measure.size(), write)

    def _table_of(self, obj: Any) -> tuple[bytes, Any]:
        pa = self._pa
        if isinstance(obj, pa.Table):
            return b"table", obj
        if isinstance(obj, pa.RecordBatch):
            return b"batch", pa.Table.from_batches([obj])
        # Only a module that is imported can have made the object.
        pandas = sys.modules.get("pandas")
        if pandas is not None and isinstance(obj, pandas.DataFrame):
            return b"pandas", pa.Table.from_pandas(obj)
        polars = sys.modules.get("polars")
        if polars is not None and isinstance(obj, polars.DataFrame):
            return b"polars", obj.to_arrow()
        raise TypeError(
            explain(
                "object for serializer 'arrow'",
                type(obj).__name__,
                "a pyarrow Table or RecordBatch, a pandas or a polars DataFrame",
                "make one of it, or choose another serializer",
            )
        )

    def decode(self, data: memoryview, *, copy: bool) -> Any:
        """Return the table, of the type that it was written from.

        Raises: MissingPackage when that was pandas or polars, and it is not installed here.
        """
        pa = self._pa
        with self._ipc.open_stream(pa.py_buffer(bytes(data) if copy else data)) as reader:
            table = reader.read_all()
        metadata = dict(table.schema.metadata or {})
        kind = metadata.pop(KIND, b"table")
        if kind == b"table":
            return table
        table = table.replace_schema_metadata(metadata or None)
        if kind == b"batch":
            batches = table.to_batches()
            return batches[0] if batches else pa.RecordBatch.from_pylist([], schema=table.schema)
        if kind == b"pandas":
            require("pandas", "pandas", self.name)
            return table.to_pandas()
        return require("polars", "polars", self.name).from_arrow(table)


def make(name: str) -> Arrow:
    """Return the serializer."""
    return Arrow()
