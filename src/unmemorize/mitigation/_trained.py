"""What a search has trained. The run folder keeps it, so each training is made once."""

from __future__ import annotations

import logging
import shutil

from unmemorize._errors import MitigationError
from unmemorize._locks import made_once
from unmemorize.generation import ClosedFormEdit, Edit, EditFile, Erased, has_closed_form
from unmemorize.methods import (
    fine_tuned_denoiser,
    trained_text_encoder,
    why_not_fine_tuned,
    why_untrainable,
)
from unmemorize.mitigation._run_settings import OrdinaryCaptions
from unmemorize.mitigation._settings import MitigationSettings, Part
from unmemorize.mitigation._stages import Stages, digest
from unmemorize.pipelines import Model

_logger = logging.getLogger("unmemorize")


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
    model, keep = stages.model, captions.all_kept
    with made_once(path):
        if not path.is_file():
            with stages.announce(f"train the {part.replace('-', ' ')}") as progress:
                if part == "text-encoder":
                    edit = trained_text_encoder(model, erased, keep, progress)
                else:
                    generation = stages.settings.generation
                    edit = fine_tuned_denoiser(
                        model, erased, keep, generation, progress, unfinished
                    )
            EditFile.of(model, edit).save(path)
    shutil.rmtree(unfinished, ignore_errors=True)
    return EditFile.load(path).edit
