"""Guidance that starts late: Jain's static transition point, with and without opposite guidance."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from unmemorize.generation import Drawing, DrawingCall, Plan
from unmemorize.methods._guidance import OtherGuidance, guided
from unmemorize.pipelines import Model

_TIMESTEPS = 1000
OPPOSITE_UNTIL = 650.0
"""The published timestep down to which opposite guidance lasts."""


@dataclass(frozen=True)
class StaticGuidance(OtherGuidance):
    """Draws without text until a fixed timestep, and with ordinary guidance from there on.

    Args:
        strength: the last timestep without guidance is above it, of 1,000 timesteps (0 to 1000).
            Lower is stronger. Published: 500 (a fine-tuned Stable Diffusion 2.1), 600 and 700.

    Source: Jain et al., CVPR 2025, static transition point.

    Examples:
        >>> StaticGuidance().strength
        500.0
    """

    kind: ClassVar[str] = "static-guidance"
    grid: ClassVar[tuple[float, ...]] = (700.0, 600.0, 500.0)
    span: ClassVar[tuple[float, float]] = (0.0, _TIMESTEPS)

    strength: float = 500.0

    def plan(self, model: Model, drawing: Drawing) -> Plan:
        """See `Intervention`."""
        return late_guidance(model, drawing, self.kind, before=0.0, until=self.strength)


@dataclass(frozen=True)
class OppositeGuidance(OtherGuidance):
    """Draws away from the text until timestep 650 of 1,000, and with ordinary guidance after it.

    Args:
        strength: how strong the opposite guidance is; its scale is minus this. Published: 2, and a
            grid of 1, 3, 5, 7 and 9 by others.

    Source: Jain et al., CVPR 2025, opposite guidance with a static transition point.

    Examples:
        >>> OppositeGuidance().strength
        2.0
    """

    kind: ClassVar[str] = "opposite-guidance"
    grid: ClassVar[tuple[float, ...]] = (1.0, 2.0, 3.0, 5.0, 7.0, 9.0)

    strength: float = 2.0

    def plan(self, model: Model, drawing: Drawing) -> Plan:
        """See `Intervention`."""
        return late_guidance(model, drawing, self.kind, before=-self.strength, until=OPPOSITE_UNTIL)


def late_guidance(
    model: Model, drawing: Drawing, method: str, *, before: float, until: float
) -> Plan:
    """Plan guidance of one scale above a timestep, and of the ordinary one from there on."""

    def scale(call: DrawingCall, difference: Tensor) -> Tensor:
        above = call.timestep > until
        return difference.new_full((len(difference),), before if above else drawing.guidance)

    return Plan(drawing.noise, guided(model, drawing, method, scale))
