"""An edit as a LoRA: at strength 1 weights are edited, at strength 0 they are those of the base.

A layer computes W x (+ b), and an edit makes it (F W P + D) x (+ F b + d), see `LayerChange`. The
LoRA adds B A x with B A = F W P + D - W, so nothing is approximated.

- For neurons and their scale s, P = I: A = -(1 - s) W[neurons], and B has one column per neuron
  with a 1 in the neuron's row. At strength t, outputs are multiplied by 1 - t (1 - s). A bias goes
  by the bias of B, or by what is added to the bias of the layer.
- A closed-form edit moves a few directions of what the layer reads. The singular values of P - I
  give the directions that are read (A) and what they become (B is W times that). One of neurons is
  D, whose rows are A.
- Trained weights W + B A are kept as B and A, and written as they are, in float32.
- Other edits of single weights are written by the singular values of their difference, where their
  rank is low enough. Else they are refused. `truncate` lowers the rank of trained weights.

Where LoRAs are in effect, W and b are what the layer computes with. What is written is then added
to these LoRAs at their strengths, not to the base alone.

Layers are padded with zeros to one rank, and alpha is the rank, so programs multiply B A by exactly
t. Where a program keeps queries, keys and values in one
layer, the rows of queries and keys are zeros.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import DiffusionPipeline
from torch import Tensor, nn
from torch.nn import functional

from unmemorize._errors import ExportError
from unmemorize._files import atomic_write, safetensors_bytes
from unmemorize._paths import exists
from unmemorize.export._carried import as_metadata, edit_of, loras_as_metadata
from unmemorize.export._exportable import AnyEdit, Exportable, exportable
from unmemorize.export._lora_layouts import LoraLayout, fitting_layouts
from unmemorize.export._lora_metadata import LoraContent
from unmemorize.export._model_folder import CARD
from unmemorize.export._rows import refuse_infinite
from unmemorize.generation import LayerChange, LowRank, save_tensors
from unmemorize.pipelines import Model, layer_at

_SOLVED = 1e-12
"""Relative rounding of the matrices P, which are solved for in float64."""
_WAY_OUT = "Trained weights may be cut to a rank, too: unmemorize export lora --rank N."


@dataclass(frozen=True)
class _Factors:
    """A layer's share of a LoRA: A (rank, inputs), B (features, rank) and the bias of B."""

    down: Tensor
    up: Tensor
    bias: Tensor


@dataclass(frozen=True)
class _Split:
    """P - I as a product: left (inputs, rank) and right (rank, inputs)."""

    left: Tensor
    right: Tensor


