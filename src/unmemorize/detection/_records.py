"""What detection leaves on record for a prompt."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Detection:
    """How memorized a prompt looks before any localization.

    Args:
        prompt: the text.
        group: of the prompt.
        score: the highest similarity between two seeds.
        mean: the mean over all pairs of seeds.
        tau: the threshold of the score.
        memorized_seeds: the seeds whose highest similarity is above tau.
        seeds: how many were compared; a cascade may stop early, and its scores are of fewer seeds then.
        evaluations: denoiser sample evaluations spent.
        seconds: wall time.
    """

    prompt: str
    group: str
    score: float
    mean: float
    tau: float
    memorized_seeds: tuple[int, ...]
    seeds: int
    evaluations: int
    seconds: float

    @property
    def memorized(self) -> bool:
        """Whether at least one seed passes the filter."""
        return bool(self.memorized_seeds)
