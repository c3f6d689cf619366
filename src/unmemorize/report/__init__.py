"""The report of a run: summary table, plots and one page that shows every memorized prompt."""

from unmemorize.report._page import write_report
from unmemorize.report._plots import plot_threshold
from unmemorize.report._results import read_results
from unmemorize.report._table import Cell, Table, Truth, summary_table

__all__ = [
    "Cell",
    "Table",
    "Truth",
    "plot_threshold",
    "read_results",
    "summary_table",
    "write_report",
]
