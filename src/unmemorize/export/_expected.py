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
from unmemorize.export._rows import beyond_rounding
from unmemorize.generation import (
    ClosedFormEdit,
    ClosedFormNeuronEdit,
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
    by_component,
    layer_at,
    name_of_denoiser,
    networks_of,
    weights_of,
)

Step = partial[Tensor]
"""("weight" or "bias", the value before) -> the value after, float64."""
_Equations = tuple[Tensor, Tensor]
_OF_LAYER = ("weight", "bias")
_RIDGE = 0.5
_SOLVED_AGAIN = {torch.float16: 0.2, torch.bfloat16: 0.5}
_SOLVED_AGAIN_EXACTLY = 1e-3
"""How much of its change a row may miss where a closed-form edit is solved again, by the type of
the text embeddings. Devices round embeddings differently, and the solution amplifies that."""
_MISSING = 0.05
"""How much of its change a layer may miss. Between types of text embeddings it is below .01 on the
bundled model, where single rows miss up to a quarter."""
_DEVIATIONS = 5.0
"""The same for rounded weights, in units of what rounding moves a layer along its change."""
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
        if actual.shape != expected.shape:
            return False
        misses = beyond_rounding(actual, expected, *coarsest)
        rows_are_right = bool((_of_rows(misses) <= self.slack * _of_rows(change)).all())
        return rows_are_right and _is_whole(actual, expected, change, *coarsest)


def _is_whole(actual: Tensor, expected: Tensor, change: Tensor, *coarsest: torch.dtype) -> bool:
    """Tell whether all of a change was made, where each row may miss a large part of it.

    What rounding adds points anywhere, so it hardly moves a layer along its change. A part that is
    missing does.
    """
    size = float(change.norm())
    if not size:
        return True
    eps = max(torch.finfo(dtype).eps for dtype in (actual.dtype, expected.dtype, *coarsest))
    found, wanted = (value.detach().to("cpu", torch.float64) for value in (actual, expected))
    missing = float(((found - wanted) * change.cpu()).sum()) / size**2
    rounded = eps * float(wanted.square().mean().sqrt()) / size
    return abs(missing) <= _MISSING + _DEVIATIONS * rounded


def _of_rows(value: Tensor) -> Tensor:
    """Return the norm of each row; those of a vector are its entries."""
    norms: Tensor = value.reshape(len(value), -1).norm(dim=1)
    return norms


def expected_layers(model: Model, file: AnyEditFile) -> dict[str, ExpectedLayer]:
    """Return what a file asks for, by the path of a linear layer.

    Before the edit, a layer has its `weights_with_loras`.

    Raises:
        ExportError: the edit is of a kind that cannot be verified.
    """
    steps, dtype = _steps(model, edit_of(file)), model.dtype
    return {
        path: ExpectedLayer(chain, _slack(dtype, layer_at(model, path), chain))
        for path, chain in steps.items()
    }


def expected_in_checkpoint(model: Model, file: AnyEditFile) -> dict[str, dict[str, ExpectedLayer]]:
    """Return what a checkpoint should have instead of the base's weights: component -> path.

    Raises:
        ExportError: the edit is of a kind that cannot be verified.
    """
    edited, dtype = by_component(model.pipe, expected_layers(model, file)), model.dtype
    expected: dict[str, dict[str, ExpectedLayer]] = {name_of_denoiser(model.pipe): {}, **edited}
    for component, network in networks_of(model.pipe).items():
        for path, adapted in adapted_layers(network).items():
            if adapters_in_effect(adapted):
                layers = expected.setdefault(component, {})
                chain: tuple[Step, ...] = (partial(_with_loras, adapted, ()),)
                if path in layers:
                    chain += layers[path].steps
                layers[path] = ExpectedLayer(chain, _slack(dtype, adapted, chain))
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


def _slack(dtype: torch.dtype, layer: nn.Module, steps: tuple[Step, ...]) -> float:
    slack = {
        _solved: _SOLVED_AGAIN.get(dtype, _SOLVED_AGAIN_EXACTLY),
        _rows_moved: _SOLVED_AGAIN.get(dtype, _SOLVED_AGAIN_EXACTLY),
        _moved: _FACTORIZED.get(dtype, _FACTORIZED_EXACTLY),
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
        own = [_own(model, each.caption, each.guide, each.weight) for each in edit.erase]
        solved = partial(_solved, *_joined(_kept(model, edit.keep), own))
        return dict.fromkeys(text_projections(model), (solved,))
    if isinstance(edit, ClosedFormNeuronEdit):
        return _row_steps(model, edit)
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


def _row_steps(model: Model, edit: ClosedFormNeuronEdit) -> dict[str, tuple[Step, ...]]:
    """Each neuron has the equations of its own captions, and starts from the model's own row."""
    kept = _kept(model, edit.keep)
    own = [_own(model, e.caption, e.guide, e.weight, e.reach) for e in edit.reread]
    alike: dict[tuple[int, ...], list[tuple[str, int]]] = {}
    for neuron, captions in edit.owners().items():
        alike.setdefault(captions, []).append(neuron)
    moved: dict[str, dict[int, Tensor]] = {}
    weights: dict[str, Tensor] = {}
    for captions, neurons in alike.items():
        equations = _joined(kept, [own[index] for index in captions])
        for path, _ in neurons:
            if path not in weights:
                layer = model.denoiser.get_submodule(path)
                weights[path] = weights_with_loras(layer)["weight"].detach().cpu().double()
        before = torch.stack([weights[path][row] for path, row in neurons])
        differences = _solved(*equations, "weight", before) - before
        for (path, row), difference in zip(neurons, differences, strict=True):
            moved.setdefault(path, {})[row] = difference
    return {path: (partial(_rows_moved, rows),) for path, rows in moved.items()}


def _kept(model: Model, captions: Sequence[str]) -> Tensor:
    kept = torch.zeros((), dtype=torch.float64)
    for read in text_inputs(model, captions):
        kept = kept + torch.einsum("ctf,ctg->fg", read, read)
    return kept


def _own(model: Model, caption: str, guide: str, weight: float, reach: float = 1.0) -> _Equations:
    """Return what a caption adds to A and B, when it goes as far to its guide as ``reach`` says."""
    (read,), (wanted,) = (text_inputs(model, [text]) for text in (caption, guide))
    own = read * own_tokens(read, wanted)[..., None]
    wanted = reach * wanted + (1 - reach) * read
    left = weight * torch.einsum("ctf,ctg->fg", own, own)
    return left, weight * torch.einsum("ctf,ctg->fg", wanted, own)


def _joined(kept: Tensor, own: Sequence[_Equations]) -> _Equations:
    """Return A and B of the normal equations W' A = W B (UCE, equation 7)."""
    left, right = (torch.stack(parts).sum(0) for parts in zip(*own, strict=True))
    kept = kept + _RIDGE * torch.eye(len(left), dtype=torch.float64)
    return left + kept, right + kept


def _rows_moved(rows: Mapping[int, Tensor], name: str, value: Tensor) -> Tensor:
    if name == "bias":
        return value
    value = value.clone()
    for row, difference in rows.items():
        value[row] += difference
    return value


def _solved(left: Tensor, right: Tensor, name: str, value: Tensor) -> Tensor:
    if name == "bias":
        return value
    factor = torch.linalg.cholesky(left)
    return torch.cholesky_solve((value @ right).T, factor).T
