"""The prompts of a run: as many as a disk holds, written once and read as a stream."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from diffusers import DiffusionPipeline

from unmemorize._errors import RunError
from unmemorize._files import parse_json, publish, temporary_file
from unmemorize._prompts import Prompt
from unmemorize.pipelines import Model
from unmemorize.runs._run import PROMPTS, Run

_OLD = 24 * 3600.0
"""Seconds."""


def open_run(
    folder: str | Path,
    pipe: DiffusionPipeline,
    prompts: Iterable[Prompt],
    settings: Mapping[str, Any],
    *,
    new: bool = False,
) -> Run:
    """Start or go on with a run over these prompts; ``settings`` is all else that determines the results.

    Args:
        folder: of the run.
        pipe: the model.
        prompts: read once, one after the other.
        settings: plain JSON values.
        new: take FOLDER-2, FOLDER-3, ... where the folder holds a run of other settings or prompts.

    Raises:
        RunError: the folder holds another run.
    """
    model = Model(pipe)
    config = {"fingerprint": model.fingerprint, "dtype": str(model.dtype), **settings}
    return start_run(folder, prompts, config, model=model.name, new=new)


def start_run(
    folder: str | Path,
    prompts: Iterable[Prompt],
    config: Mapping[str, Any],
    *,
    model: str,
    new: bool = False,
) -> Run:
    """Start or go on with a run over these prompts; ``config`` names the weights, too, ``model`` is for people.

    Raises:
        RunError: the folder holds another run.
    """
    folder = Path(folder)
    digest, count = hashlib.sha256(), 0
    with temporary_file(folder / PROMPTS, RunError) as (
        partial,
        file,
    ):  # in the folder, which may be on a disk of its own
        for prompt in prompts:
            file.write((json.dumps(_to_json(prompt), ensure_ascii=False) + "\n").encode())
            known = json.dumps(
                [
                    prompt.text,
                    prompt.kind,
                    prompt.url,
                    [path.name for path in prompt.images],
                    prompt.group,
                ]
            )
            digest.update(f"{known}\n".encode())  # not where images are, so that a run can be moved
            count += 1
        file.flush()
        config = {**config, "prompts": digest.hexdigest()}
        about = {"model": model, "prompts": count}
        way_out = "start another with --new-run or in another folder"
        run = Run.open(
            _unused(folder, config) if new else folder, config, about=about, way_out=way_out
        )
        publish(partial, run.folder / PROMPTS)
    for leftover in run.folder.glob(
        f".{PROMPTS}.*"
    ):  # of processes that were killed; others may write theirs just now
        if time.time() - leftover.stat().st_mtime > _OLD:
            leftover.unlink(missing_ok=True)
    return run


def _unused(folder: Path, config: Mapping[str, Any]) -> Path:
    """The folder, or the first of FOLDER-2, FOLDER-3, ... in which there is nothing, or this run."""
    wanted, number = json.loads(json.dumps(config)), 1
    while True:
        candidate = folder if number == 1 else folder.with_name(f"{folder.name}-{number}")
        if not candidate.exists() or all(
            path.name.startswith(f".{PROMPTS}.") for path in candidate.iterdir()
        ):
            return candidate
        with suppress(RunError):  # of another version, or damaged
            if Run.load(candidate).config == wanted:
                return candidate
        number += 1


def prompt_count(run: Run) -> int:
    """How many prompts a run has.

    Raises:
        RunError: it is a part of another run, such as a set of images.
    """
    if "prompts" not in run.about:
        raise RunError(
            f"{run.folder}: it is no run over prompts, but a part of one. Name the folder of the run."
        )
    return int(run.about["prompts"])


def stream_prompts(run: Run) -> Iterator[Prompt]:
    """The prompts of a run one by one.

    Raises:
        RunError: their file is missing or damaged.
    """
    path = run.folder / PROMPTS
    try:
        with path.open(encoding="utf-8", errors="replace", newline="\n") as file:
            for number, line in enumerate(file, 1):
                row = parse_json(line, RunError, f"{path}, line {number}: damaged")
                yield Prompt(
                    row["text"],
                    row["kind"],
                    row["url"],
                    tuple(map(Path, row["images"])),
                    row["group"],
                )
    except OSError as problem:
        raise RunError(
            f"{path}: the prompt list of the run cannot be read ({problem.strerror}). Repeat its command."
        ) from problem
    except (KeyError, TypeError) as problem:
        raise RunError(
            f"{path}: damaged ({problem}). Repeat the command that made the run."
        ) from problem


def run_prompts(run: Run) -> list[Prompt]:
    """All prompts of a run, see `stream_prompts`."""
    return list(stream_prompts(run))


def _to_json(prompt: Prompt) -> dict[str, Any]:
    return {
        "text": prompt.text,
        "kind": prompt.kind,
        "url": prompt.url,
        "images": [str(path.absolute()) for path in prompt.images],
        "group": prompt.group,
    }
