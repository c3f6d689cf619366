"""Where in a run of the sampler a detector looks at the denoiser."""

from __future__ import annotations

from dataclasses import dataclass, replace

from unmemorize._errors import ThresholdError

STEPS = 50
"""Sampler steps of a run, as in nearly all published numbers."""
GUIDANCE = 7.5
"""The scale of classifier-free guidance of a run, as in nearly all published numbers."""


@dataclass(frozen=True)
class Moment:
    """A step of a run, and the sample that the denoiser receives there.

    Args:
        step: the step, from 0, the noisiest. Negative ones count from the end.
        steps: how many steps the run has.
        guidance: the scale of classifier-free guidance of the run so far. None feeds the untouched
            initial noise to the denoiser whatever the step is.

    Raises:
        ThresholdError: there is no such step.

    Examples:
        >>> Moment(-3).step, Moment(0, guidance=7.5) == Moment(0)
        (47, True)
    """

    step: int
    steps: int = STEPS
    guidance: float | None = None

    def __post_init__(self) -> None:
        if self.steps < 1 or not -self.steps <= self.step < self.steps:
            raise ThresholdError(
                f"step {self.step} of {self.steps}: there is none. Steps are counted from 0; use "
                "an earlier step, or more steps."
            )
        object.__setattr__(self, "step", self.step % self.steps)
        if self.step == 0:  # every run begins with untouched noise
            object.__setattr__(self, "guidance", None)

    def at(self, step: int, guidance: float | None) -> Moment:
        """Return another step of the same run."""
        return replace(self, step=step, guidance=guidance)
