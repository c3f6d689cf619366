"""The records of a run as an Arrow table, or as a Parquet file."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unmemorize._errors import RunError
from unmemorize._files import atomic_file
from unmemorize.export._record_rows import NEURON_LIST, RecordRows, record_rows
from unmemorize.runs import Run

if TYPE_CHECKING:
    import pyarrow

_ROWS_PER_GROUP = 10_000


def arrow_table(run: Run | str | Path) -> pyarrow.Table:
    """Return the records of a run as an Arrow table. Its ``to_pandas()`` makes a data frame.

    A detection, localization or mitigation has a row per finished prompt, an audit one per arm,
    attack and prompt, an audit of images one per image, and a comparison those of comparison.csv.

    Args:
        run: a run, or its folder.

    Returns:
        The table. Scores are those of the run's detector or metric. Columns that a kind of run does
        not know are not there, and unknown values are null.

    Raises:
        RunError: the run has no records yet, a record is damaged, or pyarrow is missing.

    Examples:
        >>> arrow_table("no-such-run")
        Traceback (most recent call last):
        ...
        unmemorize.RunError: no-such-run/manifest.json: the run manifest cannot be read ...
    """
    loaded = Run.of(run)
    table = record_rows(loaded)
    arrow = _arrow(f"{loaded.folder}: a table of records")
    return arrow.Table.from_pylist(list(table.rows), _schema(arrow, table))


def export_parquet(run: Run, path: str | Path) -> int:
    """Write the rows of `arrow_table` as a Parquet file, however many there are.

    Returns:
        The number of rows.

    Raises:
        RunError: as for `arrow_table`, or the file cannot be written.
    """
    arrow = _arrow(f"{path}: writing Parquet")
    from pyarrow import parquet

    table = record_rows(run)
    schema, count = _schema(arrow, table), 0
    with atomic_file(Path(path), RunError) as file, parquet.ParquetWriter(file, schema) as writer:
        while group := list(islice(table.rows, _ROWS_PER_GROUP)):
            writer.write_table(arrow.Table.from_pylist(group, schema))
            count += len(group)
    return count


def _arrow(what: str) -> Any:
    try:
        import pyarrow
    except ImportError as problem:
        raise RunError(f"{what} needs pyarrow. pip install 'unmemorize[parquet]'") from problem
    return pyarrow


def _schema(arrow: Any, table: RecordRows) -> Any:
    neuron = arrow.struct([("layer", arrow.string()), ("index", arrow.int64())])
    return arrow.schema(
        [
            (name, arrow.list_(neuron) if kind == NEURON_LIST else arrow.type_for_alias(kind))
            for name, kind in table.columns.items()
        ]
    )
