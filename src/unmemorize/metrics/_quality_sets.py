"""Distances between sets of images and real ones: RUN/quality.jsonl, a `QualityRecord` a line."""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from unmemorize._errors import RunError
from unmemorize._files import from_json, hash_texts, to_json
from unmemorize.engines import Progress, silent
from unmemorize.generation import ImageSetRun, image_set, image_sets
from unmemorize.metrics._images import image_files, images_in
from unmemorize.metrics._quality import FeatureExtractor, features_of, quality
from unmemorize.runs import Run

_QUALITY = "quality"


@dataclass(frozen=True, kw_only=True)
class QualityRecord:
    """The distances between a set of images and a folder of real ones.

    Args:
        set: the name of the set.
        on: the name of its prompts; empty for those of the run.
        against: the name of the folder.
        folder: its absolute path, which tells folders of the same name apart, but not what is in
            it: each evaluation measures it again. Empty in records of earlier versions.
        images: a hash of how the images of the set came to be, and of the names of their files.
            Empty in records of earlier versions.
        kind: what the Fréchet distance is called.
        extractor, extractor_sha256: what computed the features.
        fid, kid, kid_std, generated, real: see `Quality`.
    """

    set: str
    on: str
    against: str
    kind: Literal["FID", "CLIP-FID"]
    extractor: str
    extractor_sha256: str
    fid: float
    kid: float
    kid_std: float
    generated: int
    real: int
    folder: str = ""
    images: str = ""

    def replaces(self, other: QualityRecord) -> bool:
        """Whether the other record answers the same question."""
        if (self.set, self.extractor_sha256) != (other.set, other.extractor_sha256):
            return False
        if other.folder:
            return self.folder == other.folder
        return other.against in (self.against, "")  # "." had no name


def quality_all(
    run: Run,
    names: Collection[str],
    real: str | Path,
    extractor: FeatureExtractor,
    *,
    progress: Progress = silent,
) -> None:
    """Measure the distances between sets of images and a folder of real images.

    A record is added to the run for each set; an earlier one of the same set, folder and extractor
    is replaced. Two folders are the same if they have the same path.

    Args:
        run: a run with images.
        names: the names of the sets.
        real: the folder.
        extractor: computes the features.
        progress: called with the number of images done.

    Raises:
        RunError: there is no such set of images.
        MetricError: the folder holds no images, or there are too few of either.
    """
    sets = {name: image_set(run, name) for name in names}
    real = Path(real)
    named = real.resolve() if real.name in ("", "..") else real  # "." has no name of its own
    folders = [real, *(images.folder for images in sets.values())]
    paths = [image_files(folder) for folder in folders]
    total, done = sum(map(len, paths)), 0
    features = []
    for group in paths:
        features.append(features_of(group, extractor, progress=_shifted(progress, done, total)))
        done += len(group)
    for name, generated in zip(sets, features[1:], strict=True):
        distances = quality(generated, features[0])
        record = QualityRecord(
            set=name,
            on=sets[name].settings(ImageSetRun).on,
            against=_as_text(named.name or str(named)),
            kind=extractor.kind,
            extractor=extractor.name,
            extractor_sha256=extractor.digest,
            fid=distances.fid,
            kid=distances.kid,
            kid_std=distances.kid_std,
            generated=distances.generated,
            real=distances.real,
            folder=_as_text(real.resolve()),
            images=_hash_of(sets[name]),
        )
        records = read_quality(run)
        earlier = [index for index, other in records.items() if record.replaces(other)]
        run.append(_QUALITY, earlier[0] if earlier else len(records), to_json(record))


def _as_text(path: str | Path) -> str:
    """Write out bytes of a path that are no UTF-8, which no record can hold."""
    return str(path).encode(errors="backslashreplace").decode()


def _hash_of(images: Run) -> str:
    """Hash what determines a set of images, and the names of its files."""
    manifest = images.manifest
    made_of = json.dumps([manifest.settings, to_json(manifest.inputs)], sort_keys=True)
    return hash_texts([made_of, *(path.name for path in images_in(images.folder))])


def _shifted(progress: Progress, done: int, total: int) -> Progress:
    """Report the progress of one group of images as that of all groups."""
    return lambda images, _of: progress(done + images, total)


def read_quality(run: Run) -> dict[int, QualityRecord]:
    """Read the distances that `quality_all` measured.

    Raises:
        RunError: a record is damaged.
    """
    return {
        index: from_json(
            QualityRecord,
            record,
            RunError,
            f"{run.folder}: damaged record of quality",
            "Delete quality.jsonl and evaluate again.",
        )
        for index, record in run.records(_QUALITY).items()
    }


def fitting_quality(run: Run) -> tuple[tuple[QualityRecord, ...], tuple[QualityRecord, ...]]:
    """Read the distances of images that are still there, and those of images that are not.

    Records of earlier versions do not tell of which images they are. They fit if the set has as
    many images as they say.

    Raises:
        RunError: a record is damaged.
    """
    sets = image_sets(run)
    hashes = {name: _hash_of(images) for name, images in sets.items()}

    def fits(record: QualityRecord) -> bool:
        if record.set not in sets:
            return False
        if record.images:
            return record.images == hashes[record.set]
        return len(images_in(sets[record.set].folder)) == record.generated

    fitting: list[QualityRecord] = []
    others: list[QualityRecord] = []
    for record in read_quality(run).values():
        (fitting if fits(record) else others).append(record)
    return tuple(fitting), tuple(others)
