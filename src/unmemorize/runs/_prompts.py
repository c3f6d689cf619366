"""The prompts of a run: written once and read as a stream, so a list may be larger than memory."""

from __future__ import annotations

import hashlib
import json
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffusers import DiffusionPipeline

from unmemorize._errors import RunError
from unmemorize._files import from_json, parse_json, publish, temporary_file, to_json
from unmemorize._paths import exists, is_utf8
from unmemorize._prompts import Prompt, iter_as_prompts
from unmemorize.pipelines import Model
from unmemorize.runs._environment import UNKNOWN, Environment
from unmemorize.runs._manifest import Inputs, RunSettings
from unmemorize.runs._run import ANOTHER_RUN, PROMPTS, Run
from unmemorize.runs._stored_images import StoredImage

_STALE_SECONDS = 24 * 3600.0
"""A temporary prompt list of this age belongs to a process that was killed."""
_REPEAT = "Repeat the command that made the run."


@dataclass(frozen=True)
class _StoredImages:
    """The images in a line of ``prompts.jsonl``."""

    images: tuple[StoredImage, ...]


def open_run(
    folder: str | Path,
    pipe: DiffusionPipeline | Model,
    prompts: Iterable[str | Prompt],
    settings: RunSettings,
    *,
    new: bool = False,
    way_out: str = ANOTHER_RUN,
) -> Run:
    """Start a run over prompts, or resume it.

    Args:
        folder: the run folder.
        pipe: a loaded pipeline.
        prompts: texts or prompts, read once, one after the other.
        settings: what else determines the results.
        new: take FOLDER-2, FOLDER-3, ... where the folder holds a run with other settings or
            prompts.
        way_out: what to do about a run with other settings, for the error.

    Raises:
        PromptError: ``prompts`` is a single text, or one of them is not a prompt.
        RunError: the folder holds another run.
    """
    model = Model.of(pipe)
    inputs = Inputs(fingerprint=model.fingerprint, dtype=str(model.dtype))
    return start_run(
        folder,
        prompts,
        settings,
        inputs,
        model=model.name,
        environment=Environment.of(model),
        new=new,
        way_out=way_out,
    )


def refuse_other_run(
    folder: str | Path, pipe: DiffusionPipeline | Model, kind: str, known: Mapping[str, Any]
) -> None:
    """Refuse a folder that `open_run` will refuse, before the rest of its settings is computed.

    Args:
        folder: the run folder.
        pipe: a loaded pipeline.
        kind: of the run.
        known: those of its settings that are known, by name.

    Raises:
        RunError: the folder holds another run.
    """
    run, model = Run.existing(Path(folder), kind), Model.of(pipe)
    if run is not None:
        inputs = {"fingerprint": model.fingerprint, "dtype": str(model.dtype)}
        run.refuse(run.manifest.contradictions(known, inputs), ANOTHER_RUN)


def refuse_other_model(run: Run, model: Model) -> None:
    """Refuse to go on with a run by another model than that of its manifest.

    Raises:
        RunError: the model has another fingerprint.
    """
    if not model.matches(run.manifest.inputs.fingerprint):
        raise RunError(
            f"{run.folder}: the run is one of {run.manifest.model}, which is not the model given. "
            "Use the same model, with the same --dtype and LoRAs."
        )


def start_run(
    folder: str | Path,
    prompts: Iterable[str | Prompt],
    settings: RunSettings,
    inputs: Inputs,
    *,
    model: str,
    environment: Environment = UNKNOWN,
    new: bool = False,
    way_out: str = ANOTHER_RUN,
) -> Run:
    """Start a run over prompts, or resume it, for a model that need not be loaded.

    Args:
        folder, prompts, settings, new, way_out: as in `open_run`.
        inputs: the fingerprint and dtype of the model; the hash of the prompts is added.
        model: the model's name, for people.
        environment: what computes the run.

    Raises:
        RunError: the folder holds another run or cannot be written, or the path of a training image
            is no UTF-8.
        PromptError: as in `open_run`.
        OSError: the prompts raise it.
    """
    try:
        return _start_run(
            Path(folder),
            _watched(iter_as_prompts(prompts)),
            settings,
            inputs,
            model=model,
            environment=environment,
            new=new,
            way_out=way_out,
        )
    except _PromptsError as failed:
        raise failed.problem from None


class _PromptsError(Exception):
    """The prompts cannot be read any further, which is no error of the file that they go to."""

    def __init__(self, problem: OSError) -> None:
        super().__init__(problem)
        self.problem = problem


def _watched(prompts: Iterable[Prompt]) -> Iterator[Prompt]:
    """Yield the prompts of a caller. An error of theirs is told apart from those of writing."""
    try:
        yield from prompts
    except OSError as problem:
        raise _PromptsError(problem) from problem


def _start_run(
    folder: Path,
    prompts: Iterator[Prompt],
    settings: RunSettings,
    inputs: Inputs,
    *,
    model: str,
    environment: Environment,
    new: bool,
    way_out: str,
) -> Run:
    digest, count = hashlib.sha256(), 0
    # the list is written into the run folder at once, which may be on another disk
    with _gone_if_empty(folder), temporary_file(folder / PROMPTS, RunError) as (partial, file):
        for prompt in prompts:
            file.write(_line(prompt, folder))
            names = [path.name for path in prompt.images]  # not the folder: a run can be moved
            identity: list[Any] = [prompt.text, prompt.kind, prompt.url, names, prompt.group]
            if prompt.paraphrases:
                identity.append(prompt.paraphrases)
            digest.update(f"{json.dumps(identity)}\n".encode())
            count += 1
        file.flush()
        inputs = Inputs(
            fingerprint=inputs.fingerprint, dtype=inputs.dtype, prompts=digest.hexdigest()
        )
        run = Run.open(
            folder,
            settings,
            inputs=inputs,
            model=model,
            items=count,
            environment=environment,
            new=new,
            way_out=way_out,
        )
        if getattr(settings, "compares_images", False) and exists(run.folder / PROMPTS):
            _refuse_other_images(run, Path(partial))
        publish(partial, run.folder / PROMPTS)
    for leftover in run.folder.glob(f".{PROMPTS}.*"):
        with suppress(FileNotFoundError):  # another shard has just published its list
            if time.time() - leftover.stat().st_mtime > _STALE_SECONDS:
                leftover.unlink()
    return run


