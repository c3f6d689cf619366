"""The command ``report``."""

from unmemorize.cli._common import known_neurons
from unmemorize.cli._console import print_hint, print_line
from unmemorize.cli._execution_options import RunArgument
from unmemorize.report import write_report
from unmemorize.runs import Run


def command(run: RunArgument, /) -> None:
    """Write one web page with the summary, the plots and every memorized prompt.

    The page is RUN/report.html. It contains all of its images and needs no network.
    """
    folder = Run.load(run)
    print_line(str(write_report(folder, known_neurons(folder))))
    print_hint(f"unmemorize export checkpoint {run}/neurons.json -o FOLDER")