def export_lora(
    pipe: DiffusionPipeline | Model,
    neurons: AnyEdit | None,
    folder: str | Path,
    *,
    layout: str | None = None,
    card: str | None = None,
) -> tuple[Path, ...]:
    """Write a LoRA in every layout that fits the model: for diffusers, and for other programs.

    ``pipe.load_lora_weights(folder)`` loads the first. See `LAYOUTS` for who reads which. Tensors
    of trained weights are written into the same folder, for `verify`. If LoRAs are in effect, it is
    for the model with them: load it beside them, at the strengths that they have now, which its
    metadata and its card name.

    Args:
        pipe: the model.
        neurons: what it does at strength 1: a neuron file, an edit file or an edit, or neurons to
            switch off (also as a localization).
        folder: where it goes. It must not hold a LoRA of these names, nor a card if one is given.
        layout: "diffusers" or "kohya" for one file alone. None writes all that fit the model.
        card: a README.md to go with it, see `model_card`.

    Returns:
        The files, that for diffusers first. It has the name that diffusers looks for, and the
        others tell model and layout.

    Raises:
        ExportError: there is no edit (None), diffusers cannot load a LoRA into this kind of model,
            the layout is unknown or does not fit, no LoRA that is smaller than the weights can hold
            the edit, a value is too large for the type of the weights, or a file exists or cannot
            be written.
        NeuronError, EditError: the edit belongs to another model.

    Examples:
        >>> import tempfile
        >>> from unmemorize import Model, NeuronFile, Neurons
        >>> model = Model.load("testbed", device="cpu")
        >>> neurons = NeuronFile.of(model, Neurons({next(iter(model.value_layers)): [4]}))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     [file.name for file in export_lora(model, neurons, folder)]
        ['pytorch_lora_weights.safetensors', 'testbed-unmemorized-kohya.safetensors']
    """
    edit = exportable(pipe, neurons)
    model = edit.model
    folder = Path(folder)
    layouts = fitting_layouts(edit, layout)
    if not hasattr(model.pipe, "load_lora_weights"):
        raise ExportError(
            f"{type(model.pipe).__name__}: diffusers loads no LoRA into it. "
            "Export a checkpoint instead."
        )
    files = {folder / chosen.file_name(edit.file.model): chosen for chosen in layouts}
    for path in (*files, *([folder / CARD] if card is not None else [])):
        if exists(path):
            raise ExportError(f"{path}: exists already. Choose another folder, or delete it first.")
    if not edit.changes:
        raise ExportError(f"{edit.file.model}: no neurons, so there is nothing to export.")
    layers = _factorized(edit)
    contents = {file: _lora_bytes(edit, layers, each, file) for file, each in files.items()}
    save_tensors(edit_of(edit.file), folder)
    for file, content in contents.items():
        atomic_write(file, content, ExportError)
    if card is not None:
        atomic_write(folder / CARD, card, ExportError)
    return tuple(files)


def _lora_bytes(
    edit: Exportable, layers: Mapping[str, _Factors], layout: LoraLayout, file: Path
) -> bytes:
    bias = any(map(edit.changes_bias, layers))
    rank = max(int(bias), *(len(factors.down) for factors in layers.values()))
    if not rank:
        raise ExportError(f"{edit.file.model}: the edit changes nothing. Export another one.")
    tensors: dict[str, Tensor] = {}
    for path, factors in layers.items():
        keys = layout.keys(edit.model, path)
        assert keys is not None  # as the layout fits
        padding = rank - len(factors.down)
        down = functional.pad(factors.down, (0, 0, 0, padding))
        up = _as_last(functional.pad(factors.up, (0, padding)), keys.projections)
        kernel = edit.weights(path)["weight"].shape[1:]  # only the inputs, unless it convolves
        tensors[keys.down] = down.reshape(rank, *kernel)
        tensors[keys.up] = up.reshape(*up.shape, *[1] * (len(kernel) - 1))
        if bias and keys.bias is not None:
            tensors[keys.bias] = _as_last(factors.bias, keys.projections)
        if keys.alpha is not None:
            tensors[keys.alpha] = torch.tensor(rank, dtype=torch.float32)
    content = LoraContent(edit.model, tuple(layers), rank, bias, file.stem)
    for key, values in tensors.items():
        refuse_infinite(file, key, values)
    beside = loras_as_metadata(edit.model.loras)
    return safetensors_bytes(
        tensors, {**as_metadata(edit.file), **beside, **layout.metadata(content)}
    )


def _as_last(rows: Tensor, projections: int) -> Tensor:
    """Put rows of zeros for further projections of the same size in front."""
    return torch.cat([*[torch.zeros_like(rows)] * (projections - 1), rows])


def _factorized(edit: Exportable) -> dict[str, _Factors]:
    """Write the change of each layer as B A, in the type of its weights or of its own factors."""
    splits: dict[int, _Split] = {}  # most layers share one matrix P
    layers = {}
    for path, change in edit.changes.items():
        weights = edit.weights(path)
        weight = weights["weight"]
        _refuse_other_layer(edit.model, path)
        split = None
        if change.inputs is not None and not change.is_dense:
            identity = id(change.inputs)
            if identity not in splits:
                splits[identity] = _split(change.inputs, torch.finfo(weight.dtype).eps)
            split = splits[identity]
        bias = torch.zeros(len(weight), dtype=torch.float64)
        if "bias" in weights:
            before = weights["bias"].detach().to("cpu", torch.float64)
            bias = change.of_bias(before) - before
        bias = bias.to(weight.dtype)
        if change.low_rank is not None:
            layers[path] = _Factors(change.low_rank.down.flatten(1), change.low_rank.up, bias)
            continue
        wide = weight.detach().to("cpu", torch.float64)
        if change.is_dense:
            down, up = _dense_factors(path, change.of_weight(wide) - wide, weight.dtype)
        else:
            down, up = _factors(change, wide.flatten(1), split)  # a convolution: its bias alone
        layers[path] = _Factors(down.to(weight.dtype), up.to(weight.dtype), bias)
    return layers


