"""What a search has trained. The run folder keeps it, so each training is made once."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

from unmemorize._errors import MitigationError
from unmemorize._locks import made_once
from unmemorize._prompts import Prompt
from unmemorize._words import counted
from unmemorize.generation import ClosedFormEdit, Edit, EditFile, Erased, has_closed_form
from unmemorize.methods import (
    FINE_TUNING_STEPS,
    LATENTS,
    TEXT_ENCODER_STEPS,
    StepsDone,
    fine_tuned_denoiser,
    steps_done,
    trained_text_encoder,
    why_not_fine_tuned,
    why_untrainable,
)
from unmemorize.mitigation._run_settings import OrdinaryCaptions
from unmemorize.mitigation._settings import MitigationSettings, Part
from unmemorize.mitigation._stages import Stages, digest
from unmemorize.pipelines import Model
from unmemorize.runs import Run

_logger = logging.getLogger("unmemorize")
_STEPS: Mapping[Part, int] = {"denoiser": FINE_TUNING_STEPS, "text-encoder": TEXT_ENCODER_STEPS}
"""How many steps the training of a part takes."""


def refuse_other_part(model: Model, settings: MitigationSettings) -> None:
    """Refuse a model of which the part that should be edited cannot be.

    Raises:
        MitigationError: its text encoders cannot be trained.
    """
    reason = why_untrainable(model.pipe) if settings.part == "text-encoder" else ""
    if reason:
        raise MitigationError(
            f"{model.name}: its text encoder cannot be edited, since {reason}. Edit the denoiser "
            "(--part denoiser)."
        )


def warn_of_no_fine_tuning(model: Model, settings: MitigationSettings) -> None:
    """Say why the search leaves the ladder of fine-tuning out, where it does."""
    asked = settings.compare and settings.part == "denoiser" and has_closed_form(model)
    if asked and (reason := why_not_fine_tuned(model)):
        _logger.warning(
            "%s: the denoiser is not fine-tuned where other edits leave copies, since %s.",
            model.name,
            reason,
        )


def refuse_few_kept(
    model: Model,
    settings: MitigationSettings,
    captions: OrdinaryCaptions,
    suspects: Sequence[Prompt],
) -> None:
    """Refuse captions of which too few may be left for a training.

    All suspects may be memorized, and those that are cannot be left alone.

    Raises:
        MitigationError: there are too few.
    """
    needed = 2 if settings.part == "text-encoder" else 1
    if needed == 1 and not (settings.compare and _is_fine_tuned(model)):
        return
    left = len(captions.kept_but(suspects).all_kept)
    if left < needed:
        raise MitigationError(
            f"{counted(left, 'ordinary caption')} to leave alone that no suspect is: a training of "
            f"the {settings.part.replace('-', ' ')} needs at least {needed}, better some hundred. "
            "Give them with OrdinaryCaptions(ordinary, keep)."
        )


def _is_fine_tuned(model: Model) -> bool:
    return has_closed_form(model) and not why_not_fine_tuned(model)


def taught(
    stages: Stages, captions: OrdinaryCaptions, part: Part, erased: tuple[Erased, ...]
) -> Edit:
    """Train a part of the model, or read what the run has trained before.

    Shards must go on with the same weights, so one of them trains, and the others wait.

    Args:
        stages: what all stages share.
        captions: ordinary captions. Those by which the edit is not judged stay as they are.
        part: what is trained.
        erased: the prompts, their weights and guides.
    """
    name = digest(ClosedFormEdit(erased))  # which asks the same of other layers
    path = stages.run.folder / f"{part}-{name}.json"
    unfinished = path.with_suffix("")
    images = stages.run.folder / f"{part}-images.safetensors"  # of the last training, for the next
    model, keep = stages.model, captions.all_kept
    with made_once(path):
        if not path.is_file():
            with suppress(OSError):  # there are none, or a killed training has its own
                unfinished.mkdir()
                (unfinished / LATENTS).hardlink_to(images)
            with stages.announce(f"train the {part.replace('-', ' ')}") as progress:
                if part == "text-encoder":
                    edit = trained_text_encoder(model, erased, keep, progress, unfinished)
                else:
                    generation = stages.settings.generation
                    edit = fine_tuned_denoiser(
                        model, erased, keep, generation, progress, unfinished
                    )
            EditFile.of(model, edit).save(path)
            with suppress(OSError):
                (unfinished / LATENTS).replace(images)
    shutil.rmtree(unfinished, ignore_errors=True)
    return EditFile.load(path).edit


@dataclass(frozen=True)
class TrainingState:
    """How far a training of a run is.

    Args:
        done: what is done of it.
        total: how many steps there are.
    """

    done: StepsDone
    total: int


def trainings_of(run: Run) -> Iterator[TrainingState]:
    """Yield how far each training of a run is, finished or not.

    Raises:
        RunError: what is kept of one is damaged.
    """
    for part, total in _STEPS.items():
        finished = {path.stem for path in run.folder.glob(f"{part}-*.json")}
        begun = {path.name for path in run.folder.glob(f"{part}-*/")}
        yield from (TrainingState(StepsDone(total), total) for _ in finished)
        for name in sorted(begun - finished):
            yield TrainingState(steps_done(run.folder / name), total)
