"""What a training moves: weights themselves, or the factors of a LoRA that is added to them.

And the optimizer that moves them, whose state can be kept.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

import torch
from torch import Tensor

from unmemorize._errors import DivergedError, MitigationError, ModelError
from unmemorize.generation import LowRank, WeightEdit
from unmemorize.methods._training import Training

_SEED = 5
_MOMENTS = ("exp_avg", "exp_avg_sq")


class Parameters(Protocol):
    """What an optimizer moves, and a model that follows."""

    @property
    def parameters(self) -> Mapping[str, Tensor]:
        """What the optimizer moves, by name."""
        ...

    def write(self) -> None:
        """Put the weights that follow from the parameters into the model."""
        ...


class Trained(Parameters, Protocol):
    """Parameters, and the weights of the model that follow from them."""

    def differentiate(self, loss: Tensor, *, add: bool = False) -> None:
        """Set the gradients of the parameters, or add those of another part of the loss."""
        ...

    def untrained(self) -> AbstractContextManager[None]:
        """Put the weights of before the training into the model while the context lasts."""
        ...

    def edit(self) -> WeightEdit:
        """Return what has been changed."""
        ...


@contextmanager
def refusing_divergence(trained: Parameters, error: DivergedError) -> Iterator[None]:
    """Raise the error if the denoiser predicts NaN meanwhile, or a parameter is NaN or infinite."""
    try:
        yield
    except ModelError as problem:  # what it predicts is not finite
        raise error from problem
    if not all(bool(value.isfinite().all()) for value in trained.parameters.values()):
        raise error


class WholeWeights:
    """Weights and biases of layers.

    Args:
        weights: of the model.
        source: what trains them, for the edit.
    """

    def __init__(self, weights: Training, source: str) -> None:
        self._weights, self._source = weights, source
        self.parameters: Mapping[str, Tensor] = weights.parameters

    def differentiate(self, loss: Tensor, *, add: bool = False) -> None:
        """See `Trained`."""
        gradients = self._weights.gradients(loss)
        for parameter, gradient in zip(self._weights.values(), gradients, strict=True):
            _set_gradient(parameter, gradient, add=add)

    def write(self) -> None:
        """See `Trained`. The parameters are the weights."""

    def untrained(self) -> AbstractContextManager[None]:
        """See `Trained`."""
        return self._weights.untrained()

    def edit(self) -> WeightEdit:
        """See `Trained`."""
        return self._weights.edit(self._source)


class LowRankWeights:
    """Factors A (rank, inputs) and B (features, rank) for weights W + B A.

    A convolution counts as the matrix of its flattened kernels. Layers that the factors would
    exceed in size stay as they are.

    Args:
        weights: of the model.
        rank: the rank.
        source: what trains them, for the edit.

    Raises:
        MitigationError: no layer is larger than its factors.
    """

    def __init__(self, weights: Training, rank: int, source: str) -> None:
        self._weights, self._source = weights, source
        self._before = {
            name: value
            for name, value in weights.before.items()
            if value.ndim > 1 and rank * (len(value) + value[0].numel()) < value.numel()
        }
        if not self._before:
            raise MitigationError(
                f"rank {rank}: none of the layers is larger than a LoRA of this rank. Use a lower "
                "rank, or train the weights themselves."
            )
        generator = torch.Generator().manual_seed(_SEED)
        self.parameters: dict[str, Tensor] = {}
        for name, value in self._before.items():
            inputs = value[0].numel()
            down = (
                torch.randn((rank, inputs), generator=generator, dtype=torch.float32) / inputs**0.5
            )
            self.parameters[f"{name}.A"] = down.to(value)
            self.parameters[f"{name}.B"] = value.new_zeros(len(value), rank)

    def differentiate(self, loss: Tensor, *, add: bool = False) -> None:
        """See `Trained`. With G the gradient of W, that of A is B^T G, and that of B is G A^T."""
        gradients = dict(zip(self._weights.parameters, self._weights.gradients(loss), strict=True))
        for name in self._before:
            down, up = self._factors(name)
            gradient = gradients[name].flatten(1)
            _set_gradient(down, up.T @ gradient, add=add)
            _set_gradient(up, gradient @ down.T, add=add)

    def write(self) -> None:
        """See `Trained`."""
        with torch.no_grad():
            for name, before in self._before.items():
                self._weights.parameters[name].copy_(before + self._product(name))

    def untrained(self) -> AbstractContextManager[None]:
        """See `Trained`."""
        return self._weights.untrained()

    def edit(self) -> WeightEdit:
        """See `Trained`. The differences are kept as the factors."""
        differences = {}
        for name, before in self._before.items():
            down, up = (factor.detach().clone() for factor in self._factors(name))
            differences[name] = LowRank(up, down.view(-1, *before.shape[1:]))
        return WeightEdit(differences, self._source)

    def _factors(self, name: str) -> tuple[Tensor, Tensor]:
        return self.parameters[f"{name}.A"], self.parameters[f"{name}.B"]

    def _product(self, name: str) -> Tensor:
        down, up = self._factors(name)
        return (up @ down).view_as(self._before[name])


def optimizer_of(
    trained: Parameters, rate: float, decay: float, steps: int, state: Mapping[str, Tensor]
) -> torch.optim.AdamW:
    """Make the optimizer, and put parameters and moments of an interrupted run in place.

    Args:
        trained: what is trained. Its weights are written, too.
        rate: the learning rate.
        decay: of weights.
        steps: how many steps it has made.
        state: what `saved` returned; empty at the beginning.
    """
    parameters = trained.parameters
    optimizer = torch.optim.AdamW(parameters.values(), lr=rate, weight_decay=decay)
    if state:
        for name, parameter in parameters.items():
            with torch.no_grad():
                parameter.copy_(state[name])
            moments = {
                moment: state[f"{name}.{moment}"].to(parameter, copy=True) for moment in _MOMENTS
            }
            optimizer.state[parameter] = {
                "step": torch.tensor(steps, dtype=torch.float32),
                **moments,
            }
        trained.write()
    return optimizer


def saved(trained: Parameters, optimizer: torch.optim.AdamW) -> dict[str, Tensor]:
    """Return parameters and moments as tensors on the CPU."""
    tensors = {}
    for name, parameter in trained.parameters.items():
        tensors[name] = parameter.detach().cpu().contiguous()
        for moment in _MOMENTS:
            tensors[f"{name}.{moment}"] = optimizer.state[parameter][moment].cpu().contiguous()
    return tensors


def _set_gradient(parameter: Tensor, gradient: Tensor, *, add: bool) -> None:
    parameter.grad = parameter.grad + gradient if add and parameter.grad is not None else gradient
