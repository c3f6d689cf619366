"""Mitigation in one call."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from diffusers import DiffusionPipeline

from unmemorize._bundled import is_bundled, usual_for
from unmemorize._prompts import Prompt, as_prompts, as_suspects
from unmemorize.detection import Threshold, default_threshold
from unmemorize.engines import Execution
from unmemorize.generation import usual_generation
from unmemorize.localization import LocalizationSettings
from unmemorize.metrics import ClipAlignment, Descriptor, match_references, usual_descriptor
from unmemorize.mitigation._mitigate import mitigate_all
from unmemorize.mitigation._result import MitigationResult
from unmemorize.mitigation._run_settings import MitigationInputs, MitigationRun, OrdinaryCaptions
from unmemorize.mitigation._search import ATTEMPTS
from unmemorize.mitigation._settings import MitigationSettings
from unmemorize.pipelines import Model
from unmemorize.runs import given_or_temporary, open_run
from unmemorize.statistics import Statistics, default_statistics


def mitigate(
    pipe: DiffusionPipeline | Model,
    prompts: Iterable[str | Prompt],
    *,
    references: str | Path | None = None,
    settings: MitigationSettings | None = None,
    statistics: Statistics | None = None,
    threshold: Threshold | None = None,
    captions: OrdinaryCaptions | None = None,
    descriptor: Descriptor | None = None,
    clip: ClipAlignment | None = None,
    folder: str | Path | None = None,
    attempts: int = ATTEMPTS,
    execution: Execution | None = None,
) -> MitigationResult:
    """Find one edit under which no prompt copies its training images, and certify it.

    Args:
        pipe: a loaded pipeline. It is left as it is.
        prompts: suspects. `Prompt.images` names their training images. Those of the same text count
            once, with a warning.
        references: a folder of training images, in place of those that the prompts name.
        settings: what the edit must show. Noise settings are those of the threshold. Without any,
            the bundled model is drawn with its own steps and guidance, and localized by its own
            criterion (`testbed.defaults`), as on the command line.
        statistics, threshold: of this model. By default those kept for it, which are made first
            where they are missing.
        captions: ordinary captions. By default those of this package, or of the bundled model.
        descriptor: tells copies. The default is made for the 64 x 64 images of the bundled model;
            give `FileDescriptor.sscd` for others.
        clip: measures the alignment of images with their prompts.
        folder: a run folder in which an interrupted mitigation is resumed. It stays; without one a
            temporary folder is used.
        attempts: how often all prompts may be certified, each time on a stronger edit. A later call
            with a higher number resumes.
        execution: who does the work. Its ``progress`` is called in each stage, from 0 on.

    Returns:
        The verdicts, and the edit as `MitigationResult.file`. `deliver` writes the edited model
        and the report from the folder, `bake` and `export_lora` the model alone, and
        ``result.file.edit`` applies the edit while images are drawn.

    Raises:
        PromptError: ``prompts`` is a single text.
        RunError: an item fails, or the folder holds another run.
        UnfinishedError: other shards have not done their part yet.
        ThresholdError, StatisticsError: they belong to another model.
        MetricError: the references belong to no prompt.

    Source: docs/mitigation.md.

    Examples:
        >>> from unmemorize import load_pipeline, testbed
        >>> prompts = [entry.prompt for entry in testbed.planted()[:4]]
        >>> result = mitigate(load_pipeline("testbed"), prompts)  # doctest: +SKIP
    """
    model = Model.of(pipe)
    suspects = as_prompts(prompts)
    if references is not None:
        suspects = with_references(suspects, references)
    suspects = as_suspects(suspects)
    execution = execution or Execution()
    if settings is None:
        localization = LocalizationSettings(**usual_for(model.pipe, "criterion"))
        settings = MitigationSettings(localization=localization, generation=usual_generation(model))
    if clip is None and is_bundled(model.pipe):
        clip = ClipAlignment()
    inputs = MitigationInputs(
        statistics=statistics or default_statistics(model, execution=execution),
        threshold=threshold or default_threshold(model, execution=execution),
        captions=captions or OrdinaryCaptions.of(model),
        descriptor=descriptor or usual_descriptor(bundled=is_bundled(model.pipe)),
        clip=clip,
    )
    with given_or_temporary(folder) as place:
        run = open_run(place, model, suspects, MitigationRun.of(settings, inputs))
        return mitigate_all(run, model, inputs, attempts=attempts, execution=execution)


def with_references(prompts: Sequence[Prompt], folder: str | Path) -> list[Prompt]:
    """Give prompts the training images of a folder, in place of those that they name.

    Raises:
        MetricError: the images belong to no prompt.
    """
    images = match_references(folder, prompts).images
    return [
        replace(prompt, images=tuple(images.get(index, ()))) for index, prompt in enumerate(prompts)
    ]
