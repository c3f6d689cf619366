"""How strongly value neurons answer to a prompt, at the least cost: most value layers see the text alone, whatever the image.

Where each value layer reads the text embeddings themselves (Stable Diffusion), only the layers run. Where they all read the same projection
of these (PixArt, DeepFloyd IF), the denoiser runs up to the first of them. Where text and image mix on the way (Stable Diffusion 3, Flux),
it runs once, on one initial noise at the timestep that protocol "upstream" evaluates.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from typing import Any, Literal, NoReturn
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from unmemorize._errors import ModelError
from unmemorize.pipelines import Conditioning, Model, refuse_fused, text_rows_only

Source = Literal["text", "projection", "denoiser"]
_SEED, _STEPS, _STEP = 1, 50, 1
_AT_ONCE = 4
"""Prompts that the denoiser sees at a time."""
_SOURCES: WeakKeyDictionary[nn.Module, Source] = WeakKeyDictionary()


class _ReachedError(Exception):
    """The first value layer was called."""


@torch.no_grad()
def activations(model: Model, text: Conditioning) -> dict[str, Tensor]:
    """Activation of every value neuron, layer -> (B, features), float32.

    The activation is the mean over the text's token positions, padding included, of the absolute output.

    Args:
        model: the model.
        text: B prompts from `Model.encode`.
    """
    source = source_of(model)
    if source == "text" and not hasattr(
        model.denoiser, "_hf_hook"
    ):  # what is offloaded is elsewhere until the denoiser runs
        return {
            path: _mean_absolute(layer(text.text)) for path, layer in model.value_layers.items()
        }
    parts = [
        text.take(range(start, min(start + _AT_ONCE, len(text))))
        for start in range(0, len(text), _AT_ONCE)
    ]
    found = [
        _projected(model, part) if source != "denoiser" else _in_a_forward(model, part)
        for part in parts
    ]
    return {path: torch.cat([part[path] for part in found]) for path in model.value_layers}


def _mean_absolute(output: Tensor) -> Tensor:
    return output.float().abs().mean(1)


def _in_a_forward(model: Model, text: Conditioning) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    tokens = text.text.shape[1]

    def keep(path: str, _given: Tensor, output: Tensor) -> None:
        found[path] = _mean_absolute(output[:, :tokens] if text_rows_only(path) else output)

    _run(model, text, keep, model.value_layers)
    return found


def _projected(model: Model, text: Conditioning) -> dict[str, Tensor]:
    seen: list[Tensor] = []
    first = next(iter(model.value_layers))

    def reach(_path: str, given: Tensor, _output: Tensor) -> NoReturn:
        seen.append(given)
        raise _ReachedError

    with suppress(_ReachedError):
        _run(model, text, reach, {first: model.value_layers[first]})
    return {path: _mean_absolute(layer(seen[0])) for path, layer in model.value_layers.items()}


def source_of(model: Model) -> Source:
    """What the value layers read, seen once per denoiser from one forward."""
    if model.denoiser not in _SOURCES:
        text = model.encode(["a"])
        inputs: dict[str, Tensor] = {}
        _run(
            model,
            text,
            lambda path, given, _output: inputs.__setitem__(path, given),
            model.value_layers,
        )
        for path, given in inputs.items():
            if not text_rows_only(path) and (
                given.ndim != 3 or given.shape[1] != text.text.shape[1]
            ):
                raise ModelError(
                    f"{path}: it is given {tuple(given.shape)}, not the {text.text.shape[1]} tokens of a text, so it is no value layer. "
                    f"Name others: --value-layers PATTERN."
                )
        first = next(iter(inputs.values()))
        alike = len(inputs) > 1 and all(
            given.shape == first.shape and torch.equal(given, first) for given in inputs.values()
        )
        reads_text = all(
            given.shape == text.text.shape and torch.equal(given, text.text)
            for given in inputs.values()
        )
        _SOURCES[model.denoiser] = "text" if reads_text else "projection" if alike else "denoiser"
    return _SOURCES[model.denoiser]


def _run(
    model: Model,
    text: Conditioning,
    keep: Callable[[str, Tensor, Tensor], object],
    layers: Mapping[str, nn.Module],
) -> None:
    """Run the denoiser on one noise; ``keep`` gets each layer's path, input and output."""

    def hook(path: str) -> Callable[[nn.Module, tuple[Any, ...], Tensor], None]:
        def called(_layer: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
            keep(path, inputs[0], output)

        return called

    refuse_fused(model.denoiser, layers)
    with ExitStack() as stack:
        for path, layer in layers.items():
            stack.callback(layer.register_forward_hook(hook(path)).remove)
        model.predict(
            model.draw_latents(1, _SEED).expand(len(text), -1, -1, -1),
            model.timesteps(_STEPS)[_STEP],
            text,
        )