def _refuse_other_images(run: Run, listed: Path) -> None:
    """Refuse training images whose content is another than when the run was made.

    Args:
        run: a run whose results rest on them. A damaged list of it is made again.
        listed: the same prompts as they would be listed now.

    Raises:
        RunError: a file was replaced, cannot be read any more, or could not be read before.
    """
    try:
        listed_before = [images for _, _, images in _rows(run.folder / PROMPTS)]
    except RunError:
        return
    for before, (_, row, now) in zip(listed_before, _rows(listed), strict=False):
        for old, new in zip(before, now, strict=False):
            if old.sha256 != new.sha256:
                raise RunError(
                    f"{run.folder}: the training image {new.absolute} of {row['text'][:60]!r} "
                    f"{_change(old, new)}, or start another run in another folder."
                )


def _change(before: StoredImage, now: StoredImage) -> str:
    """Say what has happened to a training image, and how to undo it."""
    if not before.sha256:
        return (
            "could not be read when the run was made, which does not compare with it. Move it away"
        )
    if not now.sha256:
        return "cannot be read any more, and the run compares with it. Put it back"
    return "has changed since the run was made, which compares with what it was. Put that back"


def _line(prompt: Prompt, folder: Path) -> bytes:
    """Return the line of a prompt in the list of a run."""
    for image in prompt.images:
        if not is_utf8(str(image.absolute())):
            raise RunError(
                f"{str(image.absolute())!r}: this path of a training image is no UTF-8. Rename the "
                "folder that is not, or copy the images to another one."
            )
    images = [to_json(StoredImage.of(image, folder)) for image in prompt.images]
    return f"{json.dumps({**to_json(prompt), 'images': images}, ensure_ascii=False)}\n".encode()


@contextmanager
def _gone_if_empty(folder: Path) -> Iterator[None]:
    """Delete a new folder if it is empty after an error, such as one in a row of the prompts."""
    is_new = not exists(folder)
    try:
        yield
    except BaseException:
        if is_new:
            with suppress(OSError):  # another shard has begun in it
                folder.rmdir()
        raise


@contextmanager
def given_or_temporary(folder: str | Path | None) -> Iterator[Path]:
    """Yield a run folder: the one that was given, or one that is deleted afterwards."""
    if folder is not None:
        yield Path(folder)
        return
    with tempfile.TemporaryDirectory(prefix="unmemorize-") as temporary:
        yield Path(temporary) / "run"


def prompt_count(run: Run) -> int:
    """Return how many prompts a run has.

    Raises:
        RunError: it has no prompts of its own, such as a set of images.
    """
    if not run.manifest.inputs.prompts:
        raise RunError(
            f"{run.folder}: part of another run, without prompts of its own. "
            "Name the folder of the whole run."
        )
    return run.manifest.items


def stream_prompts(run: Run) -> Iterator[Prompt]:
    """Yield the prompts of a run.

    Raises:
        RunError: their file is missing or damaged.
    """
    for number, row, images in _rows(run.folder / PROMPTS):
        row["images"] = [str(image.locate(run.folder)) for image in images]
        problem = f"{run.folder / PROMPTS}, line {number}: damaged"
        yield from_json(Prompt, row, RunError, problem, _REPEAT)


def stored_images(run: Run) -> Iterator[tuple[StoredImage, ...]]:
    """Yield the training images of each prompt as the run names them.

    Raises:
        RunError: their file is missing or damaged.
    """
    return (images for _, _, images in _rows(run.folder / PROMPTS))


def _rows(path: Path) -> Iterator[tuple[int, dict[str, Any], tuple[StoredImage, ...]]]:
    """Yield each line of a prompt list: its number, its content, and the images in it."""
    try:
        with path.open(encoding="utf-8", errors="replace", newline="\n") as file:
            for number, line in enumerate(file, 1):
                problem = f"{path}, line {number}: damaged"
                row = parse_json(line, RunError, problem)
                stored = {"images": row.get("images")}
                yield (
                    number,
                    row,
                    from_json(_StoredImages, stored, RunError, problem, _REPEAT).images,
                )
    except OSError as problem:
        raise RunError(
            f"{path}: the prompt list of the run cannot be read ({problem.strerror}). {_REPEAT}"
        ) from problem


def stream_with_prompts(run: Run, name: str) -> Iterator[tuple[int, Prompt, dict[str, Any]]]:
    """Yield index, prompt and record of one kind for every finished prompt, in their order.

    Both are read as streams, as either may be larger than memory.
    """
    records = run.stream(name)
    index, record = next(records, (-1, {}))
    for number, prompt in enumerate(stream_prompts(run)):
        if number == index:
            yield number, prompt, record
            index, record = next(records, (-1, {}))


def run_prompts(run: Run) -> list[Prompt]:
    """Return all prompts of a run, see `stream_prompts`."""
    return list(stream_prompts(run))
