"""Switch neurons off in a live pipeline, and on again; nothing but hooks, so the weights are never touched."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from diffusers import DiffusionPipeline
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from unmemorize._errors import ModelError
from unmemorize._model import Model
from unmemorize._neurons import Neurons

_HANDLES = "_unmemorize_handles"


@contextmanager
def switched_off(pipe: DiffusionPipeline, neurons: Neurons, *, scale: float = 0.0) -> Iterator[None]:
    """Multiply the outputs of the neurons by ``scale``, for every token, conditional and unconditional, while the context lasts.

    Args:
        pipe: a loaded pipeline.
        neurons: what to switch off; none is allowed and changes nothing.
        scale: 0 switches off; a fraction weakens, a negative number inverts.

    Raises:
        NeuronError: the neurons do not exist in this model.
        ModelError: the projections of a layer are fused.

    On leaving, also by an exception, the pipeline is exactly as before. Contexts nest: the scales of a neuron multiply.
    """
    with scaled(Model(pipe), [neurons], scale):
        yield


@contextmanager
def scaled(model: Model, rows: Sequence[Neurons], scale: float) -> Iterator[None]:
    """`switched_off` for a `Model` and for batches of different prompts: sample i of a batch has the neurons of row i off.

    The batch must be as long as the rows, or a multiple of it (conditional and unconditional halves), in the same order.
    """
    handles = _hook(model, rows, scale)
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def gated(model: Model, gates: Mapping[str, Tensor]) -> Iterator[None]:
    """Multiply the outputs of value layers by gates, layer -> (features,), which may require gradients, while the context lasts."""
    handles = [model.value_layers[path].register_forward_hook(_scaling(gate[None, None])) for path, gate in gates.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def apply(pipe: DiffusionPipeline, neurons: Neurons, *, scale: float = 0.0) -> None:
    """Switch neurons off until `remove`; neurons that an earlier call switched off are on again.

    Raises:
        NeuronError: the neurons do not exist in this model; the pipeline is then as before.
        ModelError: the projections of a layer are fused; the pipeline is then as before.
    """
    model = Model(pipe)
    handles = _hook(model, [neurons], scale)
    remove(pipe)
    setattr(model.denoiser, _HANDLES, handles)


def remove(pipe: DiffusionPipeline) -> None:
    """Undo `apply`; without one it does nothing."""
    denoiser = Model(pipe).denoiser
    for handle in getattr(denoiser, _HANDLES, []):
        handle.remove()
    setattr(denoiser, _HANDLES, [])


def _hook(model: Model, rows: Sequence[Neurons], scale: float) -> list[RemovableHandle]:
    for neurons in rows:
        neurons.check(model)
    if model.denoiser._compiled_call_impl is not None:
        raise ModelError(f"{model.name}: the denoiser is compiled in place, which ignores hooks. Load it again, or use torch.compile(...).")
    touched = [path for path in model.value_layers if any(path in neurons.layers for neurons in rows)]
    for path in touched:
        if getattr(model.denoiser.get_submodule(path.rpartition(".")[0]), "fused_projections", False):
            raise ModelError(f"{path}: its projections are fused, so that it is not called. Call pipe.unfuse_qkv_projections() first.")
    return [model.value_layers[path].register_forward_hook(_scaling(_factors(path, model.widths[path], rows, scale))) for path in touched]


def _factors(path: str, width: int, rows: Sequence[Neurons], scale: float) -> Tensor:
    """What each output is multiplied by, shape (rows, 1, features)."""
    factors = torch.ones(len(rows), 1, width)
    for row, neurons in enumerate(rows):
        factors[row, :, list(neurons.layers.get(path, ()))] = scale
    return factors


def _scaling(factors: Tensor) -> Any:
    def multiplied(_layer: nn.Module, _inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        copies, rest = divmod(len(output), len(factors))
        if rest:
            raise ModelError(f"{len(factors)} sets of neurons do not fit a batch of {len(output)}. Give one set, or one for each sample.")
        return output * factors.to(output.device, output.dtype).repeat(copies, 1, 1)

    return multiplied
