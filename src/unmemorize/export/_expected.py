"""What weights should be after an edit, computed without what writes artefacts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from unmemorize._errors import ExportError
from unmemorize.export._carried import AnyEditFile, edit_of
from unmemorize.export._rows import same_up_to_rounding
from unmemorize.generation import (
    ClosedFormEdit,
    CombinedEdit,
    Edit,
    LowRank,
    NeuronEdit,
    PrunedEdit,
    WeightEdit,
    own_tokens,
    text_inputs,
    text_projections,
)
from unmemorize.pipelines import (
    Model,
    adapted_layers,
    adapters_in_effect,
    name_of_denoiser,
    networks_of,
    weights_of,
)

Step = partial[Tensor]
"""("weight" or "bias", the value before) -> the value after, float64."""
_OF_LAYER = ("weight", "bias")
_RIDGE = 0.5
_SOLVED_AGAIN = {torch.float16: 0.2, torch.bfloat16: 0.5}
_SOLVED_AGAIN_EXACTLY = 1e-3
"""How much of its change a row may miss where a closed-form edit is solved again, by the type of
the text embeddings. Devices round embeddings differently, and the solution amplifies that."""
_FACTORIZED = {torch.float16: 1e-2, torch.bfloat16: 5e-2}
_FACTORIZED_EXACTLY = 1e-4
"""The same where a LoRA holds a change by its singular values."""
_LORA_ROUNDED = 2e-3
"""The same where LoRAs are in effect, whose matrices may have been in float16 at the export."""


@dataclass(frozen=True)
class ExpectedLayer:
    """What an edit should make of one linear layer.

    Args:
        steps: one after another.
        slack: how much of its change each row may miss, besides rounding.
    """

    steps: tuple[Step, ...]
    slack: float

    def value(self, name: str, before: Tensor) -> Tensor:
        """Return what the weight or bias should be, float64."""
        value = before.detach().to("cpu", torch.float64)
        for step in self.steps:
            value = step(name, value)
        return value

    def is_right(
        self, actual: Tensor, expected: Tensor, change: Tensor, *coarsest: torch.dtype
    ) -> bool:
        """Compare what an artefact has, or adds, with what it should.

        Args:
            actual: of the artefact.
            expected: the same as it should be.
            change: the change of the weights, of the same shape.
            coarsest: types in which values may have been rounded on the way.
        """
        if same_up_to_rounding(actual, expected, *coarsest):
            return True
        misses = (actual.double() - expected).reshape(len(expected), -1).norm(dim=1)
        return bool((misses <= self.slack * change.reshape(len(change), -1).norm(dim=1)).all())


def expected_layers(model: Model, file: AnyEditFile) -> dict[str, ExpectedLayer]:
    """Return what a file asks for, by the path of a linear layer.

    Before the edit, a layer has its `weights_with_loras`.

    Raises:
        ExportError: the edit is of a kind that cannot be verified.
    """
    steps = _steps(model, edit_of(file))
    return {
        path: ExpectedLayer(chain, _slack(model, model.denoiser.get_submodule(path), chain))
        for path, chain in steps.items()
    }


def expected_in_checkpoint(model: Model, file: AnyEditFile) -> dict[str, dict[str, ExpectedLayer]]:
    """Return what a checkpoint should have instead of the base's weights: component -> path.

    Raises:
        ExportError: the edit is of a kind that cannot be verified.
    """
    edited = expected_layers(model, file)
    denoiser = name_of_denoiser(model.pipe)
    expected: dict[str, dict[str, ExpectedLayer]] = {denoiser: dict(edited)}
    for component, network in networks_of(model.pipe).items():
        for path, layer in adapted_layers(network).items():
            if adapters_in_effect(layer):
                chain: tuple[Step, ...] = (partial(_with_loras, layer, ()),)
                if component == denoiser and path in edited:
                    chain += edited[path].steps
                slack = _slack(model, layer, chain)
                expected.setdefault(component, {})[path] = ExpectedLayer(chain, slack)
    return expected


def weights_with_loras(layer: nn.Module) -> dict[str, Tensor]:
    """Return weight and bias (if any) that a layer computes with."""
    weights = {name: value for name, value in weights_of(layer).items() if name in _OF_LAYER}
    if not hasattr(layer, "base_layer"):
        return weights
    held: Any = layer
    return {
        name: _with_loras(layer, held.merged_adapters, name, value)
        for name, value in weights.items()
    }


def _with_loras(layer: nn.Module, held: Sequence[str], name: str, value: Tensor) -> Tensor:
    """Add what peft itself adds for the LoRAs in effect, but for those that the value holds."""
    adapted: Any = layer
    value = value.detach().to("cpu", torch.float64)
    effective = adapters_in_effect(layer)
    signs = {each: 1 for each in effective if each not in held}
    signs |= {each: -1 for each in held if each not in effective}
    for adapter, sign in signs.items():
        if name == "weight":
            value = value + sign * adapted.get_delta_weight(adapter).detach().cpu()
        elif adapted.lora_B[adapter].bias is not None:
            bias = adapted.lora_B[adapter].bias.detach().to("cpu", torch.float64)
            value = value + sign * adapted.scaling[adapter] * bias
    return value


def _slack(model: Model, layer: nn.Module, steps: tuple[Step, ...]) -> float:
    slack = {
        _solved: _SOLVED_AGAIN.get(model.dtype, _SOLVED_AGAIN_EXACTLY),
        _moved: _FACTORIZED.get(model.dtype, _FACTORIZED_EXACTLY),
    }
    lora = _LORA_ROUNDED if hasattr(layer, "base_layer") else 0.0
    return max(lora, *(slack.get(step.func, 0.0) for step in steps))


def _steps(model: Model, edit: Edit) -> dict[str, tuple[Step, ...]]:
    if isinstance(edit, NeuronEdit):
        return {
            path: (partial(_scaled, indices, edit.scale),)
            for path, indices in edit.neurons.layers.items()
        }
    if isinstance(edit, ClosedFormEdit):
        equations = _equations(model, edit)
        return {path: (partial(_solved, *equations),) for path in text_projections(model)}
    if isinstance(edit, PrunedEdit):
        return {path: (partial(_pruned, entries),) for path, entries in edit.entries.items()}
    if isinstance(edit, WeightEdit):
        added: dict[str, dict[str, Tensor | LowRank]] = {}
        for name, difference in edit.differences.items():
            path, _, kind = name.rpartition(".")
            added.setdefault(path, {})[kind] = difference
        return {path: (partial(_moved, differences),) for path, differences in added.items()}
    if isinstance(edit, CombinedEdit):
        steps: dict[str, tuple[Step, ...]] = {}
        for part in edit.parts:
            for path, chain in _steps(model, part).items():
                steps[path] = (*steps.get(path, ()), *chain)
        return steps
    raise ExportError(
        f"edit of kind {edit.kind}: it cannot be verified. Compare the images of the artefact."
    )


def _scaled(indices: tuple[int, ...], scale: float, _name: str, value: Tensor) -> Tensor:
    value = value.clone()
    value[list(indices)] *= scale
    return value


def _pruned(entries: tuple[int, ...], name: str, value: Tensor) -> Tensor:
    if name == "bias":
        return value
    kept = torch.ones(value.numel(), dtype=torch.bool)
    kept[list(entries)] = False
    return torch.where(kept.reshape(value.shape), value, torch.zeros_like(value))


def _moved(differences: Mapping[str, Tensor | LowRank], name: str, value: Tensor) -> Tensor:
    if name not in differences:
        return value
    added = differences[name]
    if isinstance(added, LowRank):
        added = torch.tensordot(added.up.double(), added.down.double(), dims=1)
    return value + added.double()


def _equations(model: Model, edit: ClosedFormEdit) -> tuple[Tensor, Tensor]:
    """Return A and B of the normal equations W' A = W B (UCE, equation 7)."""
    kept = torch.zeros((), dtype=torch.float64)
    for read in text_inputs(model, edit.keep):
        kept = kept + torch.einsum("ctf,ctg->fg", read, read)
    left = right = torch.zeros((), dtype=torch.float64)
    for erased in edit.erase:
        (read,), (guide,) = (text_inputs(model, [text]) for text in (erased.caption, erased.guide))
        own = read * own_tokens(read, guide)[..., None]
        left = left + erased.weight * torch.einsum("ctf,ctg->fg", own, own)
        right = right + erased.weight * torch.einsum("ctf,ctg->fg", guide, own)
    kept = kept + _RIDGE * torch.eye(left.shape[-1], dtype=torch.float64)
    return left + kept, right + kept


def _solved(left: Tensor, right: Tensor, name: str, value: Tensor) -> Tensor:
    if name == "bias":
        return value
    factor = torch.linalg.cholesky(left)
    return torch.cholesky_solve((value @ right).T, factor).T
