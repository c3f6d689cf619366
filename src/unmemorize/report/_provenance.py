"""How results were made: commands, settings, and hashes of files."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from unmemorize.report._packed_files import absent_from_unpacked
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


def output_hashes(run: Run) -> dict[str, str]:
    """Return the SHA-256 of the edit, the edited model and the LoRA files, by path in the run.

    Those that the pack of an unpacked run has left out are among them.
    """
    absent = {
        name: entry.sha256
        for name, entry in absent_from_unpacked(run.folder).items()
        if name.split("/")[0] in _OUTPUTS
    }
    present = {
        path.relative_to(run.folder).as_posix(): hash_of_file(path)
        for name in _OUTPUTS
        for path in _files(run.folder / name)
    }
    return dict(sorted({**absent, **present}.items()))


def _files(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    return sorted(file for file in path.rglob("*") if file.is_file())
