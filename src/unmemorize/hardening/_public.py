"""Hardening in one call."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from diffusers import DiffusionPipeline

from unmemorize._bundled import is_bundled
from unmemorize._prompts import Prompt, as_prompts
from unmemorize.audit import AuditInputs, distinct_controls
from unmemorize.engines import Execution
from unmemorize.generation import Edit, EditFile, as_edit
from unmemorize.hardening._harden import harden_all, open_hardening
from unmemorize.hardening._result import HardeningResult
from unmemorize.hardening._settings import HardeningInputs, HardeningSettings
from unmemorize.metrics import ClipAlignment, Descriptor, usual_descriptor
from unmemorize.mitigation import OrdinaryCaptions
from unmemorize.neurons import HasNeurons, Neurons
from unmemorize.pipelines import Model
from unmemorize.runs import given_or_temporary


def harden(
    pipe: DiffusionPipeline | Model,
    edit: Neurons | HasNeurons | Edit | EditFile | None,
    prompts: Iterable[str | Prompt],
    *,
    controls: Sequence[str | Path] = (),
    settings: HardeningSettings | None = None,
    captions: OrdinaryCaptions | None = None,
    descriptor: Descriptor | None = None,
    clip: ClipAlignment | None = None,
    folder: str | Path | None = None,
    execution: Execution | None = None,
) -> HardeningResult:
    """Train a model so that attacks no longer bring images back, and judge it by such attacks.

    Args:
        pipe: the unedited model. Its weights are trained in place and put back at the end.
        edit: an edit under which the captions no longer copy. It draws substitutes for memorized
            images where the objective needs some, and is not part of the result. Distillation needs
            no edit.
        prompts: memorized prompts, whose ``images`` name the training images.
        controls: images that the model was never trained on. They are attacked in the trained
            model, and give the level of a copy. At least 19 bound false triggers at 5 %.
        settings: by default `HardeningSettings.of` the model.
        captions: ordinary captions. By default those of this package, or of the bundled model.
        descriptor: compares images. The default is made for the 64 x 64 images of the bundled
            model; give `FileDescriptor.sscd` for others.
        clip: measures alignment and CLIP-FID of ordinary images.
        folder: a run folder in which an interrupted hardening is resumed. It stays; without one a
            temporary folder is used.
        execution: who draws and judges.

    Returns:
        The outcome, and the edit as `HardeningResult.file`: `bake` writes it, and `export_lora`
        does where a LoRA was trained (`HardeningSettings.rank`).

    Raises:
        MitigationError: substitutes are wanted and the edit leaves the copies or is missing, or the
            model cannot be trained.
        EditError: the training diverges, since its learning rate is too high.
        AuditError: a prompt has no image, or the model has no single text embedding.
        RunError: a stage fails, or the folder holds another run.

    Source: Kowalczuk et al., "Finding DoRI", arXiv 2507.16880; docs/hardening.md.

    Examples:
        >>> from unmemorize import load_pipeline, testbed
        >>> planted = testbed.planted()[0]
        >>> unused = [photograph.image for photograph in testbed.unused()]
        >>> result = harden(
        ...     load_pipeline("testbed"), planted.neurons, [planted.prompt], controls=unused
        ... )  # doctest: +SKIP
    """
    model, chosen = Model.of(pipe), as_prompts(prompts)
    ordinary = captions or OrdinaryCaptions.of(model)
    if clip is None and is_bundled(model.pipe):
        clip = ClipAlignment()
    inputs = HardeningInputs(
        audit=AuditInputs(
            edit=None if edit is None else as_edit(edit, model),
            captions=ordinary.ordinary,
            descriptor=descriptor or usual_descriptor(bundled=is_bundled(model.pipe)),
            controls=distinct_controls(controls),
        ),
        keep=ordinary.keep,
        clip=clip,
    )
    with given_or_temporary(folder) as place:
        run = open_hardening(place, model, chosen, inputs, settings or HardeningSettings.of(model))
        return harden_all(run, model, inputs, execution=execution)
