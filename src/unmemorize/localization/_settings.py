"""What a localization can be told; the defaults are the paper's."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from unmemorize._errors import ModelError
from unmemorize._similarity import NoiseSettings

Criterion = Literal["unblocked", "seeds"]


@dataclass(frozen=True, kw_only=True)
class LocalizationSettings:
    """Settings of step 3.

    Args:
        noise: how noise differences are made.
        criterion: what counts as still memorized. "unblocked" (paper): the blocked noise differences resemble the unblocked ones, seed
            by seed. "seeds": the blocked noise differences of different seeds resemble each other.
        layers: the value layers searched: "default" (down and middle blocks), "all", or a pattern.
        theta: z-score above which a neuron is a candidate at first.
        theta_step: how much theta falls, and by how many k grows by one, while the score stays above the threshold.
        theta_floor: where theta stops falling.
        scale: what switched-off outputs are multiplied by.
    """

    noise: NoiseSettings = field(default_factory=NoiseSettings)
    criterion: Criterion = "unblocked"
    layers: str = "default"
    theta: float = 5.0
    theta_step: float = 0.25
    theta_floor: float = 1.0
    scale: float = 0.0

    def __post_init__(self) -> None:
        if self.criterion not in ("unblocked", "seeds"):
            raise ModelError(f"criterion {self.criterion!r}: unknown. Use unblocked or seeds.")
        if self.theta_step <= 0 or self.theta <= self.theta_floor:
            raise ModelError(
                f"theta {self.theta} to {self.theta_floor} by {self.theta_step}: theta must fall. Use a lower floor and a step above 0."
            )
