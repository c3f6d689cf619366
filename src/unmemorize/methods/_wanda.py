"""Wanda pruning of the feed-forward layers, by what the caption drives more than no caption."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from unmemorize._checked import check_fields
from unmemorize._errors import MitigationError
from unmemorize.generation import (
    Drawing,
    DrawingCall,
    PrunedEdit,
    drawn_latents,
    watching,
)
from unmemorize.methods._method import Suspect, refuse_outside
from unmemorize.pipelines import Model, effective_weights, is_linear

_LAYER = ".ff.net.2"
_STEPS, _SEED, _IMAGES = 10, 0, 10
"""Published: the first timesteps over which masks are united, the seed, and images (there, one of
each of ten prompts; here, of one prompt)."""


class _EnoughError(Exception):
    """All steps that count are done."""


@dataclass(frozen=True)
class Wanda:
    """Sets weights of the second feed-forward layers to zero that serve the caption most.

    At each of the first ten timesteps, inputs of ``ff.net.2`` are collected, as rows of length 1,
    over ten images of the caption, and again over ten images without text. The score of a weight is
    its absolute value times the norm of its input's column. In each row of the weight, those of the
    highest scores for the caption are pruned if their score is above the one without text.

    Args:
        strength: the share of the weights of a row that may be pruned at one timestep, above 0 and
            at most 1. Published: .01; .1 for the most that was tried.

    Source: Chavhan et al., "ConceptPrune", and its settings for memorized prompts. Columns are
    accumulated as sums of squares over images.

    Examples:
        >>> Wanda().strength
        0.01
    """

    name: ClassVar[str] = "wanda"
    grid: ClassVar[tuple[float, ...]] = (0.01, 0.02, 0.05, 0.1)

    strength: float = 0.01

    def __post_init__(self) -> None:
        check_fields(self, MitigationError)
        refuse_outside(self.name, self.strength, 1e-6, 1)

    def fit(self, model: Model, suspect: Suspect) -> PrunedEdit:
        """See `Mitigation`.

        Raises:
            MitigationError: the model has no such layer, or no weight is chosen.
            ModelError: such a layer has an adapter that is no plain LoRA.
        """
        layers = {
            path: module
            for path, module in model.denoiser.named_modules()
            if path.endswith(_LAYER) and is_linear(module)
        }
        if not layers:
            raise MitigationError(
                f"{self.name}: {type(model.denoiser).__name__} has no linear layers called "
                f"{_LAYER[1:]}, where the method prunes. Use neurons."
            )
        weights = {path: effective_weights(layer)["weight"] for path, layer in layers.items()}
        target = column_norms(model, layers, suspect.prompt.text, suspect)
        base = column_norms(model, layers, "", suspect)
        entries = {
            path: pruned(weights[path], target[path], base[path], self.strength) for path in layers
        }
        entries = {path: indices for path, indices in entries.items() if indices}
        if not entries:
            raise MitigationError(
                f"{self.name}: strength {self.strength:g} prunes no weight of {model.name}, whose "
                f"rows have at most {max(weight.shape[1] for weight in weights.values())} weights. "
                "Use a larger share."
            )
        return PrunedEdit(entries)


def column_norms(
    model: Model, layers: Mapping[str, nn.Module], prompt: str, suspect: Suspect
) -> dict[str, Tensor]:
    """Return for each layer the column norms of its inputs, (timesteps, inputs), float64."""
    squares = {path: torch.zeros(_STEPS, 0, dtype=torch.float64) for path in layers}
    step = [0]

    def reads(call: DrawingCall) -> None:
        step[0] = call.step
        if call.step >= _STEPS:
            raise _EnoughError

    def collect(path: str, args: tuple[Any, ...]) -> None:
        read: Tensor = args[0].flatten(0, -2)  # (B * tokens, inputs)
        rows = read.to(torch.promote_types(read.dtype, torch.float32))
        rows = rows / rows.norm(dim=1, keepdim=True).clamp_min(torch.finfo(rows.dtype).tiny)
        found = rows.square().sum(0).to("cpu", torch.float64)
        if not squares[path].shape[1]:
            squares[path] = found.new_zeros(_STEPS, len(found))
        squares[path][step[0]] += found

    noise = model.draw_latents(_IMAGES, _SEED)
    settings = suspect.settings
    for start in range(0, _IMAGES, settings.batch):
        some = noise[start : start + settings.batch]
        rows = (True,) * len(some)
        drawing = Drawing((prompt,) * len(some), some, rows, settings.steps, settings.guidance)
        with ExitStack() as stack:
            stack.enter_context(suppress(_EnoughError))
            stack.enter_context(watching(model, drawing, reads))
            for path, layer in layers.items():
                hook = _Collecting(path, collect)
                stack.callback(layer.register_forward_pre_hook(hook).remove)
            drawn_latents(model, drawing)
    return {path: value.sqrt() for path, value in squares.items()}


def pruned(weight: Tensor, target: Tensor, base: Tensor, share: float) -> tuple[int, ...]:
    """Choose weights to prune.

    Args:
        weight: (features, inputs).
        target: column norms for the caption, (timesteps, inputs).
        base: the same without text.
        share: of the weights of a row, per timestep.

    Returns:
        Flat indices into the weight.
    """
    size = weight.abs().to("cpu", torch.float64)
    count = int(share * weight.shape[1])
    chosen = torch.zeros(weight.shape, dtype=torch.bool)
    for with_text, without in zip(target, base, strict=True):
        scores = size * with_text
        highest = torch.zeros_like(chosen)
        highest.scatter_(1, scores.topk(count, dim=1).indices, True)
        chosen |= highest & (scores > size * without)
    return tuple(torch.nonzero(chosen.flatten()).flatten().tolist())


@dataclass(frozen=True)
class _Collecting:
    """A forward pre-hook that hands over what a layer reads."""

    path: str
    collect: Any

    def __call__(self, _layer: nn.Module, args: tuple[Any, ...]) -> None:
        self.collect(self.path, args)
