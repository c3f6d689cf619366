"""The summary on the screen."""

import io

import pytest
from rich.console import Console

from unmemorize.cli import _summary
from unmemorize.cli._summary import print_table
from unmemorize.report import Cell, Table
from unmemorize.report._table import Row

COLUMNS = (
    "overall",
    "VM",
    "TM",
    "rare (0.1 of the dose)",
    "rare (0.01 of the dose)",
    "unmemorized",
)
MEDIAN = Cell(value=0.9612, spread=0.0312, low=0.93, high=0.97, count=33)
SHARE = Cell(value=0.12, hits=12, count=100, low=0.07, high=0.2)


def table() -> Table:
    rows = (
        Row("detected as memorized", (SHARE,) * 6),
        Row("copy score, before", (MEDIAN,) * 5 + (Cell(),), by="descriptor (sha256 abc)"),
        Row("copy score, random neurons off", (MEDIAN,) * 6, by="descriptor (sha256 abc)"),
    )
    return Table(COLUMNS, rows, ("Notes follow.",))


def printed(width: int, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    output = io.StringIO()
    monkeypatch.setattr(_summary, "console", Console(file=output, width=width, markup=False))
    print_table(table())
    return [line.rstrip() for line in output.getvalue().splitlines()]


def test_a_row_is_one_line_at_80_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = printed(80, monkeypatch)
    assert max(map(len, lines)) <= 80
    start = lines.index("copy score")
    assert lines[start - 1] == "by descriptor (sha256 abc)"
    assert lines[start + 1].split() == ["before", *["0.96±0.03"] * 5, "-"]
    assert lines[start + 2].split() == ["random", "off", *["0.96±0.03"] * 6]
    assert "unmemorized" in lines[0]
    shares = lines[lines.index("detected as memorized") + 1]
    assert shares.split() == ["12", "of", "100"] * 6
    assert "130 columns also shows counts and 95 % intervals" in " ".join(lines)
    assert lines[-1] == "Notes follow."


def test_a_label_that_fits_stands_beside_its_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = printed(120, monkeypatch)
    shares = next(line for line in lines if line.startswith("detected as memorized"))
    assert shares.split()[3:] == ["12", "of", "100"] * 6


def test_a_wide_terminal_shows_counts_and_intervals(monkeypatch: pytest.MonkeyPatch) -> None:
    text = "\n".join(printed(160, monkeypatch))
    assert text.count("0.96 ± 0.03 (n=33)") == 11
    assert text.count("0.93 to 0.97") == 11
    assert text.count("7% to 20%") == 6
    assert "130 columns" not in text
    assert text.endswith("Notes follow.")
