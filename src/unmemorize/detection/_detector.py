"""The interface of detectors, which tell from a few denoiser passes what is memorized."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from typing import Any, Protocol, Self, cast, runtime_checkable

from torch import Tensor

from unmemorize._checked import check_fields
from unmemorize._errors import ModelError, ThresholdError
from unmemorize._files import to_json
from unmemorize.detection._moment import Moment
from unmemorize.detection._trace import Trace


@dataclass(frozen=True, kw_only=True)
class Score:
    """What a detector says of one prompt.

    Args:
        value: the score. A higher one means more memorized.
        samples: denoiser samples that the prompt takes alone. Products with a Jacobian and
            backward passes count as one more each.
        seeds: the seeds that were looked at, in this order.
        pairs: the similarity of each pair of these seeds, in the order of `pairs_of`; empty for
            detectors that do not compare seeds.
        shared: further samples, which all prompts share: predictions without text on untouched
            noise.
        parts: what the score is made of, for detectors that weigh several quantities.

    Raises:
        ModelError: the value is NaN or infinite.
    """

    value: float
    samples: int
    seeds: tuple[int, ...]
    pairs: tuple[float, ...] = ()
    shared: int = 0
    parts: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if not math.isfinite(self.value):
            raise ModelError(
                f"a score is {self.value}, not a finite number. In half precision derivatives may "
                "overflow: load the model with --dtype float32."
            )


class Detector(Protocol):
    """Scores prompts from a trace of the denoiser.

    A detector that is a dataclass has its fields as settings. They travel with each threshold.
    Add one by a class in a module of its own and an entry point of the group
    ``unmemorize.detectors``; see docs/extending.md.
    """

    @property
    def name(self) -> str:
        """The name in thresholds, records and options."""
        ...

    def score(self, trace: Trace) -> Sequence[Score]:
        """Score every prompt of the trace, in its order."""
        ...


@runtime_checkable
class Weighing(Detector, Protocol):
    """A detector that adds up quantities in units of their spread over ordinary prompts."""

    def fitted(self, parts: Sequence[tuple[float, ...]]) -> Self:
        """Return the detector with the units that `Score.parts` of ordinary prompts give."""
        ...

    def weigh(self, parts: tuple[float, ...]) -> float:
        """Return the score of the parts."""
        ...


@runtime_checkable
class Locating(Detector, Protocol):
    """A detector that also says where in the image a prompt is memorized."""

    def maps(self, trace: Trace) -> Tensor:
        """Return a map for each prompt, (prompts, h, w): high where the image is memorized."""
        ...


def settings_of(detector: Detector) -> Mapping[str, Any]:
    """Return the settings of a detector as plain JSON values."""
    settings: Mapping[str, Any] = to_json(detector) if is_dataclass(cast(Any, detector)) else {}
    return settings


def fitted_settings(detector: Detector) -> set[str]:
    """Return which settings a calibration finds."""
    settings = fields(cast(Any, detector)) if is_dataclass(cast(Any, detector)) else ()
    return {field.name for field in settings if field.metadata.get("fitted")}


def watched_by(*detectors: Detector) -> set[Moment]:
    """Return the moments at which detectors will ask a trace for attention.

    These are what detectors that read attention have as ``watched``.
    """
    return {moment for detector in detectors for moment in getattr(detector, "watched", ())}


def check_settings(detector: Any) -> None:
    """Check the settings of a detector that looks at a number of seeds.

    Raises:
        ThresholdError: a setting is of another type than its annotation, or there is no seed.
    """
    check_fields(detector, ThresholdError)
    if detector.seeds < 1:
        raise ThresholdError(f"seeds={detector.seeds}: at least 1 is needed.")


def make_scores(values: Tensor, seeds: int, *, samples: int, shared: int = 0) -> list[Score]:
    """Make the scores of prompts that look at the first seeds.

    Args:
        values: the score of each seed, (prompts, seeds), whose mean is that of the prompt.
        seeds: how many seeds.
        samples, shared: denoiser samples for each seed, see `Score`.
    """
    return [
        Score(
            value=value,
            samples=samples * seeds,
            shared=shared * seeds,
            seeds=tuple(range(seeds)),
        )
        for value in values.cpu().double().mean(1).tolist()
    ]
