"""Step 4 over many prompts: sets of images in a run folder, each with a record that says how its images came to be.

RUN/images/NAME/manifest.json    which neurons, scale, seed, steps, guidance
RUN/images/NAME/images.jsonl     per prompt its text, its files, and the neurons that were off
RUN/images/NAME/00003_01.png     prompt 3, seed 1
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from diffusers import DiffusionPipeline
from PIL import Image

from unmemorize._errors import RunError
from unmemorize._files import hash_texts
from unmemorize._progress import Progress, silent
from unmemorize._prompts import Kind, Prompt
from unmemorize.engines import Engine, Finished, Shard, Work
from unmemorize.generation._generate import GenerationSettings, generate_each
from unmemorize.generation._neuron_sets import NeuronSet
from unmemorize.localization import read_localizations
from unmemorize.neurons import Neurons
from unmemorize.pipelines import Model
from unmemorize.runs import Run, Tally, drive, stream_prompts

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

    def prepare(self, pipe: DiffusionPipeline) -> Work:
        """See `Task`."""
        suffix = "jpg" if self.format == "jpeg" else "png"

        def work(items: Sequence[tuple[int, str, Neurons]]) -> list[Finished]:
            _, texts, off = zip(*items, strict=True)
            finished = []
            for (index, text, neurons), drawn in zip(
                items, generate_each(pipe, texts, off, settings=self.settings), strict=True
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
    pipe: DiffusionPipeline,
    images: ImageSet,
    settings: GenerationSettings,
    *,
    engine: Engine | None = None,
    shard: Shard | None = None,
    progress: Progress = silent,
) -> Tally:
    """Generate a set of images for a localization run: of its memorized prompts, each with its own neurons off, or of other prompts.

    ``engine``, ``shard`` and ``progress`` are those of `drive`.

    Returns:
        How far the run of the images has come, see `image_sets`.

    Raises:
        RunError: nothing is localized, the run is another model's, or the folder has images of other settings.
        NeuronError: a neuron file is malformed or another model's.
    """
    model = Model(pipe)
    if not model.matches(run.config["fingerprint"]):
        raise RunError(
            f"{run.folder}: the run is one of {run.about['model']}, which is not the model given. Generate with the same model."
        )
    if settings.seed == run.config.get("noise", {}).get("seed"):
        raise RunError(
            f"{run.folder}: seed {settings.seed} is that of its localization. Generate with another one, to see other noise."
        )
    localized = read_localizations(run, only_memorized=True)
    asked, groups = {}, set()
    for index, prompt in enumerate(stream_prompts(run)):
        groups.add(prompt.group)
        if index in localized:
            asked[index] = prompt
    if images.prompts and images.label in (OVERALL, *groups):
        raise RunError(
            f"{images.label}: the run has a group of this name, so other prompts need another. Rename their file."
        )
    chosen = {
        index: record
        for index, record in localized.items()
        if images.only in (None, asked[index].kind)
    }
    if images.prompts:
        targets = {index: prompt.text for index, prompt in enumerate(images.prompts)}
    else:
        targets = {index: record.prompt for index, record in chosen.items()}
    found = {
        index: record
        for index, record in chosen.items()
        if asked[index].memorized is not False or not images.neurons.pooled
    }
    everything = Neurons.of(pair for record in localized.values() for pair in record.neurons)
    pool = (
        images.neurons.pool(found, model, settings.scale)
        if images.prompts or images.neurons.pooled
        else None
    )
    off = images.neurons.assign(targets, found, model, pool=pool, barred=everything)
    config: dict[str, Any] = {
        "neurons": images.neurons.name,
        "on": images.label,
        "format": images.format,
        "fingerprint": model.fingerprint,
    }
    if images.prompts:
        config["prompts"] = hash_texts(targets.values())
    if pool is not None:
        config["pool"] = pool.to_json()
    config |= {name: value for name, value in asdict(settings).items() if name != "batch"}
    config["dtype"] = str(model.dtype)
    if images.neurons.source == "original":
        config["scale"] = 0.0  # of nothing
    place = run.folder / "images" / images.name(settings.scale)
    made = Run.open(
        place,
        config,
        about={"items": len(targets)},
        way_out=f"delete {place} to make these images anew",
    )
    for neurons in off.values():
        neurons.check(model)
    items = [(index, (index, text, off[index])) for index, text in targets.items()]
    return drive(
        made,
        pipe,
        GenerateTask(settings, images.format),
        items,
        1 + max(targets, default=-1),
        engine=engine,
        shard=shard,
        progress=progress,
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
