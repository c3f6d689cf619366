"""What detection and localization leave on record for a prompt."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor

from unmemorize._errors import RunError
from unmemorize._files import from_json, to_json
from unmemorize.detection import Detection, Protocol
from unmemorize.localization._settings import Criterion, RefinementMethod
from unmemorize.neurons import Neurons


@dataclass(frozen=True)
class Spent:
    """What a stage took.

    Args:
        work: denoiser samples, each weighted by the share of the denoiser's multiply-adds that ran.
        seconds: wall time.
    """

    work: float
    seconds: float


@dataclass(frozen=True)
class Trial:
    """A set of neurons that was switched off to see the score.

    Args:
        off: how many neurons.
        score: with them off; where it was seen to be too high before all seeds had run, at least this.
        below: whether it stayed below the limit.
    """

    off: int
    score: float
    below: bool


@dataclass(frozen=True, kw_only=True)
class Localization:
    """The neurons found for a prompt and how they were found; for a prompt that is not memorized, none.

    Args:
        prompt: the text.
        group: of the prompt.
        detection: of the prompt; None for an imported record, which does not say.
        initial: neurons of the initial selection.
        neurons: what refinement left of them.
        initial_score, score: with the initial, with the refined neurons off; None where nothing was localized.
        tau: the score at which the initial selection ended.
        threshold: what the score of a refined set had to stay below; at the floor the initial score.
        theta, top_k: the last ones of the initial selection.
        theta_exhausted: theta or k ran out before the score fell to tau, so the copy may survive with all candidates off; None when unknown.
        z_scores: layer -> z-scores of ``neurons``, in their order.
        refinement: how the initial neurons were thinned out; None for an imported record.
        minimal: whether no single one of ``neurons`` can be switched back on; None where nothing was localized.
        criterion, protocol, kernel: how similarity was judged, with MS-SSIM kernel size.
        evaluations: denoiser samples spent, detection included; None for an imported record.
        work: the same, each weighted by the share of the denoiser's multiply-adds that ran.
        spent: by stage: detection, selection, refinement.
        trials: by stage what was tried, in order; what was known without the denoiser is not among them.
        recorded_bytes: the most memory that recorded outputs of the denoiser took, see docs/method.md.
        seconds: wall time, detection included; None for an imported record.
        differences: noise differences of some kept seeds in [0, 1], (1 or 2, seeds, C, H, W): with nothing off, and where they were
            computed anyway with ``neurons`` off; to look at, no part of the record.
    """

    prompt: str
    group: str
    detection: Detection | None
    initial: Neurons = field(default_factory=Neurons)
    neurons: Neurons = field(default_factory=Neurons)
    initial_score: float | None = None
    score: float | None = None
    tau: float | None = None
    threshold: float | None = None
    theta: float | None = None
    top_k: int | None = None
    theta_exhausted: bool | None = False
    z_scores: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    refinement: RefinementMethod | None = None
    minimal: bool | None = None
    criterion: Criterion
    protocol: Protocol
    kernel: int
    evaluations: int | None
    work: float | None
    spent: Mapping[str, Spent] = field(default_factory=dict)
    trials: Mapping[str, tuple[Trial, ...]] = field(default_factory=dict)
    recorded_bytes: int = 0
    seconds: float | None
    differences: Tensor | None = field(default=None, compare=False, repr=False)

    @property
    def memorized(self) -> bool:
        """Whether at least one seed passed the filter; of an imported record, whether neurons were found."""
        return self.detection.memorized if self.detection else bool(self.initial)

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values, without ``differences``."""
        values: dict[str, Any] = to_json(replace(self, differences=None))
        del values["differences"]
        return values

    @classmethod
    def from_json(cls, value: Any) -> Localization:
        """Make the record from its JSON object.

        Raises:
            RunError: a field is missing or of another type.
        """
        way_out = "Run the command again in a new folder."
        return from_json(cls, value, RunError, "malformed localization record", way_out)
