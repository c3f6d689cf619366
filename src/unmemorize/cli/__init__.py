"""The command line: one file for each command, all of them thin."""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence

import typer
from rich.markup import escape

from unmemorize._errors import UnmemorizeError
from unmemorize._logging import quiet_libraries
from unmemorize.cli import (
    demo,
    detect,
    evaluate,
    export,
    fetch,
    generate,
    import_upstream,
    localize,
    merge_statistics,
    neurons,
    report,
    runs,
    statistics,
    status,
    testbed,
    threshold,
    ui,
    verify,
)
from unmemorize.cli._common import errors

INTERRUPTED = 130

app = typer.Typer(
    help="Find the neurons with which a text-to-image diffusion model memorizes training images, and switch them off.\n\n"
    "The steps: statistics, threshold, localize, generate, evaluate, report. All of them at once on the bundled model: demo. "
    "Everything in a run folder says how it was made, and the same command goes on where it stopped.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    add_completion=False,
)
for module in (
    demo,
    statistics,
    merge_statistics,
    threshold,
    detect,
    localize,
    generate,
    evaluate,
    report,
    status,
    ui,
    verify,
    import_upstream,
):
    app.command(module.__name__.rsplit(".", 1)[-1].replace("_", "-"))(module.command)
for group in (export, neurons, runs, fetch, testbed):
    app.add_typer(group.app, name=group.__name__.rsplit(".", 1)[-1])


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code: 0, 1 for an error that a message explains, 2 for wrong usage, 130 for Ctrl-C."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    quiet_libraries()
    try:
        app(args=None if arguments is None else list(arguments))
    except UnmemorizeError as problem:
        errors.print(f"[bold red]error:[/] {escape(str(problem))}", soft_wrap=True)
        return 1
    except SystemExit as leaving:
        if leaving.code == INTERRUPTED:
            errors.print("stopped; what is in a run folder is kept, and the same command goes on from there")
        return leaving.code if isinstance(leaving.code, int) else int(leaving.code is not None)
    return 0


def run() -> None:
    """The entry point of the ``unmemorize`` command."""
    sys.exit(main())
