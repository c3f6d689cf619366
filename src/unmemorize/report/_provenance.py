"""How results were made: commands, settings, and hashes of files."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from unmemorize._errors import ExportError
from unmemorize.export import folder_of, model_files
from unmemorize.pipelines import Model
from unmemorize.report._evidence import MODEL_FILES
from unmemorize.runs import Manifest, Run, hash_of_file

_NESTED = ("images", "metrics", "audit")
"""Runs inside a run, in the order in which they are made."""
_OUTPUTS = ("edit.json", "edited", "edited.safetensors", "lora")


@dataclass(frozen=True)
class Step:
    """One command and what determined its results.

    Args:
        name: of the step; empty for the run itself.
        manifest: of its run folder.
    """

    name: str
    manifest: Manifest


def steps_of(run: Run) -> Iterator[Step]:
    """Yield the run itself, then the runs inside it."""
    yield Step("", run.manifest)
    for kind in _NESTED:
        for name, nested in run.nested(kind).items():
            yield Step(f"{kind}/{name}", nested.manifest)


def record_model_files(run: Run, model: Model) -> None:
    """Write the SHA-256 of the files that a model was loaded from, once for each run.

    A model that was made in memory has none.
    """
    if (run.folder / MODEL_FILES).exists():
        return
    try:
        folder = folder_of(model)
    except ExportError:
        return
    hashes = {name.as_posix(): hash_of_file(folder / name) for name in model_files(folder)}
    run.write(MODEL_FILES, json.dumps(hashes, indent=1) + "\n")


def output_hashes(run: Run) -> dict[str, str]:
    """Return the SHA-256 of the edit, the edited model and the LoRA files, by path in the run."""
    return {
        path.relative_to(run.folder).as_posix(): hash_of_file(path)
        for name in _OUTPUTS
        for path in _files(run.folder / name)
    }


def _files(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    return sorted(file for file in path.rglob("*") if file.is_file())
