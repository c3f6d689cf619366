"""What detection leaves on record for a prompt."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

from unmemorize._errors import RunError


@dataclass(frozen=True, kw_only=True)
class Detection:
    """How memorized a prompt looks before any localization.

    Args:
        prompt: the text.
        group: of the prompt.
        score: the highest similarity between two seeds.
        mean: the mean over all pairs of seeds.
        tau: the threshold of the score.
        kept: the seeds whose highest similarity is above tau.
        seeds: how many were compared; a cascade may stop early, and its scores are of fewer seeds then.
        evaluations: denoiser sample evaluations spent.
        seconds: wall time.
    """

    prompt: str
    group: str
    score: float
    mean: float
    tau: float
    kept: tuple[int, ...]
    seeds: int
    evaluations: int
    seconds: float

    @property
    def memorized(self) -> bool:
        """Whether at least one seed passes the filter."""
        return bool(self.kept)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """The record from its JSON object.

        Raises:
            RunError: a field is missing or unknown.
        """
        try:
            return cls(**{**value, "kept": tuple(value["kept"])})
        except (KeyError, TypeError) as problem:
            raise RunError(
                f"malformed detection record ({problem}). Run the command again in a new folder."
            ) from problem
