"""Metrics of the images of a run, prompt by prompt.

RUN/metrics/NAME/    of the images RUN/images/NAME: a run of its own, see `evaluate_all`
RUN/quality.jsonl    distances of sets of images from real ones, see `quality_all`
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar

from unmemorize._errors import RunError
from unmemorize._files import hash_texts
from unmemorize._progress import Progress, silent
from unmemorize.generation import ImageSetRun, image_sets
from unmemorize.metrics._alignment import ClipAlignment
from unmemorize.metrics._copies import copy_scores, diversity, seedwise_similarity
from unmemorize.metrics._descriptor import Descriptor
from unmemorize.metrics._images import image_files, read_image, read_references
from unmemorize.metrics._masked import layout_mask, masked_copy_scores
from unmemorize.metrics._quality import FeatureExtractor, features_of, quality
from unmemorize.runs import Run, run_prompts

log = logging.getLogger(__name__)

_ORIGINAL = "original"
_MAY_DIFFER = ("neurons", "scale", "pool", "format")


@dataclass(frozen=True, kw_only=True)
class EvaluationRun:
    """What determines the metrics of a set of images.

    Args:
        images, original: how the images, and those with nothing off, were made.
        descriptor, descriptor_sha256: what compares images.
        clip, clip_sha256: what compares images and prompts.
        references: a hash of the training images.
    """

    kind: ClassVar[str] = "metrics"

    images: ImageSetRun
    original: ImageSetRun | None
    descriptor: str
    descriptor_sha256: str
    clip: str | None
    clip_sha256: str | None
    references: str


def evaluate_all(
    run: Run,
    name: str,
    *,
    descriptor: Descriptor,
    alignment: ClipAlignment | None,
    references: Mapping[int, Sequence[Path]] | None = None,
    progress: Progress = silent,
) -> dict[int, dict[str, Any]]:
    """Metrics of every prompt of a set of images, by index of the prompt.

    Args:
        run: a localization run with images.
        name: of the set of images.
        descriptor: for copies and diversity.
        alignment: for the alignment of image and prompt.
        references: the training images by index of the prompt, instead of those that the prompts name.
        progress: called after each prompt.

    Returns:
        Per prompt what can be told: the lists over seeds ``sscd_gen`` (to the image of the same seed with nothing off), ``sscd_orig`` (to
        the closest training image), ``masked`` (the same over the layout; TM prompts only) and ``alignment``, the number ``diversity``,
        and ``references``: how many training images were compared with, and the names of those missing and unreadable. Metrics that were
        taken with another descriptor or CLIP, or other training images, are replaced.

    Raises:
        RunError: there are no images of the set, or the original ones were made under other settings.
        MetricError: a generated image is missing or damaged.
    """
    sets = image_sets(run)
    if name not in sets:
        raise RunError(
            f"{run.folder}: there are no images {name}. First: unmemorize generate {run.folder}"
        )
    ours = sets[name]
    made = ours.settings(ImageSetRun)
    original = sets.get(f"{_ORIGINAL}-on-{made.on}" if made.on else _ORIGINAL)
    if original is None:
        log.warning(
            "%s: no original images of the same prompts, so nothing tells how much %s changes",
            run.folder,
            name,
        )
    else:
        _check_comparable(ours, original)
    prompts = {} if made.on else dict(enumerate(run_prompts(run)))
    paths = {
        index: list((references or {}).get(index, ()))
        if references is not None
        else prompts[index].images
        for index in prompts
    }
    settings = EvaluationRun(
        images=made,
        original=original.settings(ImageSetRun) if original else None,
        descriptor=descriptor.name,
        descriptor_sha256=descriptor.digest,
        clip=alignment.name if alignment else None,
        clip_sha256=alignment.digest if alignment else None,
        references=hash_texts(
            f"{index} {path.name} {_size(path)}" for index in sorted(paths) for path in paths[index]
        ),
    )
    files, before_files = ours.records("images"), original.records("images") if original else {}

    def one(index: int) -> dict[str, Any]:
        images = [read_image(ours.folder / file) for file in files[index]["files"]]
        before = (
            [read_image(original.folder / file) for file in before_files[index]["files"]]
            if original and index in before_files
            else []
        )
        embeddings = descriptor(images)
        record: dict[str, Any] = {}
        if before:
            record["sscd_gen"] = seedwise_similarity(embeddings, descriptor(before)).tolist()
        if len(images) > 1:
            record["diversity"] = diversity(embeddings)
        if paths.get(index):
            training = read_references(paths[index])
            record["references"] = {
                "used": len(training.images),
                "missing": training.missing,
                "unreadable": training.unreadable,
            }
            if references is not None:  # for the report
                record["references"]["paths"] = [str(path.absolute()) for path in paths[index]]
            if training.images:
                record["sscd_orig"] = copy_scores(embeddings, descriptor(training.images)).tolist()
            alike = training.images if len(training.images) > 1 else before
            if training.images and prompts[index].kind == "TM" and len(alike) > 1:
                record["masked"] = masked_copy_scores(images, training.images, layout_mask(alike))
        if alignment is not None:
            record["alignment"] = alignment(images, files[index]["prompt"]).tolist()
        return record

    folder = run.folder / "metrics" / name
    inputs = ours.manifest.inputs
    if folder.exists() and Run.load(folder).settings(EvaluationRun) != settings:
        shutil.rmtree(folder)  # measured by something else, or with other training images
    metrics = Run.open(
        folder, settings, inputs=inputs, model=ours.manifest.model, items=ours.manifest.items
    )
    records = metrics.records("metrics")
    progress(len(records), len(files))
    with metrics.writer("metrics") as writer:
        for index in sorted(files.keys() - records.keys()):
            records[index] = one(index)
            writer.append({index: records[index]})
            progress(len(records), len(files))
    return dict(sorted(records.items()))


def quality_all(
    run: Run,
    names: Iterable[str],
    real: str | Path,
    extractor: FeatureExtractor,
    *,
    progress: Progress = silent,
) -> None:
    """The distances between sets of images and a folder of real ones, a line of RUN/quality.jsonl for each set.

    Args:
        run: a run with images.
        names: of the sets.
        real: the folder.
        extractor: what looks at the images.
        progress: called with the images done.

    Raises:
        MetricError: the folder holds no images, or there are too few of either.
    """
    sets = image_sets(run)
    groups = [image_files(real), *(image_files(sets[name].folder) for name in names)]
    total, before = sum(map(len, groups)), 0
    features = []

    def report(some: int, _of: int | None) -> None:
        progress(before + some, total)

    for group in groups:
        features.append(features_of(group, extractor, progress=report))
        before += len(group)
    seen, against = (
        {"extractor": extractor.name, "extractor_sha256": extractor.digest},
        Path(real).name,
    )
    for name, generated in zip(names, features[1:], strict=True):
        which = {
            "set": name,
            "on": sets[name].settings(ImageSetRun).on,
            "against": against,
            "kind": extractor.kind,
        }
        record = {**which, **seen, **asdict(quality(generated, features[0]))}
        known = run.records("quality")
        same = [
            index
            for index, other in known.items()
            if all(other[key] == record[key] for key in ("set", "against", "extractor_sha256"))
        ]
        run.append("quality", same[0] if same else len(known), record)


def _check_comparable(ours: Run, original: Run) -> None:
    for name, here, there in ours.manifest.differences(original.manifest):
        if name not in _MAY_DIFFER:
            raise RunError(
                f"{ours.folder}: made with {name} = {here}, the original images with {there}: "
                "they cannot be compared. Delete one of the two folders and generate it again."
            )


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else -1
