"""What the value layers read, and one forward pass in which their inputs and outputs are seen."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING, Any, Literal, NoReturn

import torch
from torch import Tensor, nn

from unmemorize._errors import ModelError
from unmemorize.pipelines._encoded import Conditioning
from unmemorize.pipelines._value_layers import refuse_fused, text_rows_only

if TYPE_CHECKING:
    from unmemorize.pipelines._model import Model

ValueInput = Literal["text", "projection", "denoiser"]
"""The text embeddings themselves, one projection of them that all layers share, or features that
depend on the image, too."""
Observer = Callable[[str, Tensor, Tensor], object]
"""Called with a layer's path, its input and its output."""
_SEED, _STEPS, _STEP = 1, 50, 1


class _ReachedError(Exception):
    """The first value layer was called."""


def find_value_input(model: Model) -> ValueInput:
    """Observe in one forward pass what the value layers read.

    Raises:
        ModelError: a layer does not read text.
    """
    text = model.encode(["a"])
    inputs: dict[str, Tensor] = {}

    def note(path: str, given: Tensor, _output: Tensor) -> None:
        inputs[path] = given

    observe(model, text, note, model.value_layers)
    tokens = text.text.shape[1]
    lengths = {tokens, text.all_tokens}
    for path, given in inputs.items():
        if not text_rows_only(path) and (given.ndim != 3 or given.shape[1] not in lengths):
            raise ModelError(
                f"{path}: it reads {tuple(given.shape)}, not the {tokens} tokens of a text, so it "
                "is no value layer. Name others: --value-layers PATTERN."
            )
    if all(_equal(given, text.text) for given in inputs.values()):
        return "text"
    first = next(iter(inputs.values()))
    shared = len(inputs) > 1 and all(_equal(given, first) for given in inputs.values())
    return "projection" if shared else "denoiser"


def observe(
    model: Model, text: Conditioning, observer: Observer, layers: Mapping[str, nn.Module]
) -> None:
    """Run the denoiser for these prompts on one noise and let ``observer`` see these layers.

    Raises:
        ModelError: the projections of a layer are fused.
    """

    def hook(path: str) -> Callable[[nn.Module, tuple[Any, ...], Tensor], None]:
        def called(_layer: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
            observer(path, inputs[0], output)

        return called

    refuse_fused(model.denoiser, layers)
    latents, timestep = observed_noise(model, 1)
    latents = latents.expand(len(text), -1, -1, -1)
    with ExitStack() as stack:
        for path, layer in layers.items():
            stack.callback(layer.register_forward_hook(hook(path)).remove)
        model.predict(latents, timestep, text)


@torch.no_grad()
def first_input(model: Model, text: Conditioning) -> Tensor:
    """Run the denoiser up to its first value layer, and return what that layer reads.

    Edits that are applied to the model meanwhile do not count.

    Args:
        model: the model.
        text: B prompts.

    Returns:
        (B, tokens, features) where value layers read text.

    Raises:
        ModelError: the projections of the layer are fused.
    """
    inputs: list[Tensor] = []

    def stop(_layer: nn.Module, args: tuple[Any, ...]) -> NoReturn:
        inputs.append(args[0])
        raise _ReachedError

    path, layer = next(iter(model.value_layers.items()))
    refuse_fused(model.denoiser, [path])
    latents, timestep = observed_noise(model, 1)
    # in front of the hooks of edits, which change what the layer reads
    handle = layer.register_forward_pre_hook(stop, prepend=True)
    try:
        with suppress(_ReachedError):
            model.predict(latents.expand(len(text), -1, -1, -1), timestep, text)
    finally:
        handle.remove()
    return inputs[0]


def observed_noise(model: Model, count: int) -> tuple[Tensor, Tensor]:
    """Return the noise (count, C, H, W) and timestep at which the denoiser itself is observed.

    They are those that protocol "published" evaluates.
    """
    return model.draw_latents(count, _SEED), model.timesteps(_STEPS)[_STEP]


def _equal(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and torch.equal(one, other)
