"""What a hardening trains: weights themselves, or the factors of a LoRA that is added to them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from fnmatch import fnmatchcase
from typing import Protocol

import torch
from torch import Tensor, nn

from unmemorize._errors import MitigationError
from unmemorize.generation import LowRank, WeightEdit, text_projections
from unmemorize.hardening._settings import HardeningSettings
from unmemorize.methods import Training, training
from unmemorize.pipelines import Model

SOURCE = "hardening"
_SEED = 5


class Trained(Protocol):
    """Parameters, and the weights of the model that follow from them."""

    @property
    def parameters(self) -> Mapping[str, Tensor]:
        """What the optimizer moves, by name."""
        ...

    def differentiate(self, loss: Tensor) -> None:
        """Set the gradients of the parameters."""
        ...

    def write(self) -> None:
        """Put the weights that follow from the parameters into the model."""
        ...

    def untrained(self) -> AbstractContextManager[None]:
        """Put the weights of before the training into the model while the context lasts."""
        ...

    def edit(self) -> WeightEdit:
        """Return what has been changed."""
        ...


class WholeWeights:
    """Weights and biases of layers.

    Args:
        weights: of the model.
    """

    def __init__(self, weights: Training) -> None:
        self._weights = weights
        self.parameters: Mapping[str, Tensor] = weights.parameters

    def differentiate(self, loss: Tensor) -> None:
        """See `Trained`."""
        gradients = self._weights.gradients(loss)
        for parameter, gradient in zip(self._weights.values(), gradients, strict=True):
            parameter.grad = gradient

    def write(self) -> None:
        """See `Trained`. The parameters are the weights."""

    def untrained(self) -> AbstractContextManager[None]:
        """See `Trained`."""
        return self._weights.untrained()

    def edit(self) -> WeightEdit:
        """See `Trained`."""
        return self._weights.edit(SOURCE)


class LowRankWeights:
    """Factors A (rank, inputs) and B (features, rank) for weights W + B A.

    A convolution counts as the matrix of its flattened kernels. Layers that the factors would
    exceed in size stay as they are.

    Args:
        weights: of the model.
        rank: the rank.

    Raises:
        MitigationError: no layer is larger than its factors.
    """

    def __init__(self, weights: Training, rank: int) -> None:
        self._weights = weights
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

    def differentiate(self, loss: Tensor) -> None:
        """See `Trained`. With G the gradient of W, that of A is B^T G, and that of B is G A^T."""
        gradients = dict(zip(self._weights.parameters, self._weights.gradients(loss), strict=True))
        for name in self._before:
            down, up = self._factors(name)
            gradient = gradients[name].flatten(1)
            down.grad, up.grad = up.T @ gradient, gradient @ down.T

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
        return WeightEdit(differences, SOURCE)

    def _factors(self, name: str) -> tuple[Tensor, Tensor]:
        return self.parameters[f"{name}.A"], self.parameters[f"{name}.B"]

    def _product(self, name: str) -> Tensor:
        down, up = self._factors(name)
        return (up @ down).view_as(self._before[name])


@contextmanager
def trained(model: Model, settings: HardeningSettings) -> Iterator[Trained]:
    """Let weights of a model be trained in place, and put them back at the end, bit by bit.

    Args:
        model: the model.
        settings: which weights, and of which rank.

    Raises:
        MitigationError: there are no such layers, or they cannot be trained.
    """
    with training(model, layers_of(model, settings.weights), "harden") as weights:
        rank = settings.rank
        yield WholeWeights(weights) if rank is None else LowRankWeights(weights, rank)


def layers_of(model: Model, weights: str) -> list[str]:
    """Return the paths of layers with weights that ``weights`` names, see `HardeningSettings`.

    Raises:
        MitigationError: there is none.
        EditError: "cross-attention" is named, and the model has none.
    """
    layers = [path for path, module in model.denoiser.named_modules() if _has_weights(module)]
    if weights == "all":
        return layers
    if weights == "cross-attention":
        attentions = {path.rpartition(".")[0] for path in text_projections(model)}
        return [path for path in layers if any(path.startswith(f"{each}.") for each in attentions)]
    named = [path for path in layers if fnmatchcase(path, weights)]
    if not named:
        raise MitigationError(
            f"weights {weights!r}: {model.name} has no layer of such a path. Use all, "
            f"cross-attention, or a pattern such as {layers[0].partition('.')[0]}*."
        )
    return named


def _has_weights(module: nn.Module) -> bool:
    return any(module._parameters.get(name) is not None for name in ("weight", "bias"))
