"""Join the shards of a run that were made on machines without a common file system."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from unmemorize._errors import RunError
from unmemorize._files import to_json, whole_folder
from unmemorize._paths import exists, is_file
from unmemorize.runs._prompts import stored_images
from unmemorize.runs._records import kinds_in, read_sorted
from unmemorize.runs._run import MANIFEST, PROMPTS, Run
from unmemorize.runs._stored_images import StoredImage

_NEEDED = ("*.png", "*.jpg", "*.safetensors", "text-encoder-*.json", "denoiser-*.json")
"""The files beside records that stages rest on. The others are summaries."""
_IMAGE_FIELDS = {each.name for each in fields(StoredImage)}


@dataclass(frozen=True, kw_only=True)
class _Shards:
    """Runs of one manifest that become one, at the top or inside of others.

    Args:
        runs: the runs.
        into: the new folder.
        bases: the folders that paths in their records are relative to: of each run itself, or of
            the one around it that has the prompts.
        base: the new folder that takes their place.
    """

    runs: Sequence[Run]
    into: Path
    bases: Sequence[Path]
    base: Path


def merge_runs(folders: Sequence[str | Path], output: str | Path) -> Run:
    """Join folders of one run into a new folder, with one file for each kind of records.

    Records are ordered as the prompts are. Where several folders have a record of one item, that of
    the last folder counts. Errors of items that failed are left out, and the command that made the
    run tries those again. Training images are named by where they are now. Summaries and reports
    are not copied; the same command makes them again.

    Args:
        folders: folders of one run, each with some of its shards.
        output: a new folder.

    Raises:
        RunError: the folders hold different runs, the output exists, or it cannot be written.
    """
    runs = [Run.load(folder) for folder in folders]
    if not runs:
        raise RunError("no run is given to merge. Name the folders of its shards.")
    output = Path(output)
    if exists(output):
        raise RunError(f"{output}: exists already. Choose another folder.")
    with whole_folder(output, RunError) as partial:
        all_shards = list(_copied(runs, partial))
        for shards in all_shards:  # all files are there now, and records may name them
            rename = _renaming(shards, [run.folder for run in runs], partial, output)
            _join_prompts(shards, rename)
            _join_records(shards, rename)
    return Run.load(output)


def _copied(
    runs: Sequence[Run], into: Path, bases: Sequence[Path] = (), base: Path | None = None
) -> Iterator[_Shards]:
    """Copy everything but prompts and records, and yield the runs to which these belong."""
    _check_same(runs)
    into.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(runs[0].folder / MANIFEST, into / MANIFEST)
    folders = [run.folder for run in runs]
    if base is None or any(is_file(folder / PROMPTS) for folder in folders):
        bases, base = folders, into
    yield _Shards(runs=runs, into=into, bases=bases, base=base)
    for folder in folders:
        for pattern in _NEEDED:
            _copy(folder.glob(pattern), into)
    yield from _copied_inside(folders, into, bases, base)


def _copied_inside(
    folders: Sequence[Path], into: Path, bases: Sequence[Path], base: Path
) -> Iterator[_Shards]:
    """Copy what lies inside folders of one name, and yield the runs among it."""
    for name in sorted({path.name for folder in folders for path in folder.glob("[!.]*/")}):
        same_name = [folder / name for folder in folders if (folder / name).is_dir()]
        if runs := [Run.load(folder) for folder in same_name if (folder / MANIFEST).exists()]:
            yield from _copied(runs, into / name, bases, base)
            continue
        (into / name).mkdir()
        for folder in same_name:
            _copy(folder.iterdir(), into / name)
        yield from _copied_inside(same_name, into / name, bases, base)


def _join_prompts(shards: _Shards, rename: Callable[[StoredImage], StoredImage]) -> None:
    """Write the prompt list of the run that finds most of its training images."""
    lists = [run for run in shards.runs if is_file(run.folder / PROMPTS)]
    if not lists:
        return
    best = min(lists, key=_lost_images)
    path = best.folder / PROMPTS
    with (
        path.open(encoding="utf-8", newline="\n") as lines,
        (shards.into / PROMPTS).open("w", encoding="utf-8") as file,
    ):
        file.writelines(_line(json.loads(line), rename) for line in lines)


def _join_records(shards: _Shards, rename: Callable[[StoredImage], StoredImage]) -> None:
    for kind in sorted(set().union(*(kinds_in(run.folder) for run in shards.runs))):
        lines = read_sorted([file for run in shards.runs for file in run.files(kind)])
        with (shards.into / f"{kind}.jsonl").open("w", encoding="utf-8") as file:
            file.writelines(_line(line, rename) for line in lines)


def _line(content: Any, rename: Callable[[StoredImage], StoredImage]) -> str:
    return json.dumps(_renamed(content, rename), ensure_ascii=False) + "\n"


def _lost_images(run: Run) -> int:
    """Count the training images of a run that are not where it looks for them."""
    return sum(
        not is_file(image.locate(run.folder)) for images in stored_images(run) for image in images
    )


def _renaming(
    shards: _Shards, folders: Sequence[Path], partial: Path, output: Path
) -> Callable[[StoredImage], StoredImage]:
    """Return what names an image as the new run does.

    Args:
        shards: the runs that name it in their records.
        folders: the folders of the whole runs.
        partial: the folder that will be the output.
        output: the new run folder.
    """
    base = output / shards.base.relative_to(partial)
    roots = [Path(os.path.normpath(folder.absolute())) for folder in folders]

    def rename(image: StoredImage) -> StoredImage:
        place = image.locate(*shards.bases)
        for root in roots:
            if place.is_relative_to(root) and is_file(partial / place.relative_to(root)):
                return image.moved(output / place.relative_to(root), base)
        return image.moved(place, base)

    return rename


def _renamed(value: Any, rename: Callable[[StoredImage], StoredImage]) -> Any:
    """Return JSON values with each image in them renamed."""
    if isinstance(value, list):
        return [_renamed(item, rename) for item in value]
    if not isinstance(value, dict):
        return value
    if value.keys() == _IMAGE_FIELDS:
        return to_json(rename(StoredImage(**value)))
    return {name: _renamed(item, rename) for name, item in value.items()}


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
