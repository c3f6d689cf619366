"""Distances between sets of images and real ones: RUN/quality.jsonl, a `QualityRecord` a line."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from unmemorize._errors import RunError
from unmemorize._files import from_json, to_json
from unmemorize.engines import Progress, silent
from unmemorize.generation import ImageSetRun, image_set
from unmemorize.metrics._images import image_files
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

    def replaces(self, other: QualityRecord) -> bool:
        """Whether the other record answers the same question."""
        return (self.set, self.against, self.extractor_sha256) == (
            other.set,
            other.against,
            other.extractor_sha256,
        )


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
    is replaced.

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
    folders = [Path(real), *(images.folder for images in sets.values())]
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
            against=Path(real).name,
            kind=extractor.kind,
            extractor=extractor.name,
            extractor_sha256=extractor.digest,
            fid=distances.fid,
            kid=distances.kid,
            kid_std=distances.kid_std,
            generated=distances.generated,
            real=distances.real,
        )
        records = read_quality(run)
        earlier = [index for index, other in records.items() if record.replaces(other)]
        run.append(_QUALITY, earlier[0] if earlier else len(records), to_json(record))


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
