"""Settings of localization. The defaults are the paper's, except for the refinement and a floor."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

import msgspec

from unmemorize._checked import check_fields
from unmemorize._errors import ModelError
from unmemorize.detection import SEED_SIMILARITY, DetectionLevel, NoiseSettings
from unmemorize.neurons import check_scale

Criterion = Literal["unblocked", "seeds"]
ChosenCriterion = Literal["auto", "unblocked", "seeds"]
RefinementMethod = Literal["complete", "bisect", "greedy"]
MOST_STEPS = 10_000
"""Steps in which theta may fall where nothing else ends the selection. Each may take a pass."""
Similarity = Annotated[float, msgspec.Meta(gt=0, lt=1)]


@dataclass(frozen=True, kw_only=True)
class LocalizationSettings:
    """Settings of step 3.

    Args:
        noise: how noise differences are made.
        criterion: what counts as still memorized. "unblocked" (paper): the blocked noise difference
            of a seed resembles the unblocked one. "seeds": the blocked noise differences of
            different seeds resemble each other. "auto": "unblocked", unless the prompt has a floor
            there: its score stays above the threshold with all searched neurons off. Then "seeds".
            With a threshold below, "auto" is "unblocked".
        refinement: which candidates stay off. "complete": all that change the prediction more than
            ordinary neurons do. "bisect": few that suffice for the score, found in groups.
            "greedy": few that suffice, found layer by layer and neuron by neuron, as in the paper.
        layers: the value layers to search: "default" (down and middle blocks), "all", or a pattern.
        theta: the z-score above which a neuron is a candidate at first.
        theta_step: how much theta falls, while k grows by one, at each step of the selection.
        theta_floor: where theta stops falling.
        top_k: the number of most active neurons of each layer that are candidates at first.
        use_theta: whether neurons above theta are candidates (without it: an ablation of the
            paper, where only the width of the layers ends the selection).
        use_top_k: whether the most active neurons are candidates (without it: an ablation of the
            paper).
        scale: what the outputs of switched-off neurons are multiplied by, in (-1e6, 1e6).
        seed_threshold: the similarity above which a seed counts as memorized, instead of tau. With
            the detector seed-similarity, a prompt is memorized if a seed is.
        initial_threshold: the score at which the initial selection ends, instead of the threshold
            of the criterion.
        refinement_threshold: the score below which refinement may switch neurons back on, instead
            of the threshold of the criterion. Refinement "complete" does not use scores.
        relative_threshold: another test for refinement: how much the score of each seed may differ
            from its score with all candidates off, as a fraction of the latter. Criterion
            "unblocked" only, and not with refinement "complete".

    Raises:
        ModelError: a value is of another type or out of range, or two settings exclude each other.
        NeuronError: the scale is out of its range.

    Examples:
        >>> LocalizationSettings(top_k=-1)
        Traceback (most recent call last):
        unmemorize.ModelError: top_k=-1: expected `int` >= 0. Choose such a value.
    """

    noise: NoiseSettings = field(default_factory=NoiseSettings)
    criterion: ChosenCriterion = "auto"
    refinement: RefinementMethod = "complete"
    layers: str = "default"
    theta: float = 5.0
    theta_step: Annotated[float, msgspec.Meta(gt=0)] = 0.25
    theta_floor: float = 1.0
    top_k: Annotated[int, msgspec.Meta(ge=0)] = 0
    use_theta: bool = True
    use_top_k: bool = True
    scale: float = 0.0
    seed_threshold: Similarity | None = None
    initial_threshold: Similarity | None = None
    refinement_threshold: Similarity | None = None
    relative_threshold: Similarity | None = None

    @classmethod
    def published(cls) -> LocalizationSettings:
        """Make the settings of the published code, from the similarity to the refinement.

        Examples:
            >>> LocalizationSettings.published().refinement
            'greedy'
        """
        return cls(noise=NoiseSettings.published(), criterion="unblocked", refinement="greedy")

    def __post_init__(self) -> None:
        check_fields(self, ModelError)
        check_scale(self.scale)
        if self.theta <= self.theta_floor:
            raise ModelError(
                f"theta={self.theta}: must be above theta_floor={self.theta_floor}, since it falls "
                "to it. Choose a lower floor."
            )
        if not (self.use_theta or self.use_top_k):
            raise ModelError(
                "use_theta=False, use_top_k=False: nothing would be a candidate. "
                "Leave one of the two on."
            )
        for name in ("refinement_threshold", "relative_threshold"):
            if self.refinement == "complete" and getattr(self, name) is not None:
                raise ModelError(
                    f"{name}={getattr(self, name)}: refinement=complete compares no scores. "
                    "Choose the refinement bisect or greedy, or leave the threshold out."
                )
        if self.relative_threshold is not None and self.refinement_threshold is not None:
            raise ModelError(
                f"relative_threshold={self.relative_threshold}, "
                f"refinement_threshold={self.refinement_threshold}: they are two tests for the "
                "same step. Choose one of the two thresholds."
            )
        if self.relative_threshold is not None and self.criterion == "seeds":
            raise ModelError(
                f"relative_threshold={self.relative_threshold}: it compares scores seed by seed, "
                'which criterion="seeds" does not have. Choose the criterion unblocked.'
            )

    def refuse_many_steps(self) -> None:
        """Refuse a fall of theta that would take very long.

        Runs of earlier versions may hold such settings, and have ended on prompts that pass early.

        Raises:
            ModelError: there are more than `MOST_STEPS` steps.
        """
        steps = (self.theta - self.theta_floor) / self.theta_step
        if self.use_theta and not self.use_top_k and steps > MOST_STEPS:
            raise ModelError(
                f"theta_step={self.theta_step}: theta={self.theta} would fall to "
                f"theta_floor={self.theta_floor} in {steps:.3g} steps, and at most {MOST_STEPS} "
                "are tried. Choose a larger step."
            )

    @property
    def is_published(self) -> bool:
        """Whether all that `published` sets is as it says."""
        ours, theirs = (
            (each.noise.similarity, each.noise.protocol, each.criterion, each.refinement)
            for each in (self, LocalizationSettings.published())
        )
        return ours == theirs

    def detection_level(self, calibrated: DetectionLevel) -> DetectionLevel:
        """Return the level above which prompts are called memorized.

        Args:
            calibrated: the level of the threshold. A seed threshold takes its place where both are
                similarities of seeds, and bounds no rate of false positives.
        """
        if self.seed_threshold is None or calibrated.detector != SEED_SIMILARITY:
            return calibrated
        return DetectionLevel(tau=self.seed_threshold, reduction="given")
