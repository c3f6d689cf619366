"""A text encoder that is trained to encode captions like others.

What a closed-form edit asks of all key and value projections, this asks of the text encoder, which
is not linear: captions are encoded as their guides are, and ordinary captions as before. The weight
W of each linear layer becomes W + B A. With e(c) the trained encoding of a caption c and e0 the one
of before, all of them divided by their standard deviation over ordinary captions, the minimum is
sought of

    mean_i weight_i |e(c_i) - e0(g_i)|^2 / |e0(c_i) - e0(g_i)|^2
    + 10 mean_k |e(k) - e0(k)|^2 + |e("") - e0("")|^2

over the captions c_i with their guides g_i and ordinary captions k. What counts is the share of the
way that is left: a caption that differs from its guide by one word may copy, and its guide not. The
denoiser takes no part.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTextModelWithProjection

from unmemorize._errors import EditError
from unmemorize.engines import Progress, silent
from unmemorize.generation import Erased, LowRank, WeightEdit
from unmemorize.methods._training import why_fixed
from unmemorize.methods._unfinished import Unfinished
from unmemorize.pipelines import (
    Model,
    name_of_denoiser,
    quiet_loading,
    seconds_of,
    text_encoders_of,
)

SOURCE = "text encoder"
_LAYERS = ("q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2")
"""Linear layers of CLIP's text encoders, all of which LoRAs may change."""
_RANK, _RATE = 64, 5e-3
STEPS = 800
_KEPT = 10.0
_AT_ONCE = 64
"""The most captions of each kind in one step, and in one pass."""
_SEED = 11
_TOGETHER = 40
"""Steps after which all that they change is kept."""
_SAME = 1e-6
"""A squared error, in variances of ordinary captions, below which two captions are one, such as
long ones that are cut off where they begin to differ."""


def why_untrainable(pipe: DiffusionPipeline) -> str:
    """Say why the text encoders of a pipeline cannot be trained; nothing if they can."""
    encoders = text_encoders_of(pipe)
    if name_of_denoiser(pipe) != "unet" or not hasattr(pipe, "encode_prompt"):
        return "it is no Stable Diffusion 1, 2 or XL"
    kinds = (CLIPTextModel, CLIPTextModelWithProjection)
    if not encoders or not all(isinstance(each, kinds) for each in encoders.values()):
        return "its text encoders are not those of CLIP"
    # as they are called, since torch.compile may wrap them
    reasons = (why_fixed(getattr(pipe, name), "text encoder") for name in encoders)
    return next(filter(None, reasons), "")


def text_encoder_layers(pipe: DiffusionPipeline) -> dict[str, nn.Linear]:
    """Return the layers of text encoders that are trained, by path."""
    return {
        f"{component}.{path}": layer
        for component, encoder in text_encoders_of(pipe).items()
        for path, layer in encoder.named_modules()
        if path.rpartition(".")[2] in _LAYERS and isinstance(layer, nn.Linear)
    }


@torch.inference_mode(False)  # the caller may have switched gradients off
def trained_text_encoder(
    model: Model,
    erase: Sequence[Erased],
    keep: Sequence[str],
    progress: Progress = silent,
    folder: Path | None = None,
) -> WeightEdit:
    """Train factors of the linear layers of all text encoders. The model stays as it is.

    Args:
        model: the model. Weights in half precision are trained in float32.
        erase: the captions, each with its weight and its guide.
        keep: ordinary captions, at least two.
        progress: called with steps.
        folder: where steps are kept as they are done. The same call goes on from there and makes
            the same edit. None keeps nothing.

    Raises:
        EditError: the text encoders cannot be trained, there are too few captions, or the training
            diverged.
        RunError: the folder cannot be written or read.

    Source: ours; text encoders as the place of edits are from Zhang et al. (AdvUnlearn), 2024.

    Examples:
        >>> model = Model.load("testbed", dtype="float32")
        >>> why_untrainable(model.pipe)
        ''
    """
    if reason := why_untrainable(model.pipe):
        raise EditError(
            f"{model.name}: {reason}, so its text encoder is not trained. Edit the denoiser."
        )
    if not erase or len(keep) < 2:
        raise EditError(
            f"{len(erase)} captions to edit and {len(keep)} ordinary ones: give at least 1 and 2."
        )
    encoders = text_encoders_of(model.pipe)
    generator = torch.Generator().manual_seed(_SEED)
    with ExitStack() as stack:
        stack.enter_context(torch.enable_grad())
        stack.enter_context(quiet_loading())  # tokenizers name long captions each time
        stack.enter_context(_in_float32(encoders.values()))
        guides, kept, empty = (
            _before(model, texts) for texts in ([each.guide for each in erase], keep, [""])
        )
        scales = [each.var(0).mean() for each in kept]
        ways = _errors(_before(model, [each.caption for each in erase]), guides, scales)
        weights = ways.new_tensor([each.weight for each in erase]) / ways
        weights[ways < _SAME] = 0.0
        factors = _Factors(text_encoder_layers(model.pipe), generator)
        stack.enter_context(factors.added())

        def take(steps: range, optimizer: torch.optim.AdamW) -> None:
            for step in steps:
                for group in optimizer.param_groups:
                    group["lr"] = _RATE * (1 + math.cos(math.pi * step / STEPS)) / 2
                own, others = (_chosen(len(texts), generator) for texts in (erase, keep))
                now = _encoded(model, [erase[place].caption for place in own])
                left = _errors(now, _rows(guides, own), scales)
                now = _encoded(model, [keep[place] for place in others])
                moved = _errors(now, _rows(kept, others), scales)
                empty_moved = _errors(_encoded(model, [""]), empty, scales)
                loss = (weights[own] * left).mean() + _KEPT * moved.mean() + empty_moved.mean()
                factors.differentiate(loss)
                optimizer.step()
                progress(step + 1, STEPS)

        Unfinished(folder).train(factors, _RATE, STEPS, _TOGETHER, generator, take)
    return factors.edit()


