"""The terminal: output for people and for programs, errors, progress and hints.

Output for people goes through `console` and is quiet where ``--json`` was given. Then the command
prints its answer as one JSON document. rich leaves colours out where ``NO_COLOR`` is set.
"""

from __future__ import annotations

import json
import shlex
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as Bar
from rich.table import Column, Table

if TYPE_CHECKING:
    from unmemorize.engines import Progress

console = Console(markup=False, highlight=False)
errors = Console(stderr=True)

_LINE_SECONDS = 30.0
"""Time between two lines of progress in a log: long enough that a night of work stays readable."""


def print_error(message: str) -> None:
    """Print an error message on standard error."""
    errors.print(f"[bold red]error:[/] {escape(message)}", soft_wrap=True)


def print_line(text: str, style: str | None = None) -> None:
    """Print one line of text without wrapping it, so a path in it can be copied."""
    console.print(text, style=style, soft_wrap=True)


def print_hint(*parts: str | Path) -> None:
    """Name the command that usually follows.

    Args:
        parts: the command in parts, with spaces between. Paths are quoted for a shell, and empty
            parts left out.
    """
    words = (shlex.quote(str(part)) if isinstance(part, Path) else part for part in parts)
    print_line(f"Next: {' '.join(word for word in words if word)}", style="dim")


def print_answer(values: Any = (), **more: Any) -> None:
    """Print the answer of a command as one JSON document, where ``--json`` asks for it.

    Args:
        values: its fields, or a record that has them. Every command calls this once.
        more: further fields.
    """
    if not console.quiet:
        return
    from unmemorize._files import to_json  # loads torch, which --json alone may need

    document = to_json({**(to_json(values) if values else {}), **more})
    text = json.dumps(document, indent=1, ensure_ascii=False)
    sys.stdout.write(
        text.encode(errors="backslashreplace").decode() + "\n"
    )  # paths may be no UTF-8


_WIDEST = 32
"""Characters of a short cell of a table, such as the name of a group."""


def make_table(*columns: str, text: str = "", title: str | None = None) -> Table:
    """Make a table in which each row is one line of the terminal.

    Args:
        columns: headings of short cells, which are never broken, and cut only if they would take
            the place of all others.
        text: heading of a last column, which is cut to what is left of the line. Empty for none.
        title: what is above it.
    """
    return Table(
        *(Column(heading, no_wrap=True, max_width=_WIDEST) for heading in columns),
        *([Column(text, no_wrap=True, overflow="ellipsis", ratio=1)] if text else []),
        title=title,
        title_justify="left",
        box=box.SIMPLE,
        padding=(0, 1),
        pad_edge=False,
        expand=bool(text),
    )


@contextmanager
def show_progress(title: str) -> Iterator[Progress]:
    """Yield the callback that the library reports progress to.

    Everything goes to standard error, so output can be piped. A terminal shows a bar from the first
    report on. A file or a pipe gets a line now and then, see `LoggedProgress`.
    """
    if not errors.is_terminal:
        yield LoggedProgress(title, lambda line: errors.print(line, markup=False, soft_wrap=True))
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    bar = Bar(*columns, console=errors)
    task = bar.add_task(title, total=None)

    def update(done: int, total: int | None) -> None:
        bar.start()
        bar.update(task, completed=done, total=total)

    try:
        yield update
    finally:
        bar.stop()


class LoggedProgress:
    """Progress as lines of text: one at the start, one at the end, and one now and then between.

    Args:
        title: the name of the work.
        write: receives each line.
        clock: returns the time in seconds.
        interval: seconds between two lines.

    Examples:
        >>> report = LoggedProgress("localize", print, clock=iter([0.0, 10.0, 40.0, 80.0]).__next__)
        >>> for done in (0, 1, 2, 4):
        ...     report(done, 4)
        localize: 0 of 4
        localize: 2 of 4, 0:00:40 elapsed, 0:00:40 left
        localize: 4 of 4, 0:01:20 elapsed
    """

    def __init__(
        self,
        title: str,
        write: Callable[[str], None],
        *,
        clock: Callable[[], float] = time.monotonic,
        interval: float = _LINE_SECONDS,
    ) -> None:
        self._title, self._write, self._clock, self._interval = title, write, clock, interval
        self._start: tuple[float, int] | None = None
        self._last_line = 0.0
        self._last_done = -1

    def __call__(self, done: int, total: int | None) -> None:
        """Report the units done and the units in all, see `Progress`."""
        now = self._clock()
        first = self._start is None
        if self._start is None:
            self._start = now, done
        complete = done == total and done != self._last_done
        self._last_done = done
        if first or complete or now - self._last_line >= self._interval:
            self._last_line = now
            self._write(self._line(now, done, total))

    def _line(self, now: float, done: int, total: int | None) -> str:
        began, done_before = self._start or (now, done)
        elapsed, finished = now - began, done - done_before
        line = f"{self._title}: {done}" + (f" of {total}" if total is not None else "")
        if elapsed:
            line += f", {_duration(elapsed)} elapsed"
        if elapsed and finished and total is not None and done < total:
            line += f", {_duration(elapsed / finished * (total - done))} left"
        return line


def _duration(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))
