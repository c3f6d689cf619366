"""The command line: one file for each command, all of them thin."""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Any

import typer
import typer.main
from rich.markup import escape
from typer.core import TyperGroup

from unmemorize._errors import UnmemorizeError
from unmemorize.cli._console import errors

INTERRUPTED = 130
COMMANDS = (
    "demo",
    "statistics",
    "merge-statistics",
    "threshold",
    "detect",
    "localize",
    "generate",
    "evaluate",
    "report",
    "status",
    "ui",
    "verify",
    "import-upstream",
    "export",
    "neurons",
    "runs",
    "fetch",
    "testbed",
)
_HELP: dict[str, Any] = {"help_option_names": ["-h", "--help"]}


class _Commands(TyperGroup):
    """Imports a command when it is asked for: the libraries that most of them need take seconds to load, and the page opens before."""

    def list_commands(self, ctx: Any) -> list[str]:  # noqa: ARG002
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:  # noqa: ARG002
        if cmd_name in COMMANDS and cmd_name not in self.commands:
            self.commands[cmd_name] = _imported(cmd_name)
        return self.commands.get(cmd_name)


def _imported(name: str) -> Any:
    module = import_module(f"unmemorize.cli.{name.replace('-', '_')}")
    if "diffusers" in sys.modules:
        from unmemorize.pipelines import quiet_libraries

        quiet_libraries()
    group = getattr(module, "app", None)
    if group is None:
        group = typer.Typer(
            pretty_exceptions_enable=False, context_settings=_HELP, add_completion=False
        )
        group.command(name)(module.command)
    command = typer.main.get_command(group)
    command.name = name
    return command


app = typer.Typer(
    cls=_Commands,
    help="Find the neurons with which a text-to-image diffusion model memorizes training images, and switch them off.\n\n"
    "The steps: statistics, threshold, localize, generate, evaluate, report. All of them at once on the bundled model: demo. "
    "Everything in a run folder says how it was made, and the same command goes on where it stopped.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings=_HELP,
    add_completion=False,
)


@app.callback()
def _unmemorize() -> None: ...


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code: 0, 1 for an error that a message explains, 2 for wrong usage, 130 for Ctrl-C."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    for noisy in ("httpx", "httpcore", "fontTools"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    try:
        app(args=None if arguments is None else list(arguments))
    except UnmemorizeError as problem:
        errors.print(f"[bold red]error:[/] {escape(str(problem))}", soft_wrap=True)
        return 1
    except SystemExit as leaving:
        if leaving.code == INTERRUPTED:
            errors.print(
                "stopped; what is in a run folder is kept, and the same command goes on from there"
            )
        return leaving.code if isinstance(leaving.code, int) else int(leaving.code is not None)
    return 0


def run() -> None:
    """The entry point of the ``unmemorize`` command."""
    sys.exit(main())
