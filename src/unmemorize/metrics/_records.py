"""Records of the metrics of a set of images: RUN/metrics/NAME, a run of its own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from unmemorize._errors import RunError
from unmemorize._files import from_json
from unmemorize.generation import ImageSetRun
from unmemorize.metrics._medians import MEDIANS, MedianName
from unmemorize.metrics._metric import Instrument, Metric, Values
from unmemorize.runs import Run, StoredImage

METRICS_FOLDER = "metrics"


@dataclass(frozen=True)
class MeasuredMetric:
    """A metric as it was when it measured.

    Args:
        name: the key of its values.
        label: what summaries call it.
        measured_by: what it measured with.
    """

    name: str
    label: str
    measured_by: Instrument

    @classmethod
    def of(cls, metric: Metric) -> MeasuredMetric:
        """Describe a metric."""
        return cls(metric.name, metric.label, metric.measured_by)


@dataclass(frozen=True, kw_only=True)
class EvaluationRun:
    """What determines the metrics of a set of images.

    Args:
        images: how the images were made.
        original: how those with nothing off were made; None if there are none.
        metrics: what was measured, in the order of summaries.
        references: a hash of the training images.
        medians: which median of an even number of values is taken.
    """

    kind: ClassVar[str] = METRICS_FOLDER

    images: ImageSetRun
    original: ImageSetRun | None
    metrics: tuple[MeasuredMetric, ...]
    references: str
    medians: MedianName = "middle"


@dataclass(frozen=True, kw_only=True)
class References:
    """The training images that the images of a prompt were compared with.

    Args:
        used: how many there are.
        missing: the names of those that were not found.
        unreadable: the names of those that could not be read.
        files: the files, if they are not those that the prompt names.
    """

    used: int
    missing: tuple[str, ...] = ()
    unreadable: tuple[str, ...] = ()
    files: tuple[StoredImage, ...] = ()


@dataclass(frozen=True, kw_only=True)
class PromptMetrics:
    """The metrics of the images of one prompt.

    Args:
        values: by name of the metric one number for each seed, or one for the prompt. Metrics that
            do not apply are left out.
        references: the training images; None if none is known for the prompt.
        originals: the files of the original images that there were; none if they did not exist yet.
        medians: which median of an even number of values is taken.

    Examples:
        >>> metrics = PromptMetrics(values={"sscd-orig": (0.9, 0.1, 0.2), "d-sscd": 0.4})
        >>> metrics.median("sscd-orig"), metrics.highest("sscd-orig"), metrics.median("d-sscd")
        (0.2, 0.9, 0.4)
        >>> metrics.median("a-clip") is None
        True
    """

    values: Mapping[str, Values]
    references: References | None = None
    originals: tuple[str, ...] = ()
    medians: MedianName = "middle"

    def seeds(self, name: str) -> tuple[float, ...]:
        """Return the values of a metric: one for each seed, one for the prompt, or none."""
        values = self.values.get(name, ())
        return values if isinstance(values, tuple) else (values,)

    def median(self, name: str) -> float | None:
        """Return the median over seeds; None if the metric does not apply."""
        values = self.seeds(name)
        return float(MEDIANS[self.medians](values)) if values else None

    def highest(self, name: str) -> float | None:
        """Return the highest value of a seed; None if the metric does not apply."""
        return max(self.seeds(name), default=None)


def read_metrics(evaluation: Run | str | Path) -> dict[int, PromptMetrics]:
    """Read the metrics of a set of images by index of the prompt.

    Args:
        evaluation: the run RUN/metrics/NAME, or its folder.

    Raises:
        RunError: a record is damaged.
    """
    evaluation = Run.of(evaluation)
    return {
        index: from_json(
            PromptMetrics,
            record,
            RunError,
            f"{evaluation.folder}: damaged record of prompt {index}",
            f"Delete {evaluation.folder} and evaluate again.",
        )
        for index, record in evaluation.records(METRICS_FOLDER).items()
    }
