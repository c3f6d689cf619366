"""Write the page of all commands from their help.

Call: python docs/tools/commands.py [docs/commands.md]
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cyclopts import App

from unmemorize.cli import COMMANDS, make_app


def page() -> str:
    """Describe every command with its arguments and options."""
    lines = [
        "# Commands",
        "",
        "`make docs` writes this page from the help of the commands (`unmemorize COMMAND -h`).",
        "",
        "Every command that prints results takes `--json`. Then standard output holds one JSON "
        "document and nothing else. Progress and errors go to standard error, where a terminal "
        "shows the time left and a log gets a line every 30 seconds. A command that fails has exit "
        "code 1, and 2 for wrong usage. `NO_COLOR=1` leaves colours out.",
        "",
    ]
    for name in COMMANDS:
        lines += describe(make_app(name)[name], f"unmemorize {name}", "##")
    return "\n".join(lines).rstrip() + "\n"


def describe(app: App, call: str, heading: str) -> Iterator[str]:
    """Yield the lines about a command, or about a group of commands."""
    yield from (f"{heading} {call}", "", summary(app.help), "")
    commands = [name for name in app if not name.startswith("-")]
    for name in commands:
        yield from describe(app[name], f"{call} {name}", f"{heading}#")
    if commands:
        return
    arguments = [
        argument
        for argument in app.assemble_argument_collection(
            default_parameter=make_app().default_parameter, parse_docstring=True
        )
        if argument.name != "*"  # groups of options, which follow one by one
    ]
    yield from table("argument", [each for each in arguments if not each.name.startswith("-")])
    yield from table("option", [each for each in arguments if each.name.startswith("-")])


def table(title: str, arguments: list[Any]) -> Iterator[str]:
    """Yield a table of arguments or options, or nothing if there are none."""
    if not arguments:
        return
    yield from (f"| {title} | |", "|---|---|")
    for each in arguments:
        names = ", ".join(f"`{name}`" for name in each.names)
        yield f"| {names} | {plain(each.parameter.help)}{values(each)} |"
    yield ""


def values(argument: Any) -> str:
    """Say what an option accepts, and its default."""
    choices = argument.get_choices()
    text = f" One of {', '.join(f'`{choice}`' for choice in choices)}." if choices else ""
    default = argument.field_info.default
    if isinstance(argument.show_default, str):
        text += f" Default: {argument.show_default}."
    elif argument.required:
        text += " Required."
    elif argument.show_default and default is not None and default is not argument.field_info.empty:
        text += f" Default: `{default}`."
    return text


def summary(text: str) -> str:
    """Return a docstring without its section on arguments."""
    return plain(text.partition("\n    Args:\n")[0].partition("\nArgs:\n")[0])


def plain(text: str | None) -> str:
    """Return a text on one line, for a cell of a table."""
    return re.sub(r"\s+", " ", text or "").strip().replace("|", "\\|")


if __name__ == "__main__":
    path = Path(sys.argv[1] if len(sys.argv) > 1 else "docs/commands.md")
    path.write_text(page(), encoding="utf-8")
    print(path)
