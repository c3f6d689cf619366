"""Switch neurons off in a live pipeline, and on again.

Only hooks are used, so the weights are never touched. A compiled denoiser ignores hooks that are
added later, so it runs uncompiled while neurons are off.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from diffusers import DiffusionPipeline
from torch import Tensor, nn

from unmemorize._errors import ModelError, NeuronError
from unmemorize._files import type_in_words
from unmemorize.neurons._neurons import HasNeurons, Neurons, neurons_in, scale_of
from unmemorize.pipelines import (
    Model,
    denoiser_call,
    lasting_hooks,
    refuse_fused,
    text_rows_only,
    uncompiled,
)

LARGEST_SCALE = 1e6
"""No half-precision weight can be multiplied by more without overflow."""


def check_scale(scale: object) -> None:
    """Refuse what neurons cannot be multiplied by.

    Raises:
        NeuronError: the scale is no number, not finite, or too large.
    """
    way_out = (
        f"neurons are multiplied by a number between {-LARGEST_SCALE:g} and {LARGEST_SCALE:g}. "
        "0 switches them off."
    )
    if not isinstance(scale, (int, float)) or isinstance(scale, bool):
        raise NeuronError(f"scale={scale!r:.60}: {type_in_words(scale)}, but {way_out}")
    if not -LARGEST_SCALE < scale < LARGEST_SCALE:  # NaN is in no range
        raise NeuronError(f"scale={scale:g}: {way_out}")


@contextmanager
def switched_off(
    pipe: DiffusionPipeline | Model,
    neurons: Neurons | HasNeurons,
    *,
    scale: float | None = None,
) -> Iterator[None]:
    """Multiply the outputs of neurons by ``scale`` while the context lasts.

    This concerns every token, conditional and unconditional. On leaving, even by an exception, the
    pipeline is exactly as before. Contexts nest: the scales of a neuron multiply.

    Args:
        pipe: a loaded pipeline.
        neurons: what to switch off: neurons, a localization or a neuron file. An empty set changes
            nothing.
        scale: 0 switches off, a fraction weakens, a negative number inverts; in (-1e6, 1e6). The
            default is that of a neuron file, and else 0.

    Raises:
        NeuronError: the neurons do not exist in this model or belong to another one, or the scale
            is out of its range.
        ModelError: the projections of a layer are fused.

    Examples:
        >>> from unmemorize import load_pipeline
        >>> pipe = load_pipeline("testbed")
        >>> layer = "down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_v"
        >>> with switched_off(pipe, Neurons({layer: [4]})):
        ...     image = pipe("a cat", num_inference_steps=2).images[0]
    """
    model = Model.of(pipe)
    with scaled(model, [neurons_in(model, neurons)], scale_of(neurons, scale)):
        yield


def switch_off(
    pipe: DiffusionPipeline | Model,
    neurons: Neurons | HasNeurons,
    *,
    scale: float | None = None,
) -> None:
    """Multiply the outputs of neurons by ``scale`` until `switch_on` is called.

    Neurons that an earlier call switched off are on again. Load and unload LoRAs before: if one
    replaces a layer whose neurons are off, the pipeline refuses to run until `switch_on` is called.
    Whatever keeps records in a run refuses a pipeline with neurons off.

    Args:
        pipe, neurons, scale: as in `switched_off`.

    Raises:
        NeuronError: as in `switched_off`. The pipeline is then as before.
        ModelError: the projections of a layer are fused. The pipeline is then as before.
    """
    model = Model.of(pipe)
    factors = _factors(model, [neurons_in(model, neurons)], scale_of(neurons, scale))
    switch_on(model)
    if not factors:
        return
    watch = _Watch({path: model.value_layers[path] for path in factors})
    watch.undo.push(_multiplied(model, factors, lasting=True))
    watch.undo.callback(model.denoiser.register_forward_pre_hook(watch).remove)


def switch_on(pipe: DiffusionPipeline | Model) -> None:
    """Undo `switch_off`. Without one this does nothing."""
    for hooks, key in lasting_hooks(Model.of(pipe).denoiser):
        hook = hooks.get(key)
        if isinstance(hook, _Watch):
            hook.undo.close()
        hooks.pop(key, None)  # in a copy of the denoiser, nothing else takes them away


@contextmanager
def scaled(model: Model, rows: Sequence[Neurons], scale: float) -> Iterator[None]:
    """Give each sample of a batch its own neurons to switch off, while the context lasts.

    Sample i has the neurons of row i off. The batch must be as long as the rows, or a multiple of
    it (conditional and unconditional halves) in the same order.
    """
    with _multiplied(model, _factors(model, rows, scale)):
        yield


@contextmanager
def gated(model: Model, gates: Mapping[str, Tensor]) -> Iterator[None]:
    """Multiply the outputs of value layers by gates while the context lasts.

    Args:
        model: the model.
        gates: layer -> (rows, features), one row for the whole batch or one for each sample, as in
            `scaled`. They may require gradients.
    """
    with _multiplied(model, {path: gate[:, None] for path, gate in gates.items()}):
        yield


class _Scaling:
    """A forward hook that multiplies a layer's output by factors (rows, 1, features)."""

    def __init__(
        self, factors: Tensor, text_tokens: list[int] | None, *, lasting: bool = False
    ) -> None:
        self._factors, self._text_tokens = factors, text_tokens
        self._placed = factors
        """The factors where the last output was: copying them each time would stop a GPU."""
        self.lasting = lasting
        """Whether it stays until `switch_on`."""

    def __deepcopy__(self, _memo: object) -> _Scaling:
        # A copied denoiser keeps scaling. Its pre-hook is the same function as before, so the
        # count of text tokens stays shared.
        return _Scaling(self._factors, self._text_tokens, lasting=self.lasting)

    def __call__(self, _layer: nn.Module, _inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        copies, rest = divmod(len(output), len(self._factors))
        if rest:
            raise ModelError(
                f"{len(self._factors)} sets of neurons do not fit a batch of {len(output)}. "
                "Give one set, or one for each sample."
            )
        if (self._placed.device, self._placed.dtype) != (output.device, output.dtype):
            with torch.inference_mode(False):  # or no later pass could be differentiated
                self._placed = self._factors.to(output.device, output.dtype)
        factors = self._placed.repeat(copies, 1, 1)
        if self._text_tokens is None:
            return output * factors
        text = self._text_tokens[0]
        return torch.cat([output[:, :text] * factors, output[:, text:]], dim=1)


class _Watch:
    """A pre-hook that refuses to run a denoiser if layers were replaced whose neurons are off."""

    lasting = True

    def __init__(self, layers: Mapping[str, nn.Module]) -> None:
        self._layers = layers
        self.undo = ExitStack()
        """Removes everything that `switch_off` added together with this hook."""

    def __deepcopy__(self, memo: dict[int, Any]) -> _Watch:
        return _Watch(copy.deepcopy(self._layers, memo))

    def __call__(self, denoiser: nn.Module, _inputs: object) -> None:
        for path, layer in self._layers.items():
            if denoiser.get_submodule(path) is not layer:
                raise ModelError(
                    f"{path}: neurons were switched off there, and the layer was replaced since, "
                    "as loading or unloading a LoRA does. Call switch_on(pipe), and then "
                    "switch_off(pipe, neurons) again."
                )


def _multiplied(model: Model, factors: Mapping[str, Tensor], *, lasting: bool = False) -> ExitStack:
    """Multiply outputs by factors that broadcast over (B, tokens, features), until it is closed."""
    text_tokens = [0]

    def note(denoiser: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        text_tokens[0] = denoiser_call(denoiser, args, kwargs).text.shape[1]

    with ExitStack() as stack:
        stack.enter_context(uncompiled(model.pipe))
        if any(map(text_rows_only, factors)):
            handle = model.denoiser.register_forward_pre_hook(note, with_kwargs=True)
            stack.callback(handle.remove)
        for path, factor in factors.items():
            tokens = text_tokens if text_rows_only(path) else None
            hook = _Scaling(factor, tokens, lasting=lasting)
            stack.callback(model.value_layers[path].register_forward_hook(hook).remove)
        return stack.pop_all()


def _factors(model: Model, rows: Sequence[Neurons], scale: float) -> dict[str, Tensor]:
    """What the outputs of each layer are multiplied by, (rows, 1, features)."""
    check_scale(scale)
    for neurons in rows:
        neurons.check(model)
    factors = {}
    for path, width in model.widths.items():
        if any(path in neurons.layers for neurons in rows):
            refuse_fused(model.denoiser, [path])
            factors[path] = torch.ones(len(rows), 1, width, dtype=torch.float32)
            for row, neurons in enumerate(rows):
                factors[path][row, :, list(neurons.layers.get(path, ()))] = scale
    return factors
