"""A model card for an edited checkpoint or a LoRA: what was searched, what was found, what changed, what it does not prove."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from unmemorize._errors import ExportError
from unmemorize._files import read_json
from unmemorize.export._checkpoint import CARD
from unmemorize.neurons import NeuronFile
from unmemorize.runs import Run


def model_card(
    neurons: NeuronFile,
    *,
    base: Path | None = None,
    run: Run | None = None,
    lora: bool = False,
    license_name: str | None = None,
) -> str:
    """A model card with a header that the Hub understands.

    Args:
        neurons: what is off.
        base: folder of the base model, whose card names its license.
        run: an evaluated run, for the numbers before and after.
        lora: whether it is a LoRA.
        license_name: of the base, as the Hub writes it; by default that of its card, or "other" without one.

    Raises:
        ExportError: the run was not evaluated, or is another model's.
    """
    if run is not None and run.manifest.inputs.fingerprint not in ("", neurons.fingerprint):
        raise ExportError(
            f"{run.folder}: a run of another model ({run.manifest.model}) than that of the neurons ({neurons.model})."
        )
    environment = Environment(
        loader=PackageLoader("unmemorize.export"), undefined=StrictUndefined, autoescape=False
    )  # Markdown
    table = None if run is None else _table(run)
    text = environment.get_template("card.md.j2").render(
        neurons=neurons,
        count=len(neurons.neurons),
        license=license_name or _license(base),
        found=list(_lines(neurons.found)),
        table=table,
        lora=lora,
    )
    return text.rstrip() + "\n"


def _table(run: Run) -> Mapping[str, Any]:
    table = read_json(
        run.folder / "metrics.json",
        ExportError,
        "table of metrics (made by: unmemorize evaluate RUN)",
    )
    try:
        columns = table["columns"]
        rows = [
            {**row, "cells": {name: _figure(row["cells"].get(name)) for name in columns}}
            for row in table["rows"]
        ]
        return {"columns": columns, "rows": rows, "notes": table["notes"]}
    except (KeyError, TypeError, AttributeError) as problem:
        raise ExportError(
            f"{run.folder}/metrics.json: damaged ({problem}). Make it again: unmemorize evaluate {run.folder}"
        ) from problem


def _lines(found: Mapping[str, Any], of: str = "") -> Iterator[tuple[str, Any]]:
    """How neurons were found, line by line; what was combined of several files by its parts."""
    for name, value in found.items():
        if isinstance(value, list) and all(isinstance(part, Mapping) for part in value):
            for number, part in enumerate(value, 1):
                yield from _lines(part, f"{of}{name}, part {number}, ")
        else:
            yield f"{of}{name}", value


def _figure(cell: Mapping[str, Any] | None) -> str:
    if cell is None:
        return ""
    return f"{cell['figure']} [{cell['interval']}]" if cell.get("interval") else str(cell["figure"])


def _license(base: Path | None) -> str:
    card = base / CARD if base else None
    if card is not None and card.is_file():
        found = re.search(
            r"^license: *(\S+)", card.read_text(encoding="utf-8", errors="replace"), re.MULTILINE
        )
        if found:
            return found[1]
    return "other"
