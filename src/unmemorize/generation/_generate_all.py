"""Step 4 over many prompts: a set of images for a run."""

from __future__ import annotations

import io
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from diffusers import DiffusionPipeline
from PIL import Image

from unmemorize._errors import RunError
from unmemorize._files import hash_texts, png_bytes, to_json
from unmemorize._prompts import Prompt
from unmemorize.engines import Execution, Finished, UnitFunction
from unmemorize.generation._edits import NeuronEdit
from unmemorize.generation._generate import GenerationSettings, generate_each
from unmemorize.generation._image_sets import (
    IMAGES,
    OVERALL,
    ImageFormat,
    ImageRecord,
    ImageSet,
    ImageSetRun,
)
from unmemorize.generation._neuron_sets import Localizations
from unmemorize.localization import LocalizationRun, read_localizations
from unmemorize.neurons import Neurons
from unmemorize.pipelines import Model
from unmemorize.runs import Inputs, Run, Tally, drive, stream_prompts

_SUFFIXES: dict[ImageFormat, str] = {"png": "png", "jpeg": "jpg"}
_JPEG_QUALITY = 95


def generate_all(
    run: Run,
    pipe: DiffusionPipeline | Model,
    images: ImageSet,
    settings: GenerationSettings,
    execution: Execution | None = None,
) -> Tally:
    """Generate a set of images for a localization run, or resume it.

    The set shows the run's memorized prompts, each with its own neurons off, or other prompts with
    the neurons of the whole run off.

    Args:
        run: a run with localizations.
        pipe: a loaded pipeline of the run's model.
        images: which neurons are off for which prompts.
        settings: how images are generated.
        execution: who does the work.

    Returns:
        How far the run of the images has come, see `image_sets` and `read_images`.

    Raises:
        RunError: nothing is localized, the run is of another model, its localization used the same
            seed, or the folder has images made under other settings.
        NeuronError: a neuron file is malformed or of another model.
    """
    model = Model.of(pipe)
    _refuse_other_model(run, model)
    _refuse_seed_of_localization(run, settings.seed)
    localizations = read_localizations(run, only_memorized=True)
    prompts, groups = _memorized_prompts(run, localizations)
    if images.prompts:
        _refuse_label(images.label, groups)
    chosen = {
        index: record
        for index, record in localizations.items()
        if images.only in (None, prompts[index].kind)
    }
    if images.prompts:
        texts = {index: prompt.text for index, prompt in enumerate(images.prompts)}
    else:
        texts = {index: record.prompt for index, record in chosen.items()}
    shared = _shared_neurons(images, chosen, prompts, model, settings.scale)
    neurons = images.neurons.assign(
        texts, chosen, model, shared=shared, excluded=_refined_neurons(localizations)
    )
    for assigned in neurons.values():
        assigned.check(model)
    folder = run.folder / IMAGES / images.name(settings.scale)
    images_run = Run.open(
        folder,
        ImageSetRun.of(images, settings, shared),
        inputs=Inputs(
            fingerprint=model.fingerprint,
            dtype=str(model.dtype),
            prompts=hash_texts(texts.values()) if images.prompts else "",
        ),
        model=model.name,
        items=len(texts),
        way_out=f"delete {folder} to make these images again",
    )
    items = [
        (index, (index, text, NeuronEdit(neurons[index], settings.scale)))
        for index, text in texts.items()
    ]
    task = GenerateTask(settings, images.format)
    return drive(images_run, model, task, items, 1 + max(texts, default=-1), execution)


@dataclass(frozen=True)
class GenerateTask:
    """`generate_each` as a `Task`. Its items are (index, text, edit)."""

    settings: GenerationSettings
    format: ImageFormat
    kind: str = IMAGES

    @property
    def size(self) -> int:
        """The number of prompts whose images fill a batch."""
        return max(1, self.settings.batch // self.settings.images)

    def prepare(self, model: Model) -> UnitFunction:
        """See `Task`."""

        def work(items: Sequence[tuple[int, str, NeuronEdit]]) -> list[Finished]:
            indices, texts, edits = zip(*items, strict=True)
            images_by_prompt = generate_each(model, texts, edits, settings=self.settings)
            return [
                self._finished(index, text, edit.neurons, images)
                for index, text, edit, images in zip(
                    indices, texts, edits, images_by_prompt, strict=True
                )
            ]

        return work

    def _finished(
        self, index: int, text: str, neurons: Neurons, images: Sequence[Image.Image]
    ) -> Finished:
        suffix = _SUFFIXES[self.format]
        files = {
            f"{index:05d}_{seed:02d}.{suffix}": _encoded(image, self.format)
            for seed, image in enumerate(images)
        }
        record = ImageRecord(prompt=text, files=tuple(files), neurons=neurons)
        return Finished(to_json(record), files)


def _refuse_other_model(run: Run, model: Model) -> None:
    if not model.matches(run.manifest.inputs.fingerprint):
        raise RunError(
            f"{run.folder}: the run is one of {run.manifest.model}, which is not the model given. "
            "Generate with the same model."
        )


def _refuse_seed_of_localization(run: Run, seed: int) -> None:
    """Refuse to show only the noise that localization has already seen."""
    if run.manifest.kind != LocalizationRun.kind:
        return
    if seed == run.settings(LocalizationRun).localization.noise.seed:
        raise RunError(
            f"{run.folder}: seed {seed} was already used for localization. "
            "Generate with another seed, to see other noise."
        )


def _memorized_prompts(
    run: Run, localizations: Localizations
) -> tuple[dict[int, Prompt], frozenset[str]]:
    """Read the memorized prompts of a run by index, and the groups of all its prompts."""
    prompts, groups = {}, set()
    for index, prompt in enumerate(stream_prompts(run)):
        groups.add(prompt.group)
        if index in localizations:
            prompts[index] = prompt
    return prompts, frozenset(groups)


def _refuse_label(label: str, groups: Collection[str]) -> None:
    """Refuse a name for other prompts that means something else in summaries."""
    if label == OVERALL or label in groups:
        raise RunError(
            f"{label}: the run has a group of this name, so other prompts need another name. "
            "Rename their file."
        )


def _shared_neurons(
    images: ImageSet,
    chosen: Localizations,
    prompts: Mapping[int, Prompt],
    model: Model,
    scale: float,
) -> Neurons | None:
    """Return the neurons that all prompts get; None if each has its own.

    Prompts that are known not to be memorized were detected by mistake, so their neurons do not
    count among the most frequent ones.
    """
    if not images.is_shared:
        return None
    if images.neurons.is_shared:
        chosen = {
            index: record
            for index, record in chosen.items()
            if prompts[index].memorized is not False
        }
    return images.neurons.shared(chosen, model, scale)


def _refined_neurons(localizations: Localizations) -> Neurons:
    return Neurons.of(pair for record in localizations.values() for pair in record.neurons)


def _encoded(image: Image.Image, image_format: ImageFormat) -> bytes:
    if image_format == "png":
        return png_bytes(image)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=_JPEG_QUALITY, subsampling=0)
    return buffer.getvalue()
