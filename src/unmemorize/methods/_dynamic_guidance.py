"""Guidance that starts when the text pulls least: Jain's dynamic transition point."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from unmemorize.generation import Drawing, DrawingCall, Plan, drawn_latents
from unmemorize.methods._guidance import OtherGuidance, guided
from unmemorize.pipelines import Model

_DEFAULT_STEP = 5
"""The published step of the transition where no minimum is found in the first pass."""


@dataclass(frozen=True)
class DynamicGuidance(OtherGuidance):
    """Draws with little guidance until the pull of the text has its first local minimum.

    The pull is the norm of the difference between predictions with and without text, for each image
    by itself (in the space of the clean image for v and flow models). Ordinary guidance starts at
    the first step whose pull is above that of the step before, which is below the one before it.

    Args:
        strength: by how much guidance is below 1 before the minimum: 0 is guidance 1 (the published
            code), 1 is guidance 0 (the paper).

    Source: Jain et al., CVPR 2025, dynamic transition point.

    Examples:
        >>> DynamicGuidance().strength
        1.0
    """

    kind: ClassVar[str] = "dynamic-guidance"
    grid: ClassVar[tuple[float, ...]] = (0.0, 1.0)
    span: ClassVar[tuple[float, float]] = (0.0, 1.0)

    strength: float = 1.0

    def plan(self, model: Model, drawing: Drawing) -> Plan:
        """See `Intervention`."""
        pulls: list[Tensor] = []
        started = torch.zeros(len(drawing.prompts), dtype=torch.bool)

        def scale(call: DrawingCall, difference: Tensor) -> Tensor:
            pulls.append(_pull(model, call, difference))
            if len(pulls) > 2:
                started.logical_or_((pulls[-1] > pulls[-2]) & (pulls[-2] < pulls[-3]))
            before = 1.0 - self.strength
            return difference.new_tensor(
                [drawing.guidance if begun else before for begun in started.tolist()]
            )

        return Plan(drawing.noise, guided(model, drawing, self.kind, scale))


@dataclass(frozen=True)
class OppositeDynamicGuidance(OtherGuidance):
    """Draws away from the text until the transition that a first pass without guidance has shown.

    A first pass without guidance records the pull of the text (see `DynamicGuidance`) at each step.
    The transition is the first local minimum, the second if the first is at step 1, or else step 5.
    The second pass draws with opposite guidance before it and ordinary guidance from it on.

    The published script does not run as described (it flips the sign of the guidance at each step,
    and ends at the transition). This follows the description. That the first pass has no guidance
    is our reading.

    Args:
        strength: how strong the opposite guidance is; its scale is minus this. Published: a grid of
            1, 3, 5, 7 and 9 by others.

    Source: Jain et al., CVPR 2025, opposite guidance with a dynamic transition point.

    Examples:
        >>> OppositeDynamicGuidance().strength
        2.0
    """

    kind: ClassVar[str] = "opposite-dynamic"
    grid: ClassVar[tuple[float, ...]] = (1.0, 2.0, 3.0, 5.0, 7.0, 9.0)

    strength: float = 2.0

    def plan(self, model: Model, drawing: Drawing) -> Plan:
        """Run the first pass, see `Intervention`."""
        pulls: list[Tensor] = []

        def unguided(call: DrawingCall, difference: Tensor) -> Tensor:
            pulls.append(_pull(model, call, difference))
            return difference.new_zeros(len(difference))

        alone = drawing.alone()
        with guided(model, alone, self.kind, unguided):
            drawn_latents(model, alone)
        transitions = [transition_of(row.tolist()) for row in torch.stack(pulls, 1)]

        def scale(call: DrawingCall, difference: Tensor) -> Tensor:
            return difference.new_tensor(
                [-self.strength if call.step < step else drawing.guidance for step in transitions]
            )

        return Plan(drawing.noise, guided(model, drawing, self.kind, scale))


def _pull(model: Model, call: DrawingCall, difference: Tensor) -> Tensor:
    """Return the pull of the text on each image, (images,)."""
    timestep = torch.tensor(call.timestep, dtype=torch.float32)
    return model.noise_level(timestep).apart(difference).cpu()


def transition_of(pulls: Sequence[float]) -> int:
    """Return the step of the transition for the pulls of all steps.

    Examples:
        >>> transition_of([3, 2, 1, 2, 3]), transition_of([3, 2, 3, 1, 4]), transition_of([3, 2, 1])
        (2, 3, 5)
    """
    minima = [
        step for step in range(1, len(pulls) - 1) if pulls[step - 1] > pulls[step] < pulls[step + 1]
    ]
    if minima and minima[0] == 1:
        minima = minima[1:]
    return minima[0] if minima else _DEFAULT_STEP
