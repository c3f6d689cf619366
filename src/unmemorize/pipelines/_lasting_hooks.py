"""Hooks that change a denoiser until they are taken away."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import nn

from unmemorize._errors import ModelError

if TYPE_CHECKING:
    from unmemorize.pipelines._model import Model


def lasting_hooks(denoiser: nn.Module) -> list[tuple[dict[int, Any], int]]:
    """Find the hooks of `switch_off`, each by the dictionary that holds it and its key there.

    Their attribute ``lasting`` is true. All modules are searched, because loading a LoRA moves a
    layer into another.
    """
    return [
        (hooks, key)
        for module in denoiser.modules()
        for hooks in (module._forward_hooks, module._forward_pre_hooks)
        for key, hook in hooks.items()
        if getattr(hook, "lasting", False)
    ]


def refuse_switched_off(model: Model) -> None:
    """Refuse a pipeline in which `switch_off` has switched neurons off.

    Raises:
        ModelError: neurons are off, so results would carry the fingerprint of the unmodified model.
    """
    if lasting_hooks(model.denoiser):
        raise ModelError(
            "neurons are switched off in this pipeline, so it is not the model as loaded. "
            "Call switch_on(pipe) first."
        )
