"""The denoiser of a pipeline, compiled or not."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import cast

from diffusers import DiffusionPipeline
from torch import nn

from unmemorize._errors import ModelError

_NAMES = ("unet", "transformer")
_FREE_U = ("s1", "s2", "b1", "b2")
"""Attributes of blocks, which enable FreeU if all of them are set."""
_HOOKS_OF_WEIGHTS = {
    "group_offloading",
    "lazy_prefetch_group_offloading",
    "layer_execution_tracker",
    "layerwise_casting",
    "peft_autocast_disable",
}
"""Hooks of diffusers that move or cast weights. All others change what is computed."""


def name_of_denoiser(pipe: DiffusionPipeline) -> str:
    """Return the name of the component that denoises.

    Raises:
        ModelError: there is none.
    """
    for name in _NAMES:
        if isinstance(getattr(pipe, name, None), nn.Module):
            return name
    raise ModelError(
        f"{type(pipe).__name__}: it has neither a unet nor a transformer. Load a text-to-image "
        "pipeline of diffusers."
    )


def denoiser_of(pipe: DiffusionPipeline) -> nn.Module:
    """Return the denoiser, without the wrapper that ``torch.compile`` may have put around it."""
    component = getattr(pipe, name_of_denoiser(pipe))
    return cast(nn.Module, getattr(component, "_orig_mod", component))


@contextmanager
def replaced(pipe: DiffusionPipeline, other: object) -> Iterator[None]:
    """Put something else in the place of the denoiser while the context lasts."""
    name = name_of_denoiser(pipe)
    component = getattr(pipe, name)
    # the pipeline's own __setattr__ would write the replacement into its config
    object.__setattr__(pipe, name, other)
    try:
        yield
    finally:
        object.__setattr__(pipe, name, component)


def is_compiled(network: nn.Module) -> bool:
    """Tell whether ``torch.compile`` has compiled a network, from outside or in place."""
    return hasattr(network, "_orig_mod") or network._compiled_call_impl is not None


@contextmanager
def uncompiled(pipe: DiffusionPipeline) -> Iterator[None]:
    """Run the plain denoiser while the context lasts.

    Compiled denoisers ignore hooks that are added later.
    """
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
    """Whether a module is a linear layer, with or without an adapter."""
    return isinstance(getattr(module, "base_layer", module), nn.Linear)


def refuse_altered(pipe: DiffusionPipeline, denoiser: nn.Module) -> None:
    """Refuse a denoiser that predicts something else than its weights and the text say.

    Raises:
        ModelError: an IP-Adapter is loaded, a cache, FreeU or another hook is in the way.
    """
    _refuse_image_prompts(pipe, denoiser)
    _refuse_caches(pipe, denoiser)
    _refuse_hooks(pipe, denoiser)
    _refuse_free_u(pipe, denoiser)


def _refuse_image_prompts(pipe: DiffusionPipeline, denoiser: nn.Module) -> None:
    """Refuse a denoiser that waits for an image beside the prompt.

    Raises:
        ModelError: an IP-Adapter is loaded.
    """
    processors = getattr(denoiser, "attn_processors", {}).values()
    if any("IPAdapter" in type(processor).__name__ for processor in processors):
        raise ModelError(
            f"{type(pipe).__name__}: an IP-Adapter is loaded, which needs an image beside the "
            "prompt. Call pipe.unload_ip_adapter() first."
        )


def _refuse_caches(pipe: DiffusionPipeline, denoiser: nn.Module) -> None:
    """Refuse a denoiser that may return what it has computed for another step or other samples.

    Raises:
        ModelError: a cache of diffusers is enabled, such as the one of the first block.
    """
    if getattr(denoiser, "is_cache_enabled", False):
        name = name_of_denoiser(pipe)
        raise ModelError(
            f"{type(pipe).__name__}: a cache is enabled, with which its {name} takes over results "
            f"of earlier steps. Call pipe.{name}.disable_cache() first."
        )


def _refuse_hooks(pipe: DiffusionPipeline, denoiser: nn.Module) -> None:
    """Refuse a denoiser with hooks that do not just say where its weights lie and of what type.

    Such as caches that are applied without `enable_cache`, and guidance that skips layers.

    Raises:
        ModelError: there is one.
    """
    for path, module in denoiser.named_modules():
        registry = getattr(module, "_diffusers_hook", None)
        for hook in sorted(set(registry.hooks) - _HOOKS_OF_WEIGHTS) if registry else ():
            name = name_of_denoiser(pipe)
            raise ModelError(
                f"{type(pipe).__name__}: the hook {hook} on {'.'.join(filter(None, (name, path)))} "
                f"may change what its {name} predicts. Remove it first, or load the model anew."
            )


def _refuse_free_u(pipe: DiffusionPipeline, denoiser: nn.Module) -> None:
    """Refuse a denoiser whose features FreeU scales.

    It predicts something else with the same weights, so the fingerprint would not tell.

    Raises:
        ModelError: FreeU is enabled.
    """
    blocks = getattr(denoiser, "up_blocks", ())
    if any(all(getattr(block, name, None) for name in _FREE_U) for block in blocks):
        raise ModelError(
            f"{type(pipe).__name__}: FreeU is enabled, which changes predictions but no weights. "
            "Call pipe.disable_freeu() first."
        )
