"""What a localization can be told; the defaults are the paper's, except for the faster refinement."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from unmemorize._errors import ModelError
from unmemorize.detection import NoiseSettings

Criterion = Literal["unblocked", "seeds"]
RefinementMethod = Literal["bisect", "greedy"]


@dataclass(frozen=True, kw_only=True)
class LocalizationSettings:
    """Settings of step 3.

    Args:
        noise: how noise differences are made.
        criterion: what counts as still memorized. "unblocked" (paper): the blocked noise differences resemble the unblocked ones, seed
            by seed. "seeds": the blocked noise differences of different seeds resemble each other.
        refinement: how candidates are thinned out. "bisect": by groups, the neurons of the highest z-scores last, until none can go alone.
            "greedy": layer by layer and neuron by neuron in the paper's order.
        layers: the value layers searched: "default" (down and middle blocks), "all", or a pattern.
        theta: z-score above which a neuron is a candidate at first.
        theta_step: how much theta falls, and by how many k grows by one, while the score stays above the threshold.
        theta_floor: where theta stops falling.
        top_k: k at first.
        use_theta, use_top_k: whether the initial selection takes the neurons above theta, and the k most active ones (the paper's
            ablations; at least one of the two). Without theta only the width of the layers ends the selection.
        scale: what switched-off outputs are multiplied by.
        seed_threshold: the similarity above which a seed is kept, instead of the threshold's tau.
        initial_threshold: the score at which the initial selection ends, instead of the threshold of the criterion.
        refinement_threshold: the score below which refinement switches neurons on again, instead of the same.
        relative_threshold: refine by another test: over the seeds, the score with fewer neurons off is off by less than this fraction
            from that with all candidates off; criterion "unblocked" only.
    """

    noise: NoiseSettings = field(default_factory=NoiseSettings)
    criterion: Criterion = "unblocked"
    refinement: RefinementMethod = "bisect"
    layers: str = "default"
    theta: float = 5.0
    theta_step: float = 0.25
    theta_floor: float = 1.0
    top_k: int = 0
    use_theta: bool = True
    use_top_k: bool = True
    scale: float = 0.0
    seed_threshold: float | None = None
    initial_threshold: float | None = None
    refinement_threshold: float | None = None
    relative_threshold: float | None = None

    def __post_init__(self) -> None:
        if self.criterion not in ("unblocked", "seeds"):
            raise ModelError(f"criterion {self.criterion!r}: unknown. Use unblocked or seeds.")
        if self.refinement not in ("bisect", "greedy"):
            raise ModelError(f"refinement {self.refinement!r}: unknown. Use bisect or greedy.")
        if self.theta_step <= 0 or self.theta <= self.theta_floor:
            raise ModelError(
                f"theta {self.theta} to {self.theta_floor} by {self.theta_step}: theta must fall. Use a lower floor and a step above 0."
            )
        if self.top_k < 0:
            raise ModelError(f"top_k={self.top_k}: k counts neurons. Use 0 or more.")
        if not (self.use_theta or self.use_top_k):
            raise ModelError(
                "neither theta nor top-k selects candidates: nothing would be found. Leave one of the two on."
            )
        for name in (
            "seed_threshold",
            "initial_threshold",
            "refinement_threshold",
            "relative_threshold",
        ):
            value = getattr(self, name)
            if value is not None and not 0 < value < 1:
                raise ModelError(f"{name}={value}: must lie between 0 and 1, as similarities do.")
        if self.relative_threshold is not None and (
            self.refinement_threshold is not None or self.criterion == "seeds"
        ):
            raise ModelError(
                "a relative threshold compares scores seed by seed: it excludes a refinement threshold and the criterion seeds. "
                "Use the criterion unblocked, and one of the two thresholds."
            )
