"""The file with the result of a finished run."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

from unmemorize._errors import RunError
from unmemorize._files import from_json, read_json
from unmemorize._paths import exists
from unmemorize.runs._run import Run

Result = TypeVar("Result")


def read_result(
    kind: type[Result], run: Run | str | Path, name: str, command: str, what: str
) -> Result:
    """Read the result of a finished run.

    Args:
        kind: the class of the result.
        run: the run, or its folder.
        name: the file in its folder.
        command: makes such runs, for errors.
        what: the kind of run with its article, for errors.

    Raises:
        RunError: the run has no result, or it is damaged.
    """
    path = Run.of(run).folder / name
    way_out = f"Repeat unmemorize {command}; it computes only what is missing."
    if not exists(path):
        raise RunError(f"{path}: is not there, so {what} is not finished. {way_out}")
    content = read_json(path, RunError, f"result of {what}")
    return from_json(kind, content, RunError, f"{path}: damaged", way_out)
