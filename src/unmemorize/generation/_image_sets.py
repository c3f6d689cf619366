"""Sets of images in a run folder, and how their images came to be.

RUN/images/NAME/manifest.json    which neurons, scale, seed, steps, guidance
RUN/images/NAME/images.jsonl     for each prompt an `ImageRecord`
RUN/images/NAME/00003_01.png     prompt 3, seed 1
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from unmemorize._errors import RunError
from unmemorize._files import from_json
from unmemorize._prompts import Kind, Prompt
from unmemorize.generation._generate import GenerationSettings
from unmemorize.generation._neuron_sets import NeuronSet
from unmemorize.localization import LOCALIZATIONS
from unmemorize.neurons import Neurons
from unmemorize.runs import Run

ImageFormat = Literal["png", "jpeg"]
IMAGES = "images"
ORIGINAL = "original"
"""The set of images with all neurons on."""


@dataclass(frozen=True, kw_only=True)
class ImageSet:
    """A set of images to generate.

    Args:
        neurons: the neurons that are off.
        only: take only the run's VM or TM prompts: their images, and their neurons.
        prompts: prompts to use instead of the memorized ones of the run. All of them get the
            neurons of the whole run.
        label: the name of these other prompts, such as "captions". It must be one that a folder
            can have, and other than the groups of the run.
        format: "png" keeps every pixel. "jpeg" makes smaller files (quality 95, full colour
            resolution).
        guard: what determines the guard that watches the pipeline, by name; None for no guard. Its
            images are a set of their own, so those drawn without it never count as judged.
    """

    neurons: NeuronSet
    only: Kind | None = None
    prompts: Sequence[Prompt] = ()
    label: str = ""
    format: ImageFormat = "png"
    guard: Mapping[str, float] | None = None

    @property
    def is_shared(self) -> bool:
        """Whether all images are made with the same neurons off."""
        return bool(self.prompts) or self.neurons.is_shared

    def name(self, scale: float) -> str:
        """Return the name of the folder: the neurons, followed by what is not the default.

        Args:
            scale: what the outputs of the neurons are multiplied by.
        """
        parts = [self.neurons.name]
        if self.neurons.choice != ORIGINAL:
            if scale:
                parts.append(f"scale-{scale:g}")
            if self.only and self.is_shared:
                parts.append(self.only.lower())
        if self.guard is not None:
            parts.append("guarded")
        return name_on("-".join(parts), self.label if self.prompts else "")


@dataclass(frozen=True, kw_only=True)
class ImageSetRun:
    """What determines a set of images, besides the model and the prompts.

    Args:
        neurons: the name of the neurons that are off, see `NeuronSet`.
        on: the name of prompts other than those of the run; empty for the run's own.
        format: of the files.
        shared: the neurons that are off for all prompts; None if each prompt has its own.
        images, seed, steps, guidance, scale: see `GenerationSettings`.
        method: name, strength and other settings of the method that is applied; None for none.
        guard: see `ImageSet`.
    """

    kind: ClassVar[str] = IMAGES

    neurons: str
    on: str
    format: ImageFormat
    shared: Neurons | None
    images: int
    seed: int
    steps: int
    guidance: float
    scale: float
    method: Mapping[str, str | float | bool] | None = None
    guard: Mapping[str, float] | None = None

    @classmethod
    def of(
        cls, images: ImageSet, settings: GenerationSettings, shared: Neurons | None
    ) -> ImageSetRun:
        """Make the settings of the run of a set of images."""
        return cls(
            neurons=images.neurons.name,
            on=images.label if images.prompts else "",
            format=images.format,
            shared=shared,
            images=settings.images,
            seed=settings.seed,
            steps=settings.steps,
            guidance=settings.guidance,
            scale=0.0 if images.neurons.choice == ORIGINAL else settings.scale,
            guard=images.guard,
        )


@dataclass(frozen=True, kw_only=True)
class ImageRecord:
    """The images of one prompt.

    Args:
        prompt: its text.
        files: the names of the files, one for each seed.
        neurons: the neurons that were off.
    """

    prompt: str
    files: tuple[str, ...]
    neurons: Neurons


def name_on(name: str, label: str) -> str:
    """Return the name of a set of images on other prompts; without a label, on the run's own.

    Examples:
        >>> name_on("refined", "captions"), name_on("refined", "")
        ('refined-on-captions', 'refined')
    """
    return f"{name}-on-{label}" if label else name


def without_prompts(name: str, label: str) -> str:
    """Return the name of a set of images without the label of its prompts, see `name_on`.

    Examples:
        >>> without_prompts("refined-on-captions", "captions")
        'refined'
    """
    return name.removesuffix(f"-on-{label}")


def image_sets(run: Run) -> dict[str, Run]:
    """Return the runs of a run's sets of images by name, the original images first."""
    sets = run.nested(IMAGES)
    names = sorted(sets, key=lambda name: (not name.startswith(ORIGINAL), name))
    return {name: sets[name] for name in names}


def image_set(run: Run, name: str) -> Run:
    """Return the run of one set of images.

    Raises:
        RunError: there is no such set.
    """
    sets = image_sets(run)
    if name not in sets:
        raise RunError(f"{run.folder}: there are no images {name}. {way_to_images(run)}")
    return sets[name]


def way_to_images(run: Run) -> str:
    """Say what to do about a run without images, for errors."""
    if run.files(LOCALIZATIONS):
        return f"First: unmemorize generate {run.folder}"
    return (
        f"This run of kind {run.manifest.kind} has no localized prompts to draw. Draw those of "
        "another run: unmemorize localize -o FOLDER, then unmemorize generate FOLDER"
    )


def read_images(images: Run) -> dict[int, ImageRecord]:
    """Read the records of a set of images by index of the prompt.

    Raises:
        RunError: a record is damaged.
    """
    return {
        index: from_json(
            ImageRecord,
            record,
            RunError,
            f"{images.folder}: damaged record of prompt {index}",
            f"Delete {images.folder} and generate the images again.",
        )
        for index, record in images.records(IMAGES).items()
    }
