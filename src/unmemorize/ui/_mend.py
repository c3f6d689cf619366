"""Mend a model: suspects become one edit, verdicts, and files to take home."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from unmemorize._errors import PromptError
from unmemorize._files import hash_texts, to_json
from unmemorize._paths import exists
from unmemorize._prompt_files import read_prompts
from unmemorize._prompts import Prompt, as_suspects
from unmemorize._words import counted
from unmemorize.export import CHECKPOINT
from unmemorize.mitigation import (
    EDIT,
    Announce,
    MitigationResult,
    MitigationRun,
    forecast,
    mitigate_all,
    unannounced,
    with_references,
)
from unmemorize.report import deliver, write_evidence
from unmemorize.runs import Run, open_run
from unmemorize.ui._studio import PACK, Studio

SUSPECTS = "suspects.jsonl"


@dataclass(frozen=True)
class Suspects:
    """The prompts of a suspects file.

    Args:
        prompts: with the training images that were found.
        quick, full: seconds that the two ways to mend take, if all are memorized.
    """

    prompts: tuple[Prompt, ...]
    quick: float
    full: float

    @property
    def sentence(self) -> str:
        """What was read, and what mending takes."""
        count = len(self.prompts)
        known = sum(any(map(exists, prompt.images)) for prompt in self.prompts)
        return (
            f"{counted(count, 'suspect')}, {known} with a training image. If all are "
            f"memorized, quick takes about {_time(self.quick)} here, full about "
            f"{_time(self.full)}."
        )


@dataclass(frozen=True)
class Mended:
    """What mending a model left.

    Args:
        run: the mitigation.
        result: its verdicts.
        files: to take home.
        refused: forms of the edit that cannot be written, and why.
        without_maps: a sentence on why the report shows no maps of regions; empty where it does.
        digest: SHA-256 of the pack of evidence.
    """

    run: Run
    result: MitigationResult
    files: tuple[Path, ...]
    refused: tuple[str, ...]
    without_maps: str
    digest: str

    @property
    def summary(self) -> str:
        """What was reached, and at which price."""
        sentence = self.result.headline
        if change := self.result.ordinary:
            over = "" if self.result.within_budget else ", which is more than the budget allows"
            sentence += f" {change.changed} of {change.images} ordinary images changed{over}."
        return sentence

    @property
    def checkpoint(self) -> Path | None:
        """The folder of the edited model; None where there is none."""
        folder = self.run.folder / CHECKPOINT
        return folder if folder.is_dir() else None

    def packed_checkpoint(self) -> Path:
        """Return the edited model as one ZIP file."""
        folder = self.run.folder / CHECKPOINT
        return Path(shutil.make_archive(str(folder), "zip", folder))


def example_suspects(studio: Studio) -> Path:
    """Write the examples of suspects as a file."""
    path = studio.new_folder() / SUSPECTS
    lines = [
        json.dumps(
            {
                "prompt": prompt.text,
                "kind": prompt.kind,
                "images": [str(image.absolute()) for image in prompt.images],
            }
        )
        for prompt in studio.suspects
    ]
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


def read_suspects(studio: Studio, file: Path, pictures: Sequence[Path]) -> Suspects:
    """Read a suspects file, and find out what mending would take.

    Args:
        studio: the model.
        file: a prompt file.
        pictures: training images, which names or numbers match with the prompts.

    Raises:
        PromptError: the file cannot be read.
        MetricError: the pictures belong to no prompt.
    """
    prompts = read_prompts(file)
    if pictures:
        prompts = with_references(prompts, _gathered(studio, pictures))
    prompts = as_suspects(prompts)
    seconds = [
        forecast(studio.model, studio.mitigation(quick=quick), prompts, studio.clip).seconds
        for quick in (True, False)
    ]
    return Suspects(tuple(prompts), *seconds)


def mend(
    studio: Studio, suspects: Suspects, *, quick: bool, announce: Announce = unannounced
) -> Mended:
    """Mitigate, and write everything that can be taken home. The same call resumes.

    Args:
        studio: the model.
        suspects: the prompts.
        quick: whether few images are drawn.
        announce: opens the progress of each stage.
    """
    model = studio.model
    made_of = MitigationRun.of(studio.mitigation(quick=quick), studio.inputs)
    described = [json.dumps(to_json(each)) for each in (made_of, *suspects.prompts)]
    run = open_run(_folder(studio, described), model, suspects.prompts, made_of)
    result = mitigate_all(run, model, studio.inputs, announce=announce)
    made = deliver(run, model, announce=announce)
    with announce("packing the evidence"):
        pack = run.folder / PACK
        digest = write_evidence(run, pack)
    edit = [run.folder / EDIT] if result.file else []
    files = [made.report, pack, *edit, *(path for path in made.exported.files if path.is_file())]
    refused, without_maps = made.exported.refused, made.without_maps
    return Mended(run, result, tuple(files), refused, without_maps, digest)


def _folder(studio: Studio, described: Sequence[str]) -> Path:
    return studio.folder / f"mended-{hash_texts(described)[:16]}"


def _gathered(studio: Studio, pictures: Sequence[Path]) -> Path:
    """Bring pictures into one folder, which is the same for the same pictures.

    Raises:
        PromptError: two of them have the same name.
    """
    names = [picture.name for picture in pictures]
    for name in names:
        if names.count(name) > 1:
            raise PromptError(f"{name}: two pictures have this name. Rename one of them.")
    folder = studio.folder / f"pictures-{hash_texts(sorted(map(str, pictures)))[:16]}"
    folder.mkdir(exist_ok=True)
    for picture in pictures:
        shutil.copyfile(picture, folder / picture.name)
    return folder


def _time(seconds: float) -> timedelta:
    return timedelta(seconds=round(seconds))
