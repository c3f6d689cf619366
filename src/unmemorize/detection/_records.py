"""What detection leaves on record for a prompt."""

from __future__ import annotations

from dataclasses import dataclass

from unmemorize.detection._similarity import SimilarityName
from unmemorize.detection._threshold import SEED_SIMILARITY


@dataclass(frozen=True, kw_only=True)
class Detection:
    """How memorized a prompt looks before any localization.

    Args:
        prompt: the text.
        group: the group of the prompt.
        detector: the name of the detector.
        similarity: how noise differences were compared, see `NoiseSettings`.
        score: its score. For seed similarity this is the highest similarity between two seeds.
        tau: the threshold of the score.
        memorized: whether the score is above tau.
        seeds: how many seeds were looked at. A cascade may stop early; its score is then one of
            fewer seeds.
        memorized_seeds: the seeds whose highest similarity is above tau, for detectors that
            compare seeds.
        mean: the mean similarity over all pairs of seeds, or None.
        evaluations: denoiser samples that the prompt takes.
        shared_evaluations: further ones, without text, that all prompts share.
        seconds: wall time.
    """

    prompt: str
    group: str
    detector: str = SEED_SIMILARITY
    similarity: SimilarityName = "fixed"
    score: float
    tau: float
    memorized: bool
    seeds: int
    memorized_seeds: tuple[int, ...] = ()
    mean: float | None = None
    evaluations: int
    shared_evaluations: int = 0
    seconds: float

    @property
    def measure(self) -> str:
        """What the score is, in words."""
        if self.detector == SEED_SIMILARITY:
            return "highest similarity between two seeds"
        return f"score of {self.detector}"
