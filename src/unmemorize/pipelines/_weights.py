"""The values of a network's weights, wherever and in whatever form they are kept.

accelerate keeps weights in memory or in files until a module runs, diffusers and peft keep them in
smaller types or in parts. What counts is the value that a module computes with.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, cast

import torch
from diffusers import DiffusionPipeline
from torch import Tensor, nn

from unmemorize._errors import ModelError
from unmemorize.pipelines._adapters import is_adapted, roles_of_parameters

_APART = ("safety_checker", "image_encoder")
"""Components that look at finished or given images, not at prompts."""
_FLOATS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
_PACKED = ("Params4bit", "GGUFParameter")
"""Weights of bitsandbytes and GGUF, which their libraries unpack."""


@dataclass(frozen=True)
class Weight:
    """A weight of a network.

    Args:
        module: the module that it belongs to.
        name: its name there.
        kept: what the module holds, which may be a placeholder.
        role: what an adapter does with it; empty for a weight of the network's own.
    """

    module: nn.Module
    name: str
    kept: Tensor
    role: str = ""

    def onloaded(self) -> Tensor:
        """Read it from where accelerate keeps it.

        Raises:
            ModelError: it is nowhere.
        """
        if not self.kept.is_meta:
            return self.kept
        offloaded = _weights_map(getattr(self.module, "_hf_hook", None))
        if offloaded is None:
            raise ModelError(
                f"{type(self.module).__name__}: its {self.name} is not in memory. Load the model "
                "again."
            )
        return cast(Tensor, offloaded[self.name])

    def value(self) -> Tensor:
        """Return the value that the module computes with, in a type of 16 bits or more.

        Raises:
            ModelError: it is nowhere, or kept in a form that cannot be read.
        """
        tensor = self.onloaded()
        value = (_dequantized(tensor) if is_quantized(self.kept) else tensor).detach()
        return value if value.dtype in _FLOATS else value.to(torch.float32)


def networks_of(pipe: DiffusionPipeline) -> dict[str, nn.Module]:
    """Return the networks that take part when a prompt becomes an image, by component."""
    networks = {
        name: getattr(component, "_orig_mod", component)  # torch.compile wraps it
        for name, component in sorted(pipe.components.items())
        if name not in _APART
    }
    return {name: part for name, part in networks.items() if isinstance(part, nn.Module)}


def weights_in(network: nn.Module) -> Iterator[Weight]:
    """Yield what takes part in the results of a network, in the order of its modules.

    These are parameters, saved buffers of real numbers, and the weights of adapters in effect.
    """
    roles: dict[int, str | None] = {}
    for module in network.modules():
        if is_adapted(module):
            roles |= roles_of_parameters(module)
        buffers = {
            name: buffer
            for name, buffer in module._buffers.items()
            if name not in module._non_persistent_buffers_set
        }
        for name, tensor in (*module._parameters.items(), *buffers.items()):
            if tensor is None or not (is_quantized(tensor) or tensor.is_floating_point()):
                continue
            if (role := roles.get(id(tensor), "")) is not None:
                yield Weight(module, name, tensor, role)


def stored_dtype(network: nn.Module) -> torch.dtype | None:
    """Return the type that a network's weights are kept in; None without a weight.

    Those that diffusers keeps in float32 in any case do not count.
    """
    kept = getattr(network, "_keep_in_fp32_modules", None) or ()
    own = (
        parameter.dtype
        for name, parameter in network.named_parameters()
        if parameter.is_floating_point() and not any(part in name for part in kept)
    )
    return next(own, None)


def weights_of(layer: nn.Module) -> dict[str, Tensor]:
    """Return the values of weight, bias and adapters of a linear layer by name.

    Raises:
        ModelError: a value cannot be read.
    """
    base = getattr(layer, "base_layer", layer)
    modules = dict(layer.named_modules())
    weights = {name: Weight(base, name, kept).value() for name, kept in base.named_parameters()}
    for path, kept in layer.named_parameters():
        if base is not layer and not path.startswith("base_layer."):
            prefix, _, name = path.rpartition(".")
            weights[path] = Weight(modules[prefix], name, kept).value()
    return weights


def is_quantized(tensor: Tensor) -> bool:
    """Whether a tensor holds weights in another form than as real numbers."""
    if type(tensor) not in (Tensor, nn.Parameter, nn.Buffer):
        return True
    return isinstance(tensor, nn.Parameter) and not tensor.is_floating_point()


def offloads_groups(network: nn.Module) -> bool:
    """Whether diffusers moves the weights of whole blocks to the device when these run."""
    return any(_group_hook(module) is not None for module in network.modules())


def refuse_unreadable(pipe: DiffusionPipeline) -> None:
    """Refuse networks whose weights cannot be read, or that compute with others.

    Raises:
        ModelError: weights lie in files of a group offload, or are quantized in a way that is not
            known or depends on the batch.
    """
    for component, network in networks_of(pipe).items():
        for module in network.modules():
            group = getattr(_group_hook(module), "group", None)
            if getattr(group, "offload_to_disk_path", None) is not None:
                raise ModelError(
                    f"{component}: its groups are offloaded to files, and nothing is left in "
                    "memory to read. Offload groups without offload_to_disk_path, or use "
                    "enable_sequential_cpu_offload."
                )
            if hasattr(module, "weight_qtype") and not module.frozen:
                raise ModelError(
                    f"{component}: quanto quantizes its weights at each call. Call "
                    "optimum.quanto.freeze first."
                )
        for weight in weights_in(network):
            _refuse_unknown(component, weight.kept)


def _refuse_unknown(component: str, tensor: Tensor) -> None:
    kind = type(tensor).__name__
    if kind == "Int8Params":
        raise ModelError(
            f"{component}: bitsandbytes rounds the inputs of its 8-bit layers as the whole batch "
            "requires, so results depend on the batch. Load it in 4 bits or without quantization."
        )
    if is_quantized(tensor) and kind not in _PACKED and not _knows_its_value(tensor):
        raise ModelError(
            f"{component}: its weights are kept as {kind} of {tensor.dtype}, which cannot be read. "
            "Load it without quantization."
        )


def _dequantized(tensor: Tensor) -> Tensor:
    kind: Any = type(tensor)
    if kind.__name__ == "Params4bit":
        from bitsandbytes.functional import dequantize_4bit

        return cast(Tensor, dequantize_4bit(tensor.data, cast(Any, tensor).quant_state))
    if kind.__name__ == "GGUFParameter":
        from diffusers.quantizers.gguf.utils import dequantize_gguf_tensor

        return cast(Tensor, dequantize_gguf_tensor(tensor))
    return tensor.dequantize()


def _knows_its_value(tensor: Tensor) -> bool:
    """Whether a tensor is of a kind that dequantizes itself, as those of torchao and quanto do."""
    return type(tensor).dequantize is not Tensor.dequantize


def _weights_map(hook: Any) -> Any:
    """Find where accelerate keeps the weights of a module; None if they are not offloaded."""
    for each in getattr(hook, "hooks", (hook,)):
        if getattr(each, "weights_map", None) is not None:
            return each.weights_map
    return None


def _group_hook(module: nn.Module) -> Any:
    hooks = getattr(module, "_diffusers_hook", None)
    return hooks.get_hook("group_offloading") if hooks is not None else None
