"""The record that localization leaves for a prompt."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from torch import Tensor

from unmemorize._errors import RunError
from unmemorize._files import from_json, to_json
from unmemorize.detection import Detection, Protocol, SimilarityName
from unmemorize.localization._settings import Criterion, RefinementMethod
from unmemorize.neurons import Neurons


@dataclass(frozen=True)
class Spent:
    """The cost of a stage.

    Args:
        work: denoiser samples, each weighted by the share of the denoiser's multiply-adds that ran.
        seconds: wall time.
    """

    work: float
    seconds: float


@dataclass(frozen=True)
class Trial:
    """One test of a set of neurons.

    Args:
        off: how many neurons were off.
        score: the score with them off. If the test ended early, the score is at least this. If
            only a few seeds ran, to find a step of the selection, they let this score expect.
        below: whether the score stayed below the limit.
    """

    off: int
    score: float
    below: bool


@dataclass(frozen=True)
class Effects:
    """How much neurons change the prediction, compared with ordinary neurons.

    Args:
        measured_by: "backward": estimated by backward passes, and measured by forward passes where
            the estimate is near the noise level. "forward": by forward passes of groups, because
            there was no usable backward pass.
        level: the noise level: how much ordinary neurons of the searched layers change the
            prediction when each is switched off alone, as the 2-norm of the change of the noise
            difference.
        changes: layer -> for each neuron of `Localization.neurons`, how much it changes the
            prediction: when it is switched off alone, or when it alone of all candidates is on,
            whichever is more.
    """

    measured_by: Literal["backward", "forward"]
    level: float
    changes: Mapping[str, tuple[float, ...]]


@dataclass(frozen=True, kw_only=True)
class Localization:
    """The neurons found for a prompt, and how they were found.

    A prompt that is not memorized has no neurons.

    Args:
        prompt: the text.
        group: the group of the prompt.
        detection: the detection of the prompt; None for an imported record, which has none.
        initial: the neurons of the initial selection.
        neurons: those of them that refinement left off.
        why_empty: why no neurons were found although the prompt is memorized; empty otherwise.
        initial_score: the score with the initial neurons off; None if nothing was localized.
        score: the score with ``neurons`` off; None if nothing was localized.
        tau: the score at which the initial selection ended.
        threshold: what the score had to stay below in refinement. If theta was exhausted, this is
            the initial score. For a relative test it is the relative threshold.
        theta: the last theta of the initial selection.
        top_k: the last k of the initial selection.
        theta_exhausted: whether theta or k ran out before the score fell to tau. The copy may then
            survive with all candidates off. None if unknown.
        z_scores: layer -> z-scores of ``neurons``, in their order.
        refinement: the method of refinement; None for an imported record.
        minimal: whether no single one of ``neurons`` can be switched back on; None if that was not
            tested, as in refinement "complete".
        effects: how much ``neurons`` change the prediction; None if that was not measured.
        criterion: what counted as still memorized.
        floor: with the criterion "auto", whether the score of "unblocked" stayed above the
            threshold with all searched neurons off. ``criterion`` is then "seeds". None where this
            was not tried.
        seeds: the seeds that localization looked at, those above the threshold's level. Empty if
            nothing was localized.
        seeds_unfiltered: whether no seed was above the level, so ``seeds`` are all of them.
        protocol: which timestep was evaluated, and which details follow the published code.
        similarity: how noise differences were compared, see `NoiseSettings`.
        kernel: the kernel size of MS-SSIM, in pixels.
        evaluations: denoiser samples spent, including detection; None for an imported record.
        work: the same, each weighted by the share of the denoiser's multiply-adds that ran.
        spent: stage ("detection", "criterion" if it was chosen, "selection", "refinement") -> its
            cost.
        trials: stage -> its tests, in order. Tests answered without the denoiser are left out.
        recorded_bytes: the most memory that recorded outputs of the denoiser took, see
            docs/method.md.
        seconds: wall time, including detection; None for an imported record.
        differences: noise differences of some memorized seeds in [0, 1], to look at; they are not
            part of the JSON. Shape (1 or 2, seeds, C, H, W): with nothing off, and, if they were
            computed anyway, with ``neurons`` off.
    """

    prompt: str
    group: str
    detection: Detection | None
    initial: Neurons = field(default_factory=Neurons)
    neurons: Neurons = field(default_factory=Neurons)
    why_empty: str = ""
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
    effects: Effects | None = None
    criterion: Criterion
    floor: bool | None = None
    seeds: tuple[int, ...] = ()
    seeds_unfiltered: bool = False
    protocol: Protocol
    similarity: SimilarityName = "fixed"
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
        """Whether the prompt was called memorized.

        For an imported record: whether neurons were found.
        """
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
