"""CSV files that every reader splits into the same rows."""

from __future__ import annotations

import csv
from typing import Any, TextIO


class CsvWriter:
    r"""Writes rows that end with a line feed alone.

    Told to end rows like this, the writer of Python leaves a lone carriage return in a text
    unquoted, and readers, its own among them, take it for the end of a row.

    Args:
        file: opened with ``newline=""``, or an `io.StringIO`.
        delimiter: stands between the cells of a row.

    Examples:
        >>> from io import StringIO
        >>> text = StringIO()
        >>> CsvWriter(text).row("a cat\ron a mat", 1)
        >>> text.getvalue()
        '"a cat\ron a mat",1\n'
    """

    def __init__(self, file: TextIO, delimiter: str = ",") -> None:
        self._file = file
        self._writer = csv.writer(self, delimiter=delimiter, lineterminator="\r\n")

    def row(self, *values: Any) -> None:
        """Write a row. None is an empty cell."""
        self._writer.writerow(values)

    def write(self, line: str) -> None:
        """Write the line of a row, as Python's writer makes it."""
        self._file.write(line.removesuffix("\r\n") + "\n")
