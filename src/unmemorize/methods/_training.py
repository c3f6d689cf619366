"""Weights that are trained for a while, and put back."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from unmemorize._errors import MitigationError
from unmemorize.generation import WeightEdit
from unmemorize.pipelines import Model, adapted_layers, is_compiled, is_quantized


class Training:
    """Weights of a model that are being trained.

    Args:
        parameters: by name, such as "mid_block.attn2.to_k.weight".
    """

    def __init__(self, parameters: dict[str, nn.Parameter]) -> None:
        self.parameters = parameters
        self.before = {name: value.detach().clone() for name, value in parameters.items()}
        """Copies of the weights as they were."""

    def values(self) -> list[nn.Parameter]:
        """Return the weights."""
        return list(self.parameters.values())

    def gradients(self, loss: Tensor, *, again: bool = False) -> list[Tensor]:
        """Differentiate a loss with respect to the weights; nothing is left on them.

        Args:
            loss: the loss, ().
            again: whether another loss of the same prediction will be differentiated.
        """
        found = torch.autograd.grad(loss, self.values(), allow_unused=True, retain_graph=again)
        return [
            torch.zeros_like(value) if gradient is None else gradient
            for value, gradient in zip(self.values(), found, strict=True)
        ]

    def edit(self, source: str) -> WeightEdit:
        """Return what training has changed.

        Raises:
            EditError: a weight is not finite.
        """
        return WeightEdit(
            {
                name: value.detach().cpu().double() - self.before[name].cpu().double()
                for name, value in self.parameters.items()
            },
            source,
        )

    @contextmanager
    def untrained(self) -> Iterator[None]:
        """Put the weights of before into the model while the context lasts."""
        now = {name: value.detach().clone() for name, value in self.parameters.items()}
        self.restore()
        try:
            yield
        finally:
            with torch.no_grad():
                for name, value in self.parameters.items():
                    value.copy_(now[name])

    def restore(self) -> None:
        """Put the weights back, bit by bit."""
        with torch.no_grad():
            for name, value in self.parameters.items():
                value.grad = None
                value.copy_(self.before[name])


def why_fixed(network: nn.Module, part: str) -> str:
    """Say why the weights of a network cannot be trained; nothing if they can.

    Args:
        network: a part of a pipeline.
        part: what it is called.
    """
    if is_compiled(network):
        return f"its {part} is compiled, and compiled networks ignore edits"
    if adapted_layers(network):
        return f"a LoRA has changed its {part}"
    if any(is_quantized(weight) or weight.is_meta for weight in network.parameters()):
        return f"its {part} is quantized or offloaded"
    return ""


@contextmanager
def training(model: Model, paths: Iterable[str], method: str) -> Iterator[Training]:
    """Let weights and biases of layers be trained, and put them back at the end.

    Args:
        model: the model.
        paths: of layers of the denoiser.
        method: the name of the method, for errors.

    Raises:
        MitigationError: the model is not in float32 or float64 in memory.
    """
    if model.dtype not in (torch.float32, torch.float64):
        raise MitigationError(
            f"{method}: {model.name} is loaded in {model.dtype}, in which small training steps are "
            "lost. Load it with --dtype float32."
        )
    parameters: dict[str, nn.Parameter] = {}
    adapted = tuple(adapted_layers(model.denoiser))
    for path in paths:
        layer = model.denoiser.get_submodule(path)
        for name in ("weight", "bias"):
            value = getattr(layer, name, None)
            if value is None:
                continue
            inside = any(f"{path}.".startswith(f"{outer}.") for outer in adapted)
            if inside or is_quantized(value) or value.is_meta:
                raise MitigationError(
                    f"{method}: {path} is quantized, offloaded or has an adapter, so it cannot be "
                    "trained. Load the model as it is, without offloading."
                )
            parameters[f"{path}.{name}"] = value
    required = {name: value.requires_grad for name, value in parameters.items()}
    weights = Training(parameters)
    try:
        for value in parameters.values():
            value.requires_grad_(True)
        yield weights
    finally:
        weights.restore()
        for name, value in parameters.items():
            value.requires_grad_(required[name])


def weighted_layers(model: Model) -> list[str]:
    """Return the paths of all layers of the denoiser that have weights or biases of their own."""
    return [
        path
        for path, layer in model.denoiser.named_modules()
        if any(layer._parameters.get(name) is not None for name in ("weight", "bias"))
    ]
