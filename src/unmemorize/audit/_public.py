"""An audit in one call."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from diffusers import DiffusionPipeline

from unmemorize._bundled import is_bundled
from unmemorize._errors import AuditError
from unmemorize._files import as_paths, hash_texts
from unmemorize._prompts import Prompt, as_prompts
from unmemorize.audit._arms import (
    AuditInputs,
    Twin,
    edit_text,
    hash_of_images,
    refuse_unfit,
    takes_whole,
)
from unmemorize.audit._audit import audit_all
from unmemorize.audit._image_first import ImageAuditResult, audit_images_all, open_image_audit
from unmemorize.audit._result import AuditResult
from unmemorize.audit._settings import AuditRun, AuditSettings, positions_text, twin_text
from unmemorize.audit._targets import distinct_controls, joined, targets_of, units_of
from unmemorize.engines import Execution
from unmemorize.generation import Edit, EditFile, as_edit, usual_generation
from unmemorize.metrics import Descriptor, usual_descriptor
from unmemorize.mitigation import OrdinaryCaptions
from unmemorize.neurons import HasNeurons, Neurons
from unmemorize.pipelines import Model
from unmemorize.runs import Run, given_or_temporary, hash_of_file, open_run


def audit_edit(
    pipe: DiffusionPipeline | Model,
    edit: Neurons | HasNeurons | Edit | EditFile | None,
    prompts: Iterable[str | Prompt],
    *,
    controls: Sequence[str | Path] = (),
    twin: DiffusionPipeline | Model | None = None,
    settings: AuditSettings | None = None,
    captions: Sequence[str] | None = None,
    descriptor: Descriptor | None = None,
    folder: str | Path | None = None,
    execution: Execution | None = None,
) -> AuditResult:
    """Tell whether an edited model gives images back more cheaply than one that never saw them.

    Args:
        pipe: the unedited model. It is left as it is.
        edit: neurons to switch off, also as a localization, or an edit, or the file of either; None
            to audit the model as it is.
        prompts: memorized prompts, whose ``images`` name the training images.
        controls: images that the model was never trained on. At least 19 bound false triggers at
            5 %.
        twin: a model that was never trained on the images of the prompts, and otherwise like this
            one. It is the better control.
        settings: what is tried. Without any, the bundled model is drawn with its own steps and
            guidance (`testbed.defaults`), as on the command line.
        captions: ordinary captions. By default those of this package, or of the bundled model.
        descriptor: compares images. The default is made for the 64 x 64 images of the bundled
            model; give `FileDescriptor.sscd` for others.
        folder: a run folder in which an interrupted audit is resumed. It stays; without one a
            temporary folder is used.
        execution: who does the work.

    Returns:
        The verdicts. Without controls and twin there are scores, and no verdict.

    Raises:
        AuditError: a prompt has no image.
        RunError: an attack fails, or the folder holds another run.

    Source: docs/audit.md.

    Examples:
        >>> from unmemorize import load_pipeline, testbed
        >>> planted = testbed.planted()[0]
        >>> unused = [photograph.image for photograph in testbed.unused()]
        >>> result = audit_edit(
        ...     load_pipeline("testbed"), planted.neurons, [planted.prompt], controls=unused
        ... )  # doctest: +SKIP
    """
    model, chosen = Model.of(pipe), as_prompts(prompts)
    twins = () if twin is None else (Twin(Model.of(twin), tuple(range(len(chosen)))),)
    inputs = AuditInputs(
        edit=None if edit is None else as_edit(edit, model),
        captions=_captions(model, captions),
        descriptor=descriptor or usual_descriptor(bundled=is_bundled(model.pipe)),
        controls=distinct_controls(controls),
        twins=twins,
    )
    with given_or_temporary(folder) as place:
        run = open_audit(place, model, chosen, inputs, settings or _usual(model))
        return audit_all(run, model, inputs, execution=execution)


def audit_images(
    pipe: DiffusionPipeline | Model,
    images: Sequence[str | Path],
    controls: Sequence[str | Path],
    *,
    rate: float = 0.05,
    settings: AuditSettings | None = None,
    captions: Sequence[str] | None = None,
    descriptor: Descriptor | None = None,
    folder: str | Path | None = None,
    execution: Execution | None = None,
) -> ImageAuditResult:
    """Tell which images are in the weights of a model, without knowing any caption.

    Args:
        pipe: a loaded pipeline. It is left as it is.
        images: image files.
        controls: image files that the model was never trained on, otherwise like the images.
        rate: the false discovery rate over all images, in (0, 1).
        settings, captions, descriptor, folder, execution: as in `audit_edit`.

    Returns:
        A p-value for each image, and which images are discoveries.

    Raises:
        AuditError: there is no image or no control, or the model has no single text embedding.
        RunError: an attack fails, or the folder holds another run.

    Source: docs/audit.md.

    Examples:
        >>> from unmemorize import load_pipeline
        >>> result = audit_images(
        ...     load_pipeline("testbed"), ["mine.png"], ["other.png"]
        ... )  # doctest: +SKIP
    """
    model = Model.of(pipe)
    if not 0 < rate < 1:
        raise AuditError(f"rate={rate}: a rate lies between 0 and 1, such as 0.05.")
    files = as_paths(images, AuditError, "image")
    inputs = AuditInputs(
        edit=None,
        captions=_captions(model, captions),
        descriptor=descriptor or usual_descriptor(bundled=is_bundled(model.pipe)),
        controls=distinct_controls(controls),
    )
    with given_or_temporary(folder) as place:
        run = open_image_audit(place, model, files, inputs, settings or _usual(model), rate=rate)
        return audit_images_all(run, model, files, inputs, execution=execution)


def open_audit(
    folder: str | Path,
    model: Model,
    prompts: Sequence[Prompt],
    inputs: AuditInputs,
    settings: AuditSettings,
    *,
    new: bool = False,
) -> Run:
    """Start an audit of an edit, or resume it.

    Args:
        folder: the run folder.
        model: the unedited model.
        prompts: memorized prompts with their images.
        inputs: the edit, and what to compare with.
        settings: of the audit.
        new: take FOLDER-2, FOLDER-3, ... where the folder holds another run.

    Raises:
        AuditError: a prompt has no image, a twin is the audited model, or an audited image is among
            the controls.
        RunError: the folder holds another run.
    """
    refuse_unfit(model, prompts, inputs)
    targets = targets_of(prompts, whole=takes_whole(inputs, settings))
    same = [numbers for numbers in joined(units_of(targets)) if len(numbers) > 1]
    whole = [number for number, target in enumerate(targets) if target.others]
    made_of = AuditRun(
        settings=settings,
        edit=edit_text(inputs.edit),
        references=hash_of_images(prompts),
        controls=tuple(map(hash_of_file, inputs.controls)),
        twins=tuple(twin_text(each.model.fingerprint, each.prompts) for each in inputs.twins),
        captions=hash_texts(inputs.captions),
        descriptor=inputs.descriptor.digest,
        seeded_by=inputs.seeded_by,
        joined=tuple(map(positions_text, same)) or None,
        whole=tuple(whole) or None,
    )
    return open_run(folder, model, prompts, made_of, new=new)


def _usual(model: Model) -> AuditSettings:
    return AuditSettings(generation=usual_generation(model))


def _captions(model: Model, captions: Sequence[str] | None) -> tuple[str, ...]:
    if captions is None:
        return OrdinaryCaptions.of(model).ordinary
    return tuple(each.text for each in as_prompts(captions))
