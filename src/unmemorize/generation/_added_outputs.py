"""Differences of weights, applied to some samples of a batch while the weights stay."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from unmemorize._errors import EditError
from unmemorize.generation._chosen_samples import ChosenSamples
from unmemorize.pipelines import (
    Model,
    by_component,
    is_compiled,
    is_quantized,
    layer_at,
    name_of_denoiser,
    refuse_fused,
    uncompiled,
)

_EXACT = (torch.float32, torch.float64)
"""Types of weights in which small differences are not lost."""


def layer_of(model: Model, path: str) -> nn.Module:
    """Return a layer that has a weight, of the denoiser or of a text encoder.

    Raises:
        EditError: there is none.
    """
    try:
        layer = layer_at(model, path)
    except AttributeError:
        layer = None
    if layer is None or getattr(layer, "weight", None) is None:
        raise EditError(
            f"{path}: {model.name} has no such layer with a weight. "
            "Load the model that the edit belongs to."
        )
    return layer


@contextmanager
def added_outputs(
    model: Model, differences: Mapping[str, Mapping[str, Tensor]], rows: Sequence[bool]
) -> Iterator[None]:
    """Let layers compute with weights plus differences, for some samples of a batch.

    A layer is linear in its weight and bias, so what a difference adds to its output is the output
    of the same layer with the difference in place of the weight. Where all samples are concerned
    and no other hook sees the layer, it computes once, with the sum in place of the weight.

    Args:
        model: the model.
        differences: path of a layer -> "weight" or "bias" -> what is added to it.
        rows: see `Edit.applied`.

    Raises:
        EditError: the model has no such layer, or its text encoder is compiled.
        ModelError: the projections of an attention are fused, or a batch does not fit the rows.
    """
    components = by_component(model.pipe, differences)
    refuse_fused(model.denoiser, components.pop(name_of_denoiser(model.pipe), {}))
    for component in components:
        if is_compiled(getattr(model.pipe, component)):
            raise EditError(
                f"{model.name}: its {component} is compiled, and compiled networks ignore edits. "
                "Load it without torch.compile."
            )
    with ExitStack() as stack:
        stack.enter_context(uncompiled(model.pipe))
        for path, difference in differences.items():
            layer = layer_of(model, path)
            addition = _Addition(layer, difference, rows)
            # like the input of closed-form edits: an inner edit meets the input first
            stack.callback(layer.register_forward_pre_hook(addition.begin, prepend=True).remove)
            stack.callback(layer.register_forward_hook(addition.end).remove)
            stack.callback(addition.put_back)
        yield


class _Addition:
    """Adds what a layer with differences in place of its weights makes of some samples."""

    def __init__(
        self, layer: nn.Module, difference: Mapping[str, Tensor], rows: Sequence[bool]
    ) -> None:
        base: Any = getattr(layer, "base_layer", layer)
        # what unpacks its own form of weights (4 bits) knows no others, but is as linear
        linear = isinstance(base, nn.Linear)
        self._forward = nn.Linear.forward if linear else type(base).forward
        self._twin = copy.copy(base)  # shares everything but the weights
        self._difference, self._samples = difference, ChosenSamples(rows)
        self._placed: dict[tuple[str, torch.device, torch.dtype], Tensor] = {}
        """The differences where the layer was: copying them each time would stop a GPU."""
        self._parameters = base._parameters
        self._input: Tensor | None = None
        self._whole: dict[str, Any] | None = None
        """The weights of the layer while the sums are in their place."""

    def begin(self, layer: nn.Module, args: tuple[Any, ...]) -> None:
        """Note the input, and put the sums in place of the weights where they may be."""
        self._input = args[0]
        self._samples.of(args[0])  # refuses a batch that does not fit
        if not self._may_change_weights(layer, args[0].device):
            return
        self._whole = dict(self._parameters)
        for name in self._difference:
            kept = self._whole[name]
            self._parameters[name] = kept + self._difference_like(name, kept)

    def end(self, _layer: nn.Module, _args: tuple[Any, ...], output: Tensor) -> Tensor:
        """Put the weights back, or add to the output."""
        read, self._input = self._input, None
        assert read is not None
        if self._whole is not None:
            self.put_back()
            return output
        return self._added(read, output)

    def put_back(self) -> None:
        """Put the weights back, also where the layer has failed in between."""
        if self._whole is not None:
            self._parameters.update(self._whole)
            self._whole = None

    def _may_change_weights(self, layer: nn.Module, device: torch.device) -> bool:
        """Whether sums in place of the weights do the same, without losing small differences."""
        return (
            self._samples.are_all
            and layer._parameters is self._parameters  # no adapter
            and len(layer._forward_hooks) == len(layer._forward_pre_hooks) == 1
            and all(
                kept is None
                or (
                    kept.device == device  # else it is offloaded, and comes when the layer runs
                    and kept.dtype in _EXACT
                    and not is_quantized(kept)
                )
                for kept in self._parameters.values()
            )
        )

    def _added(self, read: Tensor, output: Tensor) -> Tensor:
        # of the type of the output, as embeddings read whole numbers
        self._twin.__dict__["_parameters"] = {
            name: self._value(name, kept, output) for name, kept in self._parameters.items()
        }
        samples = self._samples.of(read)
        changed = output.clone()
        changed[samples] += self._forward(self._twin, read[samples])
        return changed

    def _value(self, name: str, kept: Tensor | None, like: Tensor) -> Tensor | None:
        if name in self._difference:
            return self._difference_like(name, like)
        return None if kept is None else like.new_zeros(kept.shape)

    def _difference_like(self, name: str, like: Tensor) -> Tensor:
        place = name, like.device, like.dtype
        if place not in self._placed:
            with torch.inference_mode(False):  # or no later pass could be differentiated
                self._placed[place] = self._difference[name].to(like.device, like.dtype)
        return self._placed[place]
