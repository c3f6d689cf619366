"""Text encoders that a search has trained. The run folder keeps them, so each is trained once."""

from __future__ import annotations

from collections.abc import Sequence

from unmemorize._errors import MitigationError
from unmemorize._locks import made_once
from unmemorize.generation import ClosedFormEdit, Edit, EditFile, Erased
from unmemorize.methods import trained_text_encoder, why_untrainable
from unmemorize.mitigation._settings import MitigationSettings
from unmemorize.mitigation._stages import Stages, digest
from unmemorize.pipelines import Model


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


def taught(stages: Stages, keep: Sequence[str], erased: tuple[Erased, ...]) -> Edit:
    """Train the text encoder, or read what the run has trained before.

    Shards must go on with the same weights, so one of them trains, and the others wait.

    Args:
        stages: what all stages share.
        keep: ordinary captions, which stay as they are.
        erased: the prompts, their weights and what they are encoded like.
    """
    name = digest(ClosedFormEdit(erased))  # which asks the same of other layers
    path = stages.run.folder / f"text-encoder-{name}.json"
    with made_once(path):
        if not path.is_file():
            with stages.announce("train the text encoder") as progress:
                edit = trained_text_encoder(stages.model, erased, keep, progress)
            EditFile.of(stages.model, edit).save(path)
    return EditFile.load(path).edit
