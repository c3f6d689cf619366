"""The command ``report``."""

from unmemorize.cli._common import known_neurons
from unmemorize.cli._console import console
from unmemorize.cli._options import RunArgument
from unmemorize.report import write_report
from unmemorize.runs import Run


def command(run: RunArgument) -> None:
    """Write RUN/report.html: one page with the summary, the plots and every memorized prompt, that needs nothing else."""
    folder = Run.load(run)
    console.print(str(write_report(folder, known_neurons(folder))))