class _Factors:
    """Factors A (rank, inputs) and B (features, rank) of layers, whose outputs they add to.

    Args:
        layers: by path.
        generator: draws A. B begins at 0.
    """

    def __init__(self, layers: Mapping[str, nn.Linear], generator: torch.Generator) -> None:
        self._layers = layers
        self.parameters: dict[str, Tensor] = {}
        for path, layer in layers.items():
            self.parameters[f"{path}.A"], self.parameters[f"{path}.B"] = _begun(layer, generator)

    def write(self) -> None:
        """See `Parameters`. The outputs of layers follow from the factors themselves."""

    @contextmanager
    def added(self) -> Iterator[None]:
        """Add the products of the factors to what layers return, while the context lasts."""
        with ExitStack() as stack:
            for path, layer in self._layers.items():
                handle = layer.register_forward_hook(_adding(*self._pair(path)))
                stack.callback(handle.remove)
            yield

    def differentiate(self, loss: Tensor) -> None:
        """Set the gradients of the factors. The last layers of an encoder may play no part: 0."""
        values = list(self.parameters.values())
        gradients = torch.autograd.grad(loss, values, materialize_grads=True)
        for value, gradient in zip(values, gradients, strict=True):
            value.grad = gradient

    def edit(self) -> WeightEdit:
        """Return what training has changed.

        Raises:
            EditError: a factor is not finite.
        """
        pairs = {path: self._pair(path) for path in self._layers}
        return WeightEdit(
            {
                f"{path}.weight": LowRank(up, down)
                for path, (down, up) in pairs.items()
                if bool(up.any())
            },
            SOURCE,
        )

    def _pair(self, path: str) -> tuple[Tensor, Tensor]:
        return self.parameters[f"{path}.A"], self.parameters[f"{path}.B"]


@torch.inference_mode(False)
def seconds_of_training(model: Model, captions: int) -> float:
    """Estimate how long `trained_text_encoder` takes: forward and backward cost three passes.

    Args:
        model: the model.
        captions: how many are edited.
    """
    texts = ["a photograph"] * (min(captions, _AT_ONCE) + _AT_ONCE)  # and ordinary ones
    with _in_float32(text_encoders_of(model.pipe).values()):
        return 3 * STEPS * seconds_of(model, lambda: _before(model, texts))


Encoded = list[Tensor]
"""All that the denoiser reads of captions, each (captions, values), float32."""


def _encoded(model: Model, texts: Sequence[str]) -> Encoded:
    pipe: Any = model.pipe
    found = pipe.encode_prompt(
        prompt=list(texts),
        device=model.device,
        num_images_per_prompt=1,
        do_classifier_free_guidance=False,
    )
    return [each.flatten(1).float() for each in found if each is not None]


@torch.no_grad()
def _before(model: Model, texts: Sequence[str]) -> Encoded:
    """Encode captions a few at a time, before the training."""
    starts = range(0, len(texts), _AT_ONCE)
    parts = [_encoded(model, texts[start : start + _AT_ONCE]) for start in starts]
    return [torch.cat(each) for each in zip(*parts, strict=True)]


def _rows(encoded: Encoded, rows: Sequence[int]) -> Encoded:
    return [each[list(rows)] for each in encoded]


def _errors(found: Encoded, wanted: Encoded, scales: Encoded) -> Tensor:
    """Return the mean squared error of each caption, (captions,), in the scales."""
    each = [
        (one - other).square().mean(1) / scale
        for one, other, scale in zip(found, wanted, scales, strict=True)
    ]
    return torch.stack(each).mean(0)


def _begun(layer: nn.Linear, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return A (rank, inputs) and B (features, rank), of product 0, smaller than the layer."""
    features, inputs = layer.weight.shape
    rank = max(1, min(_RANK, (features * inputs - 1) // (features + inputs)))
    down = torch.randn((rank, inputs), generator=generator, dtype=torch.float32) / inputs**0.5
    down = down.to(layer.weight.device)
    return down.requires_grad_(True), down.new_zeros(features, rank).requires_grad_(True)


def _adding(down: Tensor, up: Tensor) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], Tensor]:
    def hook(_layer: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        # where the encoder is offloaded, it runs elsewhere than its weights are kept
        return output + (args[0] @ down.to(output.device).T) @ up.to(output.device).T

    return hook


def _chosen(count: int, generator: torch.Generator) -> list[int]:
    return torch.randperm(count, generator=generator)[:_AT_ONCE].tolist()


@contextmanager
def _in_float32(networks: Iterable[nn.Module]) -> Iterator[None]:
    """Keep the weights of networks in float32 for a while, and put them back bit by bit."""
    weights = [weight for network in networks for weight in network.parameters()]
    kept = [(weight, weight.data, weight.requires_grad) for weight in weights]
    try:
        for weight, data, _ in kept:
            weight.requires_grad_(False)
            weight.data = data.float()
        yield
    finally:
        for weight, data, required in kept:
            weight.data = data
            weight.requires_grad_(required)
