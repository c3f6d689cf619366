"""Step 4 over many prompts: sets of images in a run folder, each with a record that says how its images came to be.

RUN/images/NAME/manifest.json    which neurons, scale, seed, steps, guidance
RUN/images/NAME/images.jsonl     per prompt its text, its files, and the neurons that were off
RUN/images/NAME/00003_01.png     prompt 3, seed 1
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from PIL import Image

from unmemorize._errors import RunError
from unmemorize._files import hash_texts
from unmemorize._prompts import Kind, Prompt
from unmemorize.engines import Execution, Finished, UnitFunction
from unmemorize.generation._generate import GenerationSettings, generate_each
from unmemorize.generation._neuron_sets import NeuronSet
from unmemorize.localization import LocalizationRun, read_localizations
from unmemorize.neurons import Neurons
from unmemorize.pipelines import Model
from unmemorize.runs import Inputs, Run, Tally, drive, stream_prompts

ImageFormat = Literal["png", "jpeg"]
IMAGES = "images"
OVERALL = "overall"
"""Over all prompts of interest, in a summary; no group and no label has this name."""


@dataclass(frozen=True, kw_only=True)
class ImageSet:
    """What a set of images shows; its name is that of its folder.

    Args:
        neurons: what is off.
        only: only the run's VM or TM prompts: their images, and their neurons.
        prompts: other prompts than the memorized ones of the run, which then get the neurons of the whole run.
        label: the name of these other prompts, such as "captions".
        format: of the files; "png" keeps every pixel, "jpeg" is smaller (quality 95, full colour resolution).
    """

    neurons: NeuronSet
    only: Kind | None = None
    prompts: Sequence[Prompt] = ()
    label: str = ""
    format: ImageFormat = "png"

    def name(self, scale: float) -> str:
        """Of the folder: the neurons, with what is out of the ordinary behind."""
        parts = [self.neurons.name]
        if scale and self.neurons.source != "original":
            parts.append(f"scale-{scale:g}")
        if (
            self.only
            and self.neurons.source != "original"
            and (self.neurons.pooled or self.prompts)
        ):
            parts.append(self.only.lower())
        if self.prompts:
            parts.append(f"on-{self.label}")
        return "-".join(parts)


@dataclass(frozen=True, kw_only=True)
class ImageSetRun:
    """What determines a set of images, besides the model and the prompts.

    Args:
        neurons: the name of the neurons that are off, see `NeuronSet`.
        on: the name of other prompts than those of the run; empty for the run's own.
        format: of the files.
        pool: the neurons that are off for all prompts; None where each prompt has its own.
        images, seed, steps, guidance, scale: see `GenerationSettings`.
    """

    kind: ClassVar[str] = "images"

    neurons: str
    on: str
    format: ImageFormat
    pool: Neurons | None
    images: int
    seed: int
    steps: int
    guidance: float
    scale: float

    @classmethod
    def of(
        cls, images: ImageSet, settings: GenerationSettings, pool: Neurons | None
    ) -> ImageSetRun:
        """Make the settings of the run of a set of images."""
        return cls(
            neurons=images.neurons.name,
            on=images.label,
            format=images.format,
            pool=pool,
            images=settings.images,
            seed=settings.seed,
            steps=settings.steps,
            guidance=settings.guidance,
            scale=0.0 if images.neurons.source == "original" else settings.scale,
        )


@dataclass(frozen=True)
class GenerateTask:
    """`generate_each` as a `Task`; its items are index, text and what is off."""

    settings: GenerationSettings
    format: ImageFormat
    kind: str = IMAGES

    @property
    def size(self) -> int:
        """Prompts whose images fill a batch."""
        return max(1, self.settings.batch // self.settings.images)

    def prepare(self, model: Model) -> UnitFunction:
        """See `Task`."""
        suffix = "jpg" if self.format == "jpeg" else "png"

        def work(items: Sequence[tuple[int, str, Neurons]]) -> list[Finished]:
            _, texts, off = zip(*items, strict=True)
            finished = []
            for (index, text, neurons), drawn in zip(
                items, generate_each(model, texts, off, settings=self.settings), strict=True
            ):
                files = {
                    f"{index:05d}_{number:02d}.{suffix}": _encoded(image, self.format)
                    for number, image in enumerate(drawn)
                }
                finished.append(
                    Finished(
                        {"prompt": text, "files": list(files), "neurons": neurons.to_json()}, files
                    )
                )
            return finished

        return work


def generate_all(
    run: Run,
    model: Model,
    images: ImageSet,
    settings: GenerationSettings,
    execution: Execution | None = None,
) -> Tally:
    """Generate a set of images for a localization run.

    The set shows the run's memorized prompts, each with its own neurons off, or other prompts.

    Args:
        run: a run with localizations.
        model: the model of the run.
        images: which neurons are off for which prompts.
        settings: how images are generated.
        execution: who does the work.

    Returns:
        How far the run of the images has come, see `image_sets`.

    Raises:
        RunError: nothing is localized, the run is another model's, or the folder has images made
            under other settings.
        NeuronError: a neuron file is malformed or another model's.
    """
    _check_run(run, model, settings)
    localized = read_localizations(run, only_memorized=True)
    prompts, groups = {}, set()
    for index, prompt in enumerate(stream_prompts(run)):
        groups.add(prompt.group)
        if index in localized:
            prompts[index] = prompt
    if images.prompts and images.label in (OVERALL, *groups):
        raise RunError(
            f"{images.label}: the run has a group of this name, so other prompts need another. "
            "Rename their file."
        )
    chosen = {
        index: record
        for index, record in localized.items()
        if images.only in (None, prompts[index].kind)
    }
    if images.prompts:
        targets = {index: prompt.text for index, prompt in enumerate(images.prompts)}
    else:
        targets = {index: record.prompt for index, record in chosen.items()}
    pool = None
    if images.prompts or images.neurons.pooled:
        sources = {
            index: record
            for index, record in chosen.items()
            if prompts[index].memorized is not False or not images.neurons.pooled
        }
        pool = images.neurons.pool(sources, model, settings.scale)
    everything = Neurons.of(pair for record in localized.values() for pair in record.neurons)
    off = images.neurons.assign(targets, chosen, model, pool=pool, barred=everything)
    for neurons in off.values():
        neurons.check(model)
    folder = run.folder / IMAGES / images.name(settings.scale)
    set_run = Run.open(
        folder,
        ImageSetRun.of(images, settings, pool),
        inputs=Inputs(
            fingerprint=model.fingerprint,
            dtype=str(model.dtype),
            prompts=hash_texts(targets.values()) if images.prompts else "",
        ),
        model=model.name,
        items=len(targets),
        way_out=f"delete {folder} to make these images again",
    )
    items = [(index, (index, text, off[index])) for index, text in targets.items()]
    task = GenerateTask(settings, images.format)
    return drive(set_run, model, task, items, 1 + max(targets, default=-1), execution)


def _check_run(run: Run, model: Model, settings: GenerationSettings) -> None:
    if not model.matches(run.manifest.inputs.fingerprint):
        raise RunError(
            f"{run.folder}: the run is one of {run.manifest.model}, which is not the model given. "
            "Generate with the same model."
        )
    if run.manifest.kind != LocalizationRun.kind:
        return
    if settings.seed == run.settings(LocalizationRun).localization.noise.seed:
        raise RunError(
            f"{run.folder}: its localization used seed {settings.seed}, too. "
            "Generate with another seed, to see other noise."
        )


def image_sets(run: Run) -> dict[str, Run]:
    """The sets of images of a run by name, the original ones first; record i of kind "images" is that of prompt i."""
    sets = run.nested(IMAGES)
    return {
        name: sets[name]
        for name in sorted(sets, key=lambda name: (not name.startswith("original"), name))
    }


def _encoded(image: Image.Image, kind: ImageFormat) -> bytes:
    buffer = io.BytesIO()
    if kind == "jpeg":
        image.save(buffer, "JPEG", quality=95, subsampling=0)
    else:
        image.save(buffer, "PNG")
    return buffer.getvalue()
