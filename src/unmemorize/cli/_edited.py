"""What audit and harden start from: an edit, its prompts, and images that were never trained on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from unmemorize import testbed
from unmemorize._errors import AuditError
from unmemorize._prompt_files import read_prompts
from unmemorize._prompts import Prompt
from unmemorize.cli._common import planted_prompts, prompts_or_bundled
from unmemorize.export import edit_of, load_edit_file
from unmemorize.generation import Edit
from unmemorize.metrics import image_files
from unmemorize.mitigation import EDIT, MitigationResult, MitigationRun, with_references
from unmemorize.pipelines import Model
from unmemorize.runs import Run, run_prompts

_NEURONS = "neurons.json"


def edit_in(model: Model, path: Path | None) -> Edit | None:
    """Read the edit of a run folder or a file.

    Raises:
        AuditError: the folder holds none.
    """
    if path is None:
        return None
    if path.is_dir():
        files = [path / name for name in (EDIT, _NEURONS) if (path / name).exists()]
        if not files:
            raise AuditError(
                f"{path}: there is no {EDIT} and no {_NEURONS}. Name a finished run of mitigate or "
                "localize, or a file."
            )
        path = files[0]
    file = load_edit_file(path)
    file.check(model)
    return edit_of(file)


def prompts_of(
    model: Model, edited: Path | None, path: Path | None, references: Path | None
) -> Sequence[Prompt]:
    """Return the prompts of a file, those that a run mended, or those of the bundled model."""
    if path is None and edited is not None and edited.is_dir():
        finished = Run.load(edited)
        prompts = run_prompts(finished)
        if finished.manifest.kind == MitigationRun.kind:
            outcomes = MitigationResult.load(finished).outcomes
            prompts = [prompts[outcome.index] for outcome in outcomes if outcome.confirmed]
    elif path is not None:
        prompts = read_prompts(path)
    else:
        prompts = list(prompts_or_bundled(model, None, planted_prompts))
    return prompts if references is None else with_references(prompts, references)


def control_files(folder: Path | None) -> tuple[Path, ...]:
    """Return the images of a folder, or the photographs of this package."""
    if folder is not None:
        return tuple(image_files(folder))
    return tuple(photograph.image for photograph in testbed.unused())
