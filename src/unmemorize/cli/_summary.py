"""The summary of a run on a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from rich import box
from rich.cells import cell_len
from rich.table import Table as ScreenTable
from rich.text import Text

from unmemorize._errors import MetricError
from unmemorize.cli._common import known_neurons
from unmemorize.cli._console import console, print_line, show_progress
from unmemorize.generation import image_sets
from unmemorize.metrics import ClipAlignment, Descriptor, MedianName, evaluate_all
from unmemorize.report import Cell, Results, Table, read_results, summary_table
from unmemorize.runs import Run

_WIDE = 130
"""Width of a terminal at which a summary also shows intervals and counts."""
_HEADLINES = {
    "SSCD_Orig": "Copy score (SSCD_Orig, 1 is a copy)",
    "D_SSCD": "Similarity between seeds (D_SSCD, copies are alike)",
}
"""Metrics that tell copies, the best first, each with how the headline names it."""
_NARROWEST_LABEL = 10
"""Width below which a label would be broken into syllables."""


def evaluate_and_print(
    run: Run,
    *,
    descriptor: Descriptor,
    alignment: ClipAlignment | None,
    references: Mapping[int, Sequence[Path]] | None = None,
    medians: MedianName = "middle",
) -> Table:
    """Evaluate all images of a run, then print the summary and write it into the run.

    Args:
        run: a run with images. RUN/metrics.json and RUN/metrics.csv hold the summary.
        descriptor, alignment, references, medians: see `evaluate_all`.

    Returns:
        The summary.

    Raises:
        MetricError: training images are named, and none can be read.
    """
    for name in image_sets(run):
        with show_progress(f"evaluate {name}") as progress:
            evaluate_all(
                run,
                name,
                descriptor=descriptor,
                alignment=alignment,
                references=references,
                medians=medians,
                progress=progress,
            )
    results = read_results(run)
    table = summary_table(results, known_neurons(run))
    run.write("metrics.json", table.to_json())
    run.write("metrics.csv", table.to_csv())
    _print_copy_score(table)
    print_table(table)
    _refuse_if_all_are_missing(run, results, given=references is not None)
    return table


def _print_copy_score(table: Table) -> None:
    """Print how much is copied in each set of images, by the best metric that there is."""
    for metric, name in _HEADLINES.items():
        figures = [
            f"{row.label.removeprefix(f'{metric}, ')} {_short(row.cells[0])}"
            for row in table.rows
            if row.label.startswith(f"{metric}, ") and row.cells[0].figure
        ]
        if figures:
            print_line(f"{name}: {'; '.join(figures)}", style="bold")
            return


def _refuse_if_all_are_missing(run: Run, results: Results, *, given: bool) -> None:
    """End with an error when training images are named, but none could be compared with.

    Raises:
        MetricError: this is so. The other metrics are written before.
    """
    records = results.references()
    if any(record.used for record in records) or not (records or given):
        return
    if not records:
        raise MetricError(
            f"{run.folder}: no image in the folder of --references belongs to a prompt with "
            "generated images, so nothing says how much is still copied. Name another folder."
        )
    names = results.lacking("missing") + results.lacking("unreadable")
    raise MetricError(
        f"{run.folder}: none of the {len(names)} training images can be read, such as {names[0]}, "
        "so nothing says how much is still copied. Put them where the prompt file names them, or "
        "name their folder with --references."
    )


def print_table(table: Table) -> None:
    """Print a summary for the width of the terminal."""
    if console.width < _WIDE:
        _print_narrow(table)
    else:
        _print_wide(table)
    for note in table.notes:
        console.print(note, style="yellow" if note.startswith("Warning") else "dim")


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
        screen.add_row(row.label, *(_cell(cell) for cell in row.cells))
    console.print(screen)


def _print_narrow(table: Table) -> None:
    """Print one line for each row, with the name of the metric above rows that share it."""
    figures = [[_short(cell) for cell in row.cells] for row in table.rows]
    words = [max(column.split(), key=len) for column in table.columns]
    widths = [max(map(len, cells)) for cells in zip(words, *figures, strict=True)]
    label_width = max(_NARROWEST_LABEL, console.width - sum(widths) - len(widths))

    def print_row(label: str, cells: Iterable[str], style: str = "") -> None:
        line = ScreenTable.grid(padding=(0, 1, 0, 0))
        for width in (label_width, *widths):
            line.add_column(width=width, overflow="fold")
        line.add_row(label, *cells, style=style)
        console.print(line)

    print_row("", table.columns, style="bold")
    by = heading = ""
    for row, cells in zip(table.rows, figures, strict=True):
        metric, _, condition = row.label.partition(", ")
        if row.by != by:
            by = row.by
            console.print(f"\nby {by}" if by else "", style="dim italic")
        if not condition and cell_len(metric) <= label_width:
            heading = ""
            print_row(metric, cells)
            continue
        if metric != heading:
            heading = metric
            console.print(metric, style="bold")
        print_row(f"  {condition.replace(' neurons off', ' off')}", cells)
    console.print(
        f"A terminal of {_WIDE} columns also shows counts and 95 % intervals, as do metrics.csv "
        "and the report.",
        style="dim",
    )


def _short(cell: Cell) -> str:
    """Return the figure of a cell without its count."""
    return cell.figure.replace(" ± ", "±").partition(" (")[0] or "-"


def _cell(cell: Cell) -> Text:
    """Return the figure of a cell, and below it the 95 % interval."""
    interval = Text(f"\n{cell.interval}", style="dim") if cell.interval else Text()
    return Text(cell.figure or "-") + interval
