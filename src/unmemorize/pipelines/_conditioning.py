"""How a pipeline calls its denoiser: seen from the call itself, so that any text-to-image pipeline of diffusers will do.

A pipeline turns prompts into arguments of its denoiser: text embeddings, pooled embeddings, masks, sizes, positions. It is run as usual up
to its first call of the denoiser; that call is kept and never carried out.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NoReturn

import torch
from diffusers import DiffusionPipeline
from diffusers.utils import is_bs4_available, is_ftfy_available
from torch import Tensor, nn

from unmemorize._errors import ModelError
from unmemorize.pipelines._denoiser import denoiser_of, replaced
from unmemorize.pipelines._sampler import sampling

Key = tuple[str, ...]
_TIMESTEP: Key = ("timestep",)
_TEXT: Key = ("encoder_hidden_states",)


@dataclass(frozen=True)
class Conditioning:
    """What a denoiser is given beside the noisy samples and the timestep, for some prompts.

    Args:
        samples: arguments with the prompts as first dimension; a key of two names is an entry of a dictionary.
        shared: the other arguments.
    """

    samples: Mapping[Key, Tensor]
    shared: Mapping[Key, Any]

    @property
    def text(self) -> Tensor:
        """Text embeddings, (prompts, tokens, features)."""
        return self.samples[_TEXT]

    def __len__(self) -> int:
        return len(self.text)

    def take(self, places: Sequence[int]) -> Conditioning:
        """That of some prompts, in this order, as often as they are named."""
        return Conditioning(
            {key: value[list(places)] for key, value in self.samples.items()}, self.shared
        )

    def join(self, other: Conditioning) -> Conditioning:
        """These prompts, then the other ones."""
        return Conditioning(
            {key: torch.cat([value, other.samples[key]]) for key, value in self.samples.items()},
            self.shared,
        )

    def arguments(self) -> dict[str, Any]:
        """As the denoiser takes them."""
        found: dict[str, Any] = {}
        for key, value in (*self.samples.items(), *self.shared.items()):
            inner = found if len(key) == 1 else found.setdefault(key[0], {})
            inner[key[-1]] = value
        return found


@dataclass(frozen=True)
class Call:
    """The first call of a denoiser.

    Args:
        arguments: by name; those in a dictionary by two names.
        timesteps: that the scheduler has set, (steps,), largest first.
    """

    arguments: Mapping[Key, Any]
    timesteps: Tensor


@dataclass(frozen=True)
class Layout:
    """How a pipeline calls its denoiser, whatever the prompts.

    Args:
        sample: the name of the argument with the noisy samples, which is the first.
        shape: of one of them, (C, H, W) or, packed, (tokens, features).
        per_prompt: arguments whose first dimension is the prompts.
        scale: what timesteps are multiplied by.
        repeated: whether each sample has a timestep of its own.
        dtype: of the timestep.
    """

    sample: Key
    shape: tuple[int, ...]
    per_prompt: frozenset[Key]
    scale: float
    repeated: bool
    dtype: torch.dtype

    @property
    def packed(self) -> bool:
        """Whether samples are given as tokens, patches of 2 x 2."""
        return len(self.shape) == 2

    def conditioning(self, call: Call) -> Conditioning:
        """What the call gives the denoiser beside samples and timestep."""
        others = {
            key: value
            for key, value in call.arguments.items()
            if key not in (self.sample, _TIMESTEP)
        }
        samples = {key: others.pop(key) for key in self.per_prompt if key in others}
        return Conditioning(samples, others)


class _DenoiserCalledError(Exception):
    """The denoiser was called."""

    def __init__(self, arguments: Mapping[str, Any]) -> None:
        self.arguments = arguments


class _StandIn:
    """In place of a denoiser: all about it is the same until it is called, which none of its hooks learn of."""

    def __init__(self, denoiser: nn.Module) -> None:
        self._denoiser = denoiser

    def __getattr__(self, name: str) -> Any:
        return getattr(self._denoiser, name)

    def __call__(self, *args: Any, **kwargs: Any) -> NoReturn:
        given = (
            inspect.signature(type(self._denoiser).forward)
            .bind(self._denoiser, *args, **kwargs)
            .arguments
        )
        raise _DenoiserCalledError({name: value for name, value in given.items() if name != "self"})


def first_call(
    pipe: DiffusionPipeline, texts: Sequence[str], steps: int, *, guidance: float = 1.0
) -> Call:
    """Run a pipeline for these prompts until it calls its denoiser; 1 is no guidance.

    Raises:
        ModelError: the pipeline fails before it calls its denoiser, or never calls it.
    """
    denoiser = denoiser_of(pipe)
    pipe.maybe_free_model_hooks()  # with model offload a denoiser that ran last would be on the device beside the text encoder
    try:
        with replaced(pipe, _StandIn(denoiser)), sampling(pipe), _silent(pipe):
            try:
                run(
                    pipe,
                    texts,
                    num_inference_steps=steps,
                    guidance_scale=guidance,
                    generator=torch.Generator().manual_seed(0),
                )
            except _DenoiserCalledError as called:
                return Call(dict(_flat(called.arguments)), pipe.scheduler.timesteps.detach().cpu())
    except (AttributeError, TypeError, ValueError) as problem:
        raise ModelError(
            f"{type(pipe).__name__}: it fails before its first denoising step ({problem}). Load a text-to-image pipeline that can be "
            f"called with a prompt alone."
        ) from problem
    raise ModelError(
        f"{type(pipe).__name__}: it does not call its {type(denoiser).__name__}. Load a text-to-image pipeline."
    )


@contextmanager
def _silent(pipe: DiffusionPipeline) -> Iterator[None]:
    """No progress bar, which would stand still."""
    own = getattr(pipe, "_progress_bar_config", {})
    pipe.set_progress_bar_config(disable=True)
    try:
        yield
    finally:
        pipe.set_progress_bar_config(**own)


def run(pipe: Any, texts: Sequence[str], **options: Any) -> Any:
    """Call a pipeline with those of the options that it has, at its own size, and as it does without its two optional libraries."""
    known = inspect.signature(type(pipe).__call__).parameters
    options = {
        "use_resolution_binning": False,
        "clean_caption": is_bs4_available() and is_ftfy_available(),
        **options,
    }
    return pipe(
        prompt=list(texts), **{name: value for name, value in options.items() if name in known}
    )


def layout_of(pipe: DiffusionPipeline) -> Layout:
    """How the pipeline calls its denoiser: what differs between a call for two prompts and one for three.

    Raises:
        ModelError: the denoiser does not take what the method needs.
    """
    two, three = first_call(pipe, ["a", "b"], 2), first_call(pipe, ["a", "b", "c"], 5)
    sample: Key = (
        next(
            name
            for name in inspect.signature(type(denoiser_of(pipe)).forward).parameters
            if name != "self"
        ),
    )
    per_prompt = frozenset(
        key
        for key, value in two.arguments.items()
        if isinstance(value, Tensor)
        and value.ndim
        and (len(value), len(three.arguments[key])) == (2, 3)
    )
    if not {sample, _TEXT} <= per_prompt or _TIMESTEP not in two.arguments:
        raise ModelError(
            f"{type(pipe).__name__}: its denoiser is called with {', '.join('.'.join(key) for key in two.arguments)}; "
            f"needed are samples, timestep and encoder_hidden_states."
        )
    timestep = torch.as_tensor(two.arguments[_TIMESTEP])
    scale, again = (
        float(torch.as_tensor(call.arguments[_TIMESTEP]).flatten()[0]) / float(call.timesteps[0])
        for call in (two, three)
    )
    if not scale or not math.isclose(scale, again, rel_tol=1e-2):
        raise ModelError(
            f"{type(pipe).__name__}: its denoiser is told another time than a multiple of the scheduler's timestep. Such models (Lumina is "
            f"one) are not supported."
        )
    shape = tuple(two.arguments[sample].shape[1:])
    return Layout(
        sample, shape, per_prompt - {sample, _TIMESTEP}, scale, timestep.ndim > 0, timestep.dtype
    )


def _flat(arguments: Mapping[str, Any], outer: Key = ()) -> Iterator[tuple[Key, Any]]:
    for name, value in arguments.items():
        if isinstance(value, Mapping) and value and not outer:
            yield from _flat(value, (name,))
        else:
            yield (*outer, name), value
