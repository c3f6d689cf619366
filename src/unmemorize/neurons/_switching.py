"""Switch neurons off in a live pipeline, and on again; nothing but hooks, so the weights are never touched.

A compiled denoiser ignores hooks that come later: it runs uncompiled while neurons are off.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any
from weakref import WeakKeyDictionary

import torch
from diffusers import DiffusionPipeline
from torch import Tensor, nn

from unmemorize._errors import ModelError
from unmemorize.neurons._neurons import Neurons
from unmemorize.pipelines import Model, denoiser_of, refuse_fused, text_rows_only, uncompiled

_APPLIED: WeakKeyDictionary[nn.Module, ExitStack] = WeakKeyDictionary()
"""What `apply` has done to denoisers; beside them, so that they can be copied."""


@contextmanager
def switched_off(
    pipe: DiffusionPipeline, neurons: Neurons, *, scale: float = 0.0
) -> Iterator[None]:
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
    with _multiplied(model, _factors(model, rows, scale)):
        yield


@contextmanager
def gated(model: Model, gates: Mapping[str, Tensor]) -> Iterator[None]:
    """Multiply the outputs of value layers by gates, layer -> (features,), which may require gradients, while the context lasts."""
    with _multiplied(model, {path: gate[None, None] for path, gate in gates.items()}):
        yield


def apply(pipe: DiffusionPipeline, neurons: Neurons, *, scale: float = 0.0) -> None:
    """Switch neurons off until `remove`; neurons that an earlier call switched off are on again.

    Raises:
        NeuronError: the neurons do not exist in this model; the pipeline is then as before.
        ModelError: the projections of a layer are fused; the pipeline is then as before.
    """
    model = Model(pipe)
    factors = _factors(model, [neurons], scale)
    remove(pipe)
    _APPLIED[model.denoiser] = _multiplied(model, factors)


def refuse_applied(pipe: DiffusionPipeline) -> None:
    """See that nothing is switched off by `apply`.

    Raises:
        ModelError: something is, so that what is measured would not be the model's, whose fingerprint it would bear.
    """
    if denoiser_of(pipe) in _APPLIED:
        raise ModelError(
            "neurons are switched off in this pipeline, so it is not the model as loaded. Call remove(pipe) first."
        )


def remove(pipe: DiffusionPipeline) -> None:
    """Undo `apply`; without one it does nothing."""
    applied = _APPLIED.pop(denoiser_of(pipe), None)
    if applied is not None:
        applied.close()


def _multiplied(model: Model, factors: Mapping[str, Tensor]) -> ExitStack:
    """Outputs of value layers are multiplied by factors that broadcast over (B, tokens, features), until the stack is closed."""
    tokens = [0]

    def note(_denoiser: nn.Module, _inputs: tuple[Any, ...], arguments: dict[str, Any]) -> None:
        tokens[0] = arguments["encoder_hidden_states"].shape[1]

    with ExitStack() as stack:
        stack.enter_context(uncompiled(model.pipe))
        if any(map(text_rows_only, factors)):
            stack.callback(model.denoiser.register_forward_pre_hook(note, with_kwargs=True).remove)
        for path, given in factors.items():
            hook = _scaling(given, tokens if text_rows_only(path) else None)
            stack.callback(model.value_layers[path].register_forward_hook(hook).remove)
        return stack.pop_all()


def _factors(model: Model, rows: Sequence[Neurons], scale: float) -> dict[str, Tensor]:
    """What the outputs of each layer are multiplied by, shape (rows, 1, features)."""
    for neurons in rows:
        neurons.check(model)
    found = {}
    for path, width in model.widths.items():
        if any(path in neurons.layers for neurons in rows):
            refuse_fused(model.denoiser, [path])
            found[path] = torch.ones(len(rows), 1, width)
            for row, neurons in enumerate(rows):
                found[path][row, :, list(neurons.layers.get(path, ()))] = scale
    return found


def _scaling(factors: Tensor, tokens: list[int] | None) -> Any:
    def multiplied(_layer: nn.Module, _inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        copies, rest = divmod(len(output), len(factors))
        if rest:
            raise ModelError(
                f"{len(factors)} sets of neurons do not fit a batch of {len(output)}. Give one set, or one for each sample."
            )
        repeated = factors.to(output.device, output.dtype).repeat(copies, 1, 1)
        if tokens is None:
            return output * repeated
        return torch.cat([output[:, : tokens[0]] * repeated, output[:, tokens[0] :]], dim=1)

    return multiplied
