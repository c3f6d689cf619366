"""Metrics of the images of a run, prompt by prompt.

RUN/metrics/NAME/manifest.json    what was measured, by what, see `EvaluationRun`
RUN/metrics/NAME/metrics.jsonl    for each prompt a `PromptMetrics`
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from PIL import Image

from unmemorize._errors import RunError
from unmemorize._files import hash_texts, to_json
from unmemorize._prompts import Prompt
from unmemorize.engines import Progress, silent
from unmemorize.generation import (
    ORIGINAL,
    ImageRecord,
    ImageSetRun,
    image_set,
    image_sets,
    name_on,
    read_images,
)
from unmemorize.metrics._alignment import ClipAlignment
from unmemorize.metrics._descriptor import Descriptor
from unmemorize.metrics._images import TrainingImages, read_references
from unmemorize.metrics._medians import MedianName
from unmemorize.metrics._metric import Instruments, Metric, PromptImages
from unmemorize.metrics._read_image import read_image
from unmemorize.metrics._records import (
    METRICS_FOLDER,
    EvaluationRun,
    MeasuredMetric,
    PromptMetrics,
    References,
    read_metrics,
)
from unmemorize.metrics._registered import make_metrics, measured
from unmemorize.runs import MANIFEST, Run, StoredImage, hash_of_file, run_prompts

log = logging.getLogger(__name__)

_MAY_DIFFER = ("neurons", "scale", "shared", "format", "method", "guard")
"""Settings in which a set of images may differ from the original images."""


def evaluate_all(
    run: Run | str | Path,
    name: str,
    *,
    descriptor: Descriptor,
    alignment: ClipAlignment | None,
    references: Mapping[int, Sequence[Path]] | None = None,
    medians: MedianName = "middle",
    progress: Progress = silent,
) -> dict[int, PromptMetrics]:
    """Measure a set of images by all registered metrics, or resume that.

    Records made with other instruments, other training images, other original images or other
    medians are replaced.

    Args:
        run: a localization run with images, or its folder.
        name: the name of the set of images.
        descriptor: compares images.
        alignment: compares images with prompts; None to leave alignment out.
        references: the training images by index of the prompt, instead of those that the prompts
            name.
        medians: which median of an even number of values summaries and D_SSCD take.
        progress: called after each prompt.

    Returns:
        The metrics by index of the prompt.

    Raises:
        RunError: there is no such set of images, or the original images were made under other
            settings.
        MetricError: a generated image is missing or damaged. The metrics measured before are kept.
    """
    run = Run.of(run)
    comparison = _Comparison.of(run, name, references)
    metrics = make_metrics(Instruments(descriptor, alignment, medians))
    evaluation = _open_evaluation(run, name, comparison, metrics, medians)
    total = len(comparison.generated)
    with evaluation.writer(METRICS_FOLDER) as writer:
        # read under the lock, so nobody else writes now
        records = {
            index: record
            for index, record in read_metrics(evaluation).items()
            if record.originals == comparison.originals_of(index)
        }
        progress(len(records), total)
        for index in sorted(comparison.generated.keys() - records.keys()):
            training = read_references(comparison.prompt(index).images)
            images = comparison.images_of(index, training, descriptor)
            records[index] = PromptMetrics(
                values=measured(metrics, images),
                references=comparison.references_of(index, training),
                originals=comparison.originals_of(index),
                medians=medians,
            )
            writer.append({index: to_json(records[index])})
            progress(len(records), total)
    return dict(sorted(records.items()))


@dataclass(frozen=True, kw_only=True)
class _Comparison:
    """A set of images with everything it is compared with, by index of the prompt.

    Args:
        images: the run of the images.
        originals: the run of the images of the same prompts with nothing off, if there are any.
        generated: the records of ``images``.
        original: the records of ``originals``.
        prompts: the prompts of the run with their training images; none for other prompts.
        keep_files: whether records name the files of the training images.
        run_folder: the folder of the run, to which these names are relative.
    """

    images: Run
    originals: Run | None
    generated: Mapping[int, ImageRecord]
    original: Mapping[int, ImageRecord]
    prompts: Mapping[int, Prompt]
    keep_files: bool
    run_folder: Path

    @classmethod
    def of(
        cls, run: Run, name: str, references: Mapping[int, Sequence[Path]] | None
    ) -> _Comparison:
        """Gather what a set of images is compared with."""
        images, originals = _sets_to_compare(run, name)
        return cls(
            images=images,
            originals=originals,
            generated=read_images(images),
            original=read_images(originals) if originals else {},
            prompts={}
            if images.settings(ImageSetRun).on
            else _prompts_with_training_images(run, references),
            keep_files=references is not None,
            run_folder=run.folder,
        )

    def prompt(self, index: int) -> Prompt:
        """Return a prompt with its training images."""
        return self.prompts.get(index) or Prompt(self.generated[index].prompt)

    def images_of(
        self, index: int, training: TrainingImages, descriptor: Descriptor
    ) -> PromptImages:
        """Read the images of a prompt.

        Raises:
            MetricError: a generated image is missing or damaged.
        """
        return PromptImages(
            prompt=self.prompt(index),
            generated=_read(self.images, self.generated[index].files),
            originals=_read(self.originals, self.originals_of(index)) if self.originals else (),
            training=training.images,
            descriptor=descriptor,
        )

    def originals_of(self, index: int) -> tuple[str, ...]:
        """Return the files of the original images of a prompt; none if they do not exist yet."""
        original = self.original.get(index)
        return original.files if original else ()

    def references_of(self, index: int, training: TrainingImages) -> References | None:
        """Record which training images a prompt was compared with; None if none is known."""
        paths = self.prompt(index).images
        if not paths:
            return None
        return References(
            used=len(training.images),
            missing=training.missing,
            unreadable=training.unreadable,
            files=tuple(StoredImage.of(path, self.run_folder) for path in paths)
            if self.keep_files
            else (),
        )

    def hash_of_references(self) -> str:
        """Hash the names and contents of all training images, so that new ones are noticed."""
        return hash_texts(
            f"{index} {path.name} {hash_of_file(path)}"
            for index in sorted(self.prompts)
            for path in self.prompts[index].images
        )


def _sets_to_compare(run: Run, name: str) -> tuple[Run, Run | None]:
    """Return the run of a set of images, and that of the original images of the same prompts."""
    images = image_set(run, name)
    on = images.settings(ImageSetRun).on
    originals = image_sets(run).get(name_on(ORIGINAL, on))
    if originals is None:
        log.warning(
            "%s: there are no original images of the same prompts, "
            "so it cannot be measured how much %s changes",
            run.folder,
            name,
        )
    else:
        _refuse_other_settings(images, originals)
    return images, originals


def _refuse_other_settings(images: Run, originals: Run) -> None:
    """Refuse original images of other seeds, steps or guidance."""
    for name, here, there in images.manifest.differences(originals.manifest):
        if name.partition(".")[0] not in _MAY_DIFFER:
            raise RunError(
                f"{images.folder}: made with {name} = {here}, the original images with {there}: "
                "they cannot be compared. Delete one of the two folders and generate it again."
            )


def _prompts_with_training_images(
    run: Run, references: Mapping[int, Sequence[Path]] | None
) -> dict[int, Prompt]:
    prompts = dict(enumerate(run_prompts(run)))
    if references is None:
        return prompts
    return {
        index: replace(prompt, images=tuple(references.get(index, ())))
        for index, prompt in prompts.items()
    }


def _open_evaluation(
    run: Run,
    name: str,
    comparison: _Comparison,
    metrics: Mapping[str, Metric],
    medians: MedianName,
) -> Run:
    """Open the run of the metrics; start again if something else measured, or other images."""
    images, originals = comparison.images, comparison.originals
    settings = EvaluationRun(
        images=images.settings(ImageSetRun),
        original=originals.settings(ImageSetRun) if originals else None,
        metrics=tuple(map(MeasuredMetric.of, metrics.values())),
        references=comparison.hash_of_references(),
        medians=medians,
    )
    folder = run.folder / METRICS_FOLDER / name
    # a killed process may have left a folder without a manifest
    if (folder / MANIFEST).exists() and Run.load(folder).settings(EvaluationRun) != settings:
        shutil.rmtree(folder)
    return Run.open(
        folder,
        settings,
        inputs=images.manifest.inputs,
        model=images.manifest.model,
        items=images.manifest.items,
    )


def _read(images: Run, files: Sequence[str]) -> tuple[Image.Image, ...]:
    return tuple(read_image(images.folder / file) for file in files)
