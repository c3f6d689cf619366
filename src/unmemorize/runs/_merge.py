"""Join the shards of a run that were made on machines without a common file system."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path

from unmemorize._errors import RunError
from unmemorize._files import whole_folder
from unmemorize._paths import exists
from unmemorize.runs._records import kinds_in, read_sorted
from unmemorize.runs._run import MANIFEST, PROMPTS, Run

_NEEDED = ("*.png", "*.jpg", "*.safetensors", "text-encoder-*.json")
"""The files beside records that stages rest on. The others are summaries."""


def merge_runs(folders: Sequence[str | Path], output: str | Path) -> Run:
    """Join folders of one run into a new folder, with one file for each kind of records.

    Records are ordered as the prompts are. Where several folders have a record of one item, that of
    the last folder counts. Errors of items that failed are left out, and the command that made the
    run tries those again. Summaries and reports are not copied; the same command makes them again.

    Args:
        folders: folders of one run, each with some of its shards.
        output: a new folder.

    Raises:
        RunError: the folders hold different runs, the output exists, or it cannot be written.
    """
    runs = [Run.load(folder) for folder in folders]
    output = Path(output)
    if exists(output):
        raise RunError(f"{output}: exists already. Choose another folder.")
    with whole_folder(output, RunError) as partial:
        _merge(runs, partial)
    return Run.load(output)


def _merge(runs: Sequence[Run], into: Path) -> None:
    _check_same(runs)
    into.mkdir(parents=True, exist_ok=True)
    for name in (MANIFEST, PROMPTS):
        if (runs[0].folder / name).is_file():
            shutil.copyfile(runs[0].folder / name, into / name)
    for kind in sorted(set().union(*(kinds_in(run.folder) for run in runs))):
        lines = read_sorted([file for run in runs for file in run.files(kind)])
        with (into / f"{kind}.jsonl").open("w", encoding="utf-8") as file:
            file.writelines(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    folders = [run.folder for run in runs]
    for folder in folders:
        for pattern in _NEEDED:
            _copy(folder.glob(pattern), into)
    _merge_inside(folders, into)


def _merge_inside(folders: Sequence[Path], into: Path) -> None:
    """Join what lies inside folders of one name: runs are merged, other files are copied."""
    for name in sorted({path.name for folder in folders for path in folder.glob("[!.]*/")}):
        same_name = [folder / name for folder in folders if (folder / name).is_dir()]
        if runs := [Run.load(folder) for folder in same_name if (folder / MANIFEST).exists()]:
            _merge(runs, into / name)
            continue
        (into / name).mkdir()
        for folder in same_name:
            _copy(folder.iterdir(), into / name)
        _merge_inside(same_name, into / name)


def _copy(files: Iterable[Path], into: Path) -> None:
    """Copy files into a folder, without locks and temporary files."""
    for file in files:
        if file.is_file() and not file.name.startswith("."):
            shutil.copyfile(file, into / file.name)


def _check_same(runs: Sequence[Run]) -> None:
    first, *others = runs
    for run in others:
        for name, _, _ in first.manifest.differences(run.manifest):
            raise RunError(
                f"{run.folder} and {first.folder} are different runs: they differ in {name}. "
                "Merge shards of one run."
            )
