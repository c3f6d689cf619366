"""Ordinary guidance that starts some steps late: the control of Han's initial noise."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from unmemorize.generation import Drawing, DrawingCall, Plan
from unmemorize.methods._guidance import OtherGuidance, guided
from unmemorize.pipelines import Model

_STEPS = 50
PUBLISHED = 5.0
"""Steps without text of 50, those of Han's batch-wise method."""


@dataclass(frozen=True)
class DelayedGuidance(OtherGuidance):
    """Draws without text for the first steps, and with ordinary guidance after them.

    It is what Han's batch-wise method does besides its change of the noise, and so its control.

    Args:
        strength: steps without text of a run of 50 steps (0 to 50), the same share of other runs,
            rounded. Published within that method: 5 (steps 0 to 4).

    Source: the control of Han et al., NeurIPS 2025; it is ours.

    Examples:
        >>> DelayedGuidance().strength
        5.0
    """

    kind: ClassVar[str] = "delayed-guidance"
    grid: ClassVar[tuple[float, ...]] = (2.0, 5.0, 10.0, 15.0)
    span: ClassVar[tuple[float, float]] = (0.0, _STEPS)

    strength: float = PUBLISHED

    def plan(self, model: Model, drawing: Drawing) -> Plan:
        """See `Intervention`."""
        return Plan(drawing.noise, delayed(model, drawing, self.kind, self.strength))


@contextmanager
def delayed(model: Model, drawing: Drawing, method: str, steps_of_50: float) -> Iterator[None]:
    """Draw the first steps without text."""
    steps = round(steps_of_50 * drawing.steps / _STEPS)

    def scale(call: DrawingCall, difference: Tensor) -> Tensor:
        return difference.new_full(
            (len(difference),), 0.0 if call.step < steps else drawing.guidance
        )

    with guided(model, drawing, method, scale):
        yield
