"""Rows of CSV files, as Python's own reader takes them."""

import csv
from io import StringIO
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from unmemorize._csv_files import CsvWriter

CELLS = st.text(st.sampled_from('ab,;"\n\r\x0b\x85\u2028'), min_size=1)


@given(st.lists(st.tuples(CELLS, CELLS)))
def test_every_reader_finds_the_rows_again(rows: list[tuple[str, str]]) -> None:
    text = StringIO(newline="")
    writer = CsvWriter(text)
    for row in rows:
        writer.row(*row)
    for newline in ("", "\n"):  # as files are read, and as texts are
        assert [*map(tuple, csv.reader(StringIO(text.getvalue(), newline)))] == rows


def test_lines_end_alike_and_none_is_empty(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    with path.open("w", newline="") as file:
        writer = CsvWriter(file)
        writer.row("a", None, 0.5)
        writer.row("two\r\nlines", 1)
    assert path.read_bytes() == b'a,,0.5\n"two\r\nlines",1\n'
