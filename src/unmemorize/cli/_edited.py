"""What audit and harden start from: an edit, its prompts, and images that were never trained on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from unmemorize import testbed
from unmemorize._bundled import is_bundled
from unmemorize._errors import AuditError, TestbedError
from unmemorize._paths import is_folder
from unmemorize._prompt_files import read_prompts
from unmemorize._prompts import Prompt
from unmemorize.audit import Twin, distinct_controls
from unmemorize.cli._common import planted_prompts, prompts_or_bundled
from unmemorize.cli._console import print_line
from unmemorize.cli._model_options import LoadingOptions
from unmemorize.export import edit_of, load_edit_file
from unmemorize.generation import Edit
from unmemorize.localization import LocalizationRun, read_localizations
from unmemorize.metrics import image_files
from unmemorize.mitigation import EDIT, MitigationResult, MitigationRun, with_references
from unmemorize.pipelines import Model
from unmemorize.runs import Run, run_prompts
from unmemorize.testbed._planted import Half

_NEURONS = "neurons.json"


def edit_in(model: Model, path: Path | None) -> Edit | None:
    """Read the edit of a run folder or a file.

    Raises:
        AuditError: the folder holds none.
    """
    if path is None:
        return None
    if is_folder(path):
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
    """Return the prompts of a file, those that a run mended, or those of the bundled model.

    Of a localization, these are the prompts that are memorized.
    """
    if path is None and edited is not None and is_folder(edited):
        finished = Run.load(edited)
        prompts = run_prompts(finished)
        if finished.manifest.kind == MitigationRun.kind:
            outcomes = MitigationResult.load(finished).outcomes
            prompts = [prompts[outcome.index] for outcome in outcomes if outcome.confirmed]
        elif finished.manifest.kind == LocalizationRun.kind:
            prompts = [
                prompts[index] for index in read_localizations(finished, only_memorized=True)
            ]
    elif path is not None:
        prompts = read_prompts(path)
    else:
        prompts = list(prompts_or_bundled(model, None, planted_prompts))
    return prompts if references is None else with_references(prompts, references)


def twins_for(
    model: Model,
    loading: LoadingOptions,
    name: str | None,
    prompts: Sequence[Prompt],
    controls: Path | None,
) -> tuple[Twin, ...]:
    """Return models that were never trained on the images of prompts.

    The bundled model has its own twins, each for the half of the plants that it lacks. They are
    taken if no other control is named and all prompts are planted, and loaded as the model was.

    Args:
        model: the model that is attacked.
        loading: how models are loaded.
        name: of another model.
        prompts: the prompts.
        controls: images that were never trained on, which are then taken in place of twins.
    """
    if name is not None:
        return (Twin(loading.load(name), tuple(range(len(prompts)))),)
    halves = {entry.prompt.text: entry.half for entry in testbed.planted()}
    if (
        controls is not None
        or not is_bundled(model.pipe)
        or any(prompt.text not in halves for prompt in prompts)
    ):
        return ()
    indices: dict[Half, list[int]] = {}
    for index, prompt in enumerate(prompts):
        indices.setdefault(halves[prompt.text], []).append(index)
    try:
        folders = {half: str(testbed.twin(half)) for half in indices}
    except TestbedError as problem:
        print_line(str(problem))
        return ()
    assert model.loading is not None  # commands load all models by their names
    return tuple(
        Twin(Model.from_loading(replace(model.loading, unet=folder)), tuple(indices[half]))
        for half, folder in folders.items()
    )


def control_files(folder: Path | None) -> tuple[Path, ...]:
    """Return the different images of a folder, or the photographs of this package."""
    if folder is not None:
        return distinct_controls(image_files(folder))
    return tuple(photograph.image for photograph in testbed.unused())
