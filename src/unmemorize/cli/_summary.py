"""The summary of a run on a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from rich import box
from rich.table import Table as ScreenTable
from rich.text import Text

from unmemorize.cli._common import known_neurons
from unmemorize.cli._console import console, progress_bar
from unmemorize.generation import image_sets
from unmemorize.metrics import ClipAlignment, Descriptor, evaluate_all
from unmemorize.report import Cell, Table, read_results, summary_table
from unmemorize.runs import Run

_WIDE = 130
"""Columns of a terminal from which on a summary has each figure on one line."""


def evaluate_and_print(
    run: Run,
    *,
    descriptor: Descriptor,
    alignment: ClipAlignment | None,
    references: Mapping[int, Sequence[Path]] | None = None,
) -> None:
    """Evaluate all images of a run, and show the summary on screen, in RUN/metrics.json and RUN/metrics.csv."""
    for name in image_sets(run):
        with progress_bar(f"evaluate {name}") as progress:
            evaluate_all(
                run,
                name,
                descriptor=descriptor,
                alignment=alignment,
                references=references,
                progress=progress,
            )
    table = summary_table(read_results(run), known_neurons(run))
    run.write("metrics.json", table.to_json())
    run.write("metrics.csv", table.to_csv())
    _print_table(table)


def _print_table(table: Table) -> None:
    _print_narrow(table) if console.width < _WIDE else _print_wide(table)
    for note in table.notes:
        console.print(note, style="dim")


def _print_wide(table: Table) -> None:
    screen = ScreenTable(box=box.SIMPLE, padding=(0, 1), pad_edge=False)
    screen.add_column("", overflow="fold")
    for column in table.columns:
        screen.add_column(column, overflow="fold", min_width=10)
    by = ""
    for row in table.rows:
        if row.by != by:
            by = row.by
            screen.add_row(Text(f"by {by}", style="dim italic") if by else "")
        screen.add_row(row.label, *(_cell(cell, narrow=False) for cell in row.cells))
    console.print(screen)


def _print_narrow(table: Table) -> None:
    """Each label on a line of its own, above its figures."""
    width = console.width // len(table.columns) - 1

    def print_line(cells: Iterable[Text]) -> None:
        line = ScreenTable.grid(padding=(0, 1, 0, 0))
        for _ in table.columns:
            line.add_column(width=width, overflow="fold")
        line.add_row(*cells)
        console.print(line)

    print_line(Text(column, style="bold") for column in table.columns)
    by = ""
    for row in table.rows:
        if row.by != by:
            by = row.by
            console.print(f"\nby {by}" if by else "", style="dim italic")
        console.print(row.label, style="bold")
        print_line(_cell(cell, narrow=True) for cell in row.cells)


def _cell(cell: Cell, narrow: bool) -> Text:
    """The figure, and below it the 95 % interval."""
    figure = cell.figure.replace(" ± ", "±").replace(" (", "\n(") if narrow else cell.figure
    interval = cell.interval.replace(" to ", "–") if narrow else cell.interval
    return Text(figure or "-") + (Text(f"\n{interval}", style="dim") if interval else Text())
