"""The denoiser of a pipeline as it is called, and its weights wherever they are: compiled, adapted by a LoRA, or offloaded."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

from diffusers import DiffusionPipeline
from torch import Tensor, nn

from unmemorize._errors import ModelError

_NAMES = ("unet", "transformer")


def name_of_denoiser(pipe: DiffusionPipeline) -> str:
    """The component of the pipeline that denoises.

    Raises:
        ModelError: it has none.
    """
    for name in _NAMES:
        if isinstance(getattr(pipe, name, None), nn.Module):
            return name
    raise ModelError(
        f"{type(pipe).__name__}: it has neither a unet nor a transformer. Load a text-to-image pipeline of diffusers."
    )


def denoiser_of(pipe: DiffusionPipeline) -> nn.Module:
    """The denoiser itself, also where the pipeline holds one that ``torch.compile`` has wrapped."""
    held = getattr(pipe, name_of_denoiser(pipe))
    return cast(nn.Module, getattr(held, "_orig_mod", held))


@contextmanager
def replaced(pipe: DiffusionPipeline, other: object) -> Iterator[None]:
    """The pipeline has another denoiser while the context lasts."""
    name = name_of_denoiser(pipe)
    held = getattr(pipe, name)
    object.__setattr__(
        pipe, name, other
    )  # past the pipeline's own, which would write into its config
    try:
        yield
    finally:
        object.__setattr__(pipe, name, held)


@contextmanager
def uncompiled(pipe: DiffusionPipeline) -> Iterator[None]:
    """Compiled denoisers ignore hooks that come later, so the pipeline runs the plain one while the context lasts."""
    plain = denoiser_of(pipe)
    compiled = [
        (module, module._compiled_call_impl)
        for module in plain.modules()
        if module._compiled_call_impl is not None
    ]
    for module, _ in compiled:
        module._compiled_call_impl = None
    try:
        with replaced(pipe, plain):
            yield
    finally:
        for module, call in compiled:
            module._compiled_call_impl = call


def is_linear(module: nn.Module) -> bool:
    """Whether a module is a linear layer, adapted by a LoRA or not."""
    return isinstance(getattr(module, "base_layer", module), nn.Linear)


def adapters_of(layer: nn.Module) -> str:
    """How the LoRAs of a linear layer are used, as text; empty without."""
    if not hasattr(layer, "base_layer"):
        return ""
    found: Any = layer
    strengths = {name: found.scaling[name] for name in sorted(found.scaling)}
    return f" active {found.active_adapters}, merged {found.merged_adapters}, disabled {found.disable_adapters}, strengths {strengths}"


def weights_of(layer: nn.Module) -> dict[str, Tensor]:
    """Weight, bias if any, and what a loaded LoRA adds to a linear layer, by name; also where accelerate keeps them elsewhere."""
    base: Any = getattr(layer, "base_layer", layer)
    offloaded = getattr(getattr(base, "_hf_hook", None), "weights_map", None)
    found = {
        name: offloaded[name] if value.is_meta and offloaded is not None else value
        for name, value in base.named_parameters()
    }
    if base is not layer:
        found |= {
            name: value
            for name, value in layer.named_parameters()
            if not name.startswith("base_layer.")
        }
    return found
