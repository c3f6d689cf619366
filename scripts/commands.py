"""The page of all commands, from their own help: python scripts/commands.py [docs/commands.md]"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

os.environ["TERM"] = "dumb"

import typer.main

from unmemorize.cli import COMMANDS, app

ORDER = (
    "demo",
    "statistics",
    "merge-statistics",
    "threshold",
    "detect",
    "localize",
    "generate",
    "evaluate",
    "report",
    "ui",
    "status",
)


def page() -> str:
    """Every command with its description and options."""
    root: Any = typer.main.get_command(app)
    lines = [
        "# Commands",
        "",
        "Written by `make docs` from the commands' own help (`unmemorize COMMAND -h`).",
        "",
    ]
    names = [*ORDER, *(name for name in COMMANDS if name not in ORDER)]
    for name in names:
        lines += _described(root.get_command(None, name), f"unmemorize {name}")
    return "\n".join(lines).rstrip() + "\n"


def _described(command: Any, call: str) -> Iterator[str]:
    yield from (f"## {call}", "", _plain(command.help), "")
    if hasattr(command, "commands"):
        for name, inner in command.commands.items():
            yield from (
                line.replace("## ", "### ", 1) for line in _described(inner, f"{call} {name}")
            )
        return
    arguments = [
        parameter for parameter in command.params if parameter.param_type_name == "argument"
    ]
    if arguments:
        yield from ("| argument | |", "|---|---|")
        yield from (
            f"| `{argument.metavar or argument.name.upper()}` | {_plain(argument.help)} |"
            for argument in arguments
        )
        yield ""
    options = [
        parameter
        for parameter in command.params
        if parameter.param_type_name == "option" and parameter.name != "help"
    ]
    if options:
        yield from ("| option | |", "|---|---|")
        yield from (
            f"| `{', '.join(option.opts)}` | {_plain(option.help)}{_values(option)} |"
            for option in options
        )
        yield ""


def _values(option: Any) -> str:
    """What an option may be, and what it is by default."""
    declared = option.type_descriptor.annotation
    choices = [
        choice
        for kind in (declared, *get_args(declared))
        if get_origin(kind) is Literal
        for choice in get_args(kind)
    ]
    allowed = f" One of {', '.join(f'`{choice}`' for choice in choices)}." if choices else ""
    default = option.default
    if not option.show_default or default is None or default is False or callable(default):
        return allowed
    return f"{allowed} (`{' '.join(map(str, default)) if isinstance(default, (list, tuple)) else default}`)"


def _plain(text: str | None) -> str:
    return re.sub(r"\s+", " ", text or "").strip().replace("|", "\\|")


if __name__ == "__main__":
    path = Path(sys.argv[1] if len(sys.argv) > 1 else "docs/commands.md")
    path.write_text(page(), encoding="utf-8")
    print(path)
