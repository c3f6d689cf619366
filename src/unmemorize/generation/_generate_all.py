"""Step 4 over many prompts: a set of images for a run."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from diffusers import DiffusionPipeline
from PIL import Image

from unmemorize._files import hash_texts, png_bytes, to_json
from unmemorize.engines import Execution, Finished, UnitFunction
from unmemorize.generation._edits import NeuronEdit
from unmemorize.generation._generate import GenerationSettings, generate_each
from unmemorize.generation._image_sets import (
    IMAGES,
    ImageFormat,
    ImageRecord,
    ImageSet,
    ImageSetRun,
)
from unmemorize.generation._neuron_sets import Localizations
from unmemorize.generation._shown_prompts import ShownPrompts, shown_prompts
from unmemorize.neurons import Neurons
from unmemorize.pipelines import Model
from unmemorize.runs import Inputs, Run, Tally, drive

_SUFFIXES: dict[ImageFormat, str] = {"png": "png", "jpeg": "jpg"}
_JPEG_QUALITY = 95


def generate_all(
    run: Run | str | Path,
    pipe: DiffusionPipeline | Model,
    images: ImageSet,
    settings: GenerationSettings,
    execution: Execution | None = None,
) -> Tally:
    """Generate a set of images for a localization run, or resume it.

    The set shows the run's memorized prompts, each with its own neurons off, or other prompts with
    the neurons of the whole run off.

    Args:
        run: a run with localizations, or its folder.
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
    run, model = Run.of(run), Model.of(pipe)
    shown = shown_prompts(
        run, model, settings, only=images.only, prompts=images.prompts, label=images.label
    )
    shared = _shared_neurons(images, shown, model, settings.scale)
    neurons = images.neurons.assign(
        shown.texts,
        shown.chosen,
        model,
        shared=shared,
        excluded=_refined_neurons(shown.localizations),
    )
    for assigned in neurons.values():
        assigned.check(model)
    images_run = open_image_set(
        run, model, shown, images.name(settings.scale), ImageSetRun.of(images, settings, shared)
    )
    items = [
        (index, (index, text, NeuronEdit(neurons[index], settings.scale)))
        for index, text in shown.texts.items()
    ]
    task = GenerateTask(settings, images.format)
    return drive(images_run, model, task, items, shown.end, execution)


def open_image_set(
    run: Run, model: Model, shown: ShownPrompts, name: str, settings: ImageSetRun
) -> Run:
    """Start or resume the run of a set of images, RUN/images/NAME.

    Raises:
        RunError: the folder has images made under other settings.
    """
    folder = run.folder / IMAGES / name
    images = Run.open(
        folder,
        settings,
        inputs=Inputs(
            fingerprint=model.fingerprint,
            dtype=str(model.dtype),
            prompts=hash_texts(shown.texts.values()) if shown.are_others else "",
        ),
        model=model.name,
        items=len(shown.prompts),
        way_out=f"delete {folder} to make these images again",
    )
    others = images.times(IMAGES).keys() - shown.prompts.keys()  # of the other kind of prompts
    images.expect(len(shown.prompts) + len(others))
    return images


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
                finished_images(index, text, edit.neurons, images, self.format)
                for index, text, edit, images in zip(
                    indices, texts, edits, images_by_prompt, strict=True
                )
            ]

        return work


def finished_images(
    index: int,
    text: str,
    neurons: Neurons,
    images: Sequence[Image.Image],
    image_format: ImageFormat,
) -> Finished:
    """Make the `ImageRecord` and the files of the images of one prompt."""
    suffix = _SUFFIXES[image_format]
    files = {
        f"{index:05d}_{seed:02d}.{suffix}": _encoded(image, image_format)
        for seed, image in enumerate(images)
    }
    record = ImageRecord(prompt=text, files=tuple(files), neurons=neurons)
    return Finished(to_json(record), files)


def _shared_neurons(
    images: ImageSet, shown: ShownPrompts, model: Model, scale: float
) -> Neurons | None:
    """Return the neurons that all prompts get; None if each has its own.

    Prompts that are known not to be memorized were detected by mistake, so their neurons do not
    count among the most frequent ones.
    """
    if not images.is_shared:
        return None
    chosen: Localizations = shown.chosen
    if images.neurons.is_shared:
        chosen = {
            index: record
            for index, record in chosen.items()
            if shown.memorized[index].memorized is not False
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
