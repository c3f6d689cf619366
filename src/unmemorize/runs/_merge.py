"""Shards as one: the files of several writers, or whole folders from machines without a common file system."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

from unmemorize._errors import RunError
from unmemorize._files import whole_folder
from unmemorize.runs._records import read_sorted
from unmemorize.runs._run import Run


def merge_runs(folders: Sequence[str | Path], output: str | Path) -> Run:
    """Join folders of one run into a new folder, with one file for each kind of records, in the order of the prompts.

    Errors of failed prompts are left out, so that the command that made the run tries these again. Summaries and reports are not copied:
    the same command makes them from the whole.

    Args:
        folders: of the run, each with some of its shards.
        output: a new folder.

    Raises:
        RunError: the folders are of different runs, the output exists, or it cannot be written.
    """
    runs, output = [Run.load(folder) for folder in folders], Path(output)
    if output.exists():
        raise RunError(f"{output}: exists already. Choose another folder.")
    with whole_folder(output, RunError) as partial:
        _merge([run.folder for run in runs], partial)
    return Run.load(output)


def _merge(folders: Sequence[Path], into: Path) -> None:
    first, *others = [Run.load(folder) for folder in folders]
    for run in others:
        for name, _, _ in first.manifest.differences(run.manifest):
            raise RunError(
                f"{run.folder} and {first.folder} are different runs: they differ in {name}. "
                "Merge shards of one run."
            )
    into.mkdir(exist_ok=True)
    for name in ("manifest.json", "prompts.jsonl"):
        if (folders[0] / name).is_file():
            shutil.copyfile(folders[0] / name, into / name)
    kinds = {path.name.split(".")[0] for folder in folders for path in folder.glob("*.jsonl")} - {
        "prompts"
    }
    for kind in sorted(kinds):
        files = [file for folder in folders for file in Run.load(folder).files(kind)]
        with (into / f"{kind}.jsonl").open("w", encoding="utf-8") as file:
            file.writelines(
                json.dumps(line, ensure_ascii=False) + "\n" for line in read_sorted(files)
            )
    for sub in ("images", "metrics"):
        for name in sorted(
            {path.name for folder in folders for path in (folder / sub).glob("*") if path.is_dir()}
        ):
            there = [folder / sub / name for folder in folders if (folder / sub / name).is_dir()]
            (into / sub).mkdir(exist_ok=True)
            _merge(there, into / sub / name)
    for folder in folders:
        for picture in (
            *folder.glob("*.png"),
            *folder.glob("*.jpg"),
            *folder.glob("*/*.png"),
        ):
            (into / picture.relative_to(folder)).parent.mkdir(exist_ok=True)
            shutil.copyfile(picture, into / picture.relative_to(folder))