def _refuse_other_layer(model: Model, path: str) -> None:
    """Refuse a layer of a kind into which peft puts no plain LoRA.

    Raises:
        ExportError: it is neither linear nor a convolution.
    """
    layer = layer_at(model, path)
    base = getattr(layer, "base_layer", layer)
    if not isinstance(base, nn.Linear | nn.Conv2d):
        raise ExportError(
            f"{path}: LoRAs hold linear layers and convolutions, and this is neither "
            f"({type(base).__name__}). Export a checkpoint. {_WAY_OUT}"
        )


def _factors(change: LayerChange, weight: Tensor, split: _Split | None) -> tuple[Tensor, Tensor]:
    """Return A and B for F W P + D - W = F W (P - I) + (F - I) W + D, of the least rank at hand."""
    features, inputs = weight.shape
    rows = sorted(change.factors)
    scaled = LayerChange(change.factors).of_weight(weight)
    one_hot = weight.new_zeros(features, len(rows))
    one_hot[rows, range(len(rows))] = 1
    downs, ups = [(scaled - weight)[rows]], [one_hot]
    if split is not None:
        downs, ups = [split.right, *downs], [scaled @ split.left, *ups]
    added = change.added.get("weight")
    if isinstance(added, LowRank):
        downs, ups = [*downs, added.down.double()], [*ups, added.up.double()]
    down, up = torch.cat(downs), torch.cat(ups, dim=1)
    if len(down) < min(features, inputs):
        return down, up
    difference = change.of_weight(weight) - weight
    if features < inputs:
        return difference, torch.eye(features, dtype=weight.dtype)
    return torch.eye(inputs, dtype=weight.dtype), difference


def _dense_factors(path: str, difference: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Return A and B of a difference of weights by its singular values.

    A convolution counts as the matrix of its flattened kernels: A convolves with these kernels, and
    B mixes what A returns.

    Raises:
        ExportError: A and B would hold more numbers than the weight.
    """
    shape = difference.shape
    difference = difference.flatten(1)
    left, values, right = torch.linalg.svd(difference, full_matrices=False)
    # differences are stored as float32, so smaller singular values are nothing but their rounding
    negligible = max(torch.finfo(dtype).eps, torch.finfo(torch.float32).eps)
    rank = int((values > negligible * values[0]).sum())
    if rank * sum(difference.shape) >= difference.numel():
        raise ExportError(
            f"{path}: the edit changes it by a matrix of rank {rank}, so a LoRA would be larger "
            f"than the weight of {' x '.join(map(str, shape))}. Export a checkpoint. "
            f"{_WAY_OUT}"
        )
    root = values[:rank].sqrt()
    return (root[:, None] * right[:rank]).contiguous(), (left[:, :rank] * root).contiguous()


def _split(matrix: Tensor, rounding: float) -> _Split:
    """Write P - I as left @ right, of the smallest rank that is exact.

    Singular values are left out where they are less than the thousandth part of the rounding of
    the weights' type, relative to the largest one, or nothing but rounding of P itself.
    """
    left, values, right = torch.linalg.svd(matrix - torch.eye(len(matrix), dtype=matrix.dtype))
    rank = int((values > max(rounding / 1000, _SOLVED) * values[0]).sum())
    root = values[:rank].sqrt()
    return _Split(left[:, :rank] * root, root[:, None] * right[:rank])
