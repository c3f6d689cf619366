"""The report of a run: a summary table, plots, and one page that shows every memorized prompt."""

from unmemorize.report._comparison import write_comparison
from unmemorize.report._copies_left import copy_warning
from unmemorize.report._deliver import Delivery, deliver
from unmemorize.report._difference import Changed, RunDifference, difference_of
from unmemorize.report._pack import write_evidence
from unmemorize.report._page import REPORT
from unmemorize.report._pictures import data_url
from unmemorize.report._results import Results, read_results
from unmemorize.report._signature import Signature, Signer
from unmemorize.report._summary import summary_table
from unmemorize.report._table import Cell, Table
from unmemorize.report._threshold_plot import plot_threshold
from unmemorize.report._totals import Totals
from unmemorize.report._truth import Truth
from unmemorize.report._verify_evidence import EvidenceCheck, verify_evidence
from unmemorize.report._write import page_of, write_report

__all__ = [
    "REPORT",
    "Cell",
    "Changed",
    "Delivery",
    "EvidenceCheck",
    "Results",
    "RunDifference",
    "Signature",
    "Signer",
    "Table",
    "Totals",
    "Truth",
    "copy_warning",
    "data_url",
    "deliver",
    "difference_of",
    "page_of",
    "plot_threshold",
    "read_results",
    "summary_table",
    "verify_evidence",
    "write_comparison",
    "write_evidence",
    "write_report",
]
