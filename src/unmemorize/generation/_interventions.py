"""Interventions: what acts on one image while it is drawn, and leaves the model as it is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Protocol, TypeGuard, cast

from torch import Tensor

from unmemorize.generation._edits import Edit
from unmemorize.pipelines import Model


@dataclass(frozen=True, eq=False)
class Drawing:
    """The images of one batch that are drawn under the same intervention.

    Args:
        prompts: of each image, as `Intervention.rewritten` returned it.
        noise: initial noise, (images, C, H, W).
        rows: for each sample of the pipeline's batch whether it is one of these images, in order.
        steps: denoising steps.
        guidance: scale of guidance.
    """

    prompts: tuple[str, ...]
    noise: Tensor
    rows: tuple[bool, ...]
    steps: int
    guidance: float

    def alone(self) -> Drawing:
        """Return the same images as a batch of their own."""
        return replace(self, rows=(True,) * len(self.prompts))


@dataclass(frozen=True, eq=False)
class Plan:
    """How images are drawn.

    Args:
        noise: the noise to start from, (images, C, H, W).
        context: a context in which the pipeline runs. It touches no other images of the batch, and
            leaves nothing behind. It is entered once, after all images of the batch are planned.
    """

    noise: Tensor
    context: AbstractContextManager[object] = field(default_factory=nullcontext)


class Intervention(Protocol):
    """Changes the text of a prompt, the initial noise, or what the denoiser reads and returns.

    Each of the three is optional. An image must not depend on the other images of its batch.
    Interventions that do the same compare equal. Derive from this class: what is not overridden
    changes nothing.
    """

    kind: ClassVar[str]
    """The name of this kind of intervention in files."""

    def rewritten(self, model: Model, prompt: str, seed: int) -> str:  # noqa: ARG002
        """Return the text that is drawn in place of a prompt.

        Args:
            model: the model.
            prompt: the prompt.
            seed: of the image's initial noise.
        """
        return prompt

    def plan(self, model: Model, drawing: Drawing) -> Plan:  # noqa: ARG002
        """Compute what is needed before the pipeline runs. No edit is applied meanwhile.

        Raises:
            MitigationError: the model is of a kind for which this is not possible.
        """
        return Plan(drawing.noise)

    def to_json(self) -> dict[str, Any]:
        """Return the intervention as a JSON object."""
        ...


Change = Edit | Intervention
"""What may be applied while images are drawn."""


def is_intervention(change: Change) -> TypeGuard[Intervention]:
    """Tell an intervention from an edit."""
    return hasattr(change, "plan")


@contextmanager
def applied(
    model: Model,
    changes: Sequence[Change | None],
    prompts: Sequence[str],
    noise: Tensor,
    *,
    steps: int,
    guidance: float,
) -> Iterator[Tensor]:
    """Apply to each sample of a batch its own change.

    Args:
        model: the model.
        changes: one for each sample.
        prompts: one for each sample.
        noise: initial noise, (samples, C, H, W).
        steps, guidance: see `Drawing`.

    Yields:
        The noise to start from.
    """
    distinct: list[Change] = []
    for change in changes:
        if change is not None and change not in distinct:
            distinct.append(change)
    noise = noise.clone()
    contexts: list[AbstractContextManager[object]] = []
    edits: list[tuple[Edit, list[bool]]] = []
    for change in distinct:
        rows = [other == change for other in changes]
        if is_intervention(change):
            own = [index for index, row in enumerate(rows) if row]
            texts = tuple(prompts[index] for index in own)
            drawing = Drawing(texts, noise[own], tuple(rows), steps, guidance)
            plan = change.plan(model, drawing)
            noise[own] = plan.noise.to(noise)
            contexts.append(plan.context)
        else:
            edits.append((cast("Edit", change), rows))
    with ExitStack() as stack:
        for context in contexts:
            stack.enter_context(context)
        for edit, rows in edits:
            stack.enter_context(edit.applied(model, rows))
        yield noise
