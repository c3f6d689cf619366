"""How a pipeline calls its denoiser, observed in the call itself.

A pipeline turns prompts into arguments of its denoiser: text embeddings, pooled embeddings, masks,
sizes, positions. It runs as usual up to its first call of the denoiser. That call is recorded and
never carried out. Any text-to-image pipeline of diffusers therefore works without an adapter.
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
from unmemorize.pipelines._autoencoder import keeping_type
from unmemorize.pipelines._denoiser import denoiser_of, refuse_altered, replaced
from unmemorize.pipelines._denoiser_call import denoiser_call
from unmemorize.pipelines._encoded import TEXT, Conditioning, Key
from unmemorize.pipelines._quiet import quiet_loading
from unmemorize.pipelines._sampler import sampling

_TIMESTEP: Key = ("timestep",)
_TEXTS = ("a", "b", "a text that is longer than the others by far, so that no padding hides it")
_IMAGES_ONLY = "Load a pipeline that makes square images from text."
_SAME_SCALE = 1e-2
"""Relative tolerance: half precision rounds timesteps by less."""


@dataclass(frozen=True)
class Call:
    """The first call of a denoiser.

    Args:
        arguments: its arguments by name.
        timesteps: the timesteps that the scheduler has set, (steps,), largest first.
    """

    arguments: Mapping[Key, Any]
    timesteps: Tensor


@dataclass(frozen=True)
class Layout:
    """How a pipeline calls its denoiser, for any prompts.

    Args:
        sample: the argument with the noisy samples, which is the first.
        shape: the shape of one sample, (C, H, W) or, packed, (tokens, features).
        per_prompt: the arguments whose first dimension is the prompts.
        scale: the factor between the scheduler's timesteps and those that the denoiser receives.
        repeated: whether each sample has a timestep of its own.
        dtype: the type of the timestep.
        separate: whether prompts of a batch are padded to the longest one. They are encoded one by
            one then, so that none depends on the others.
    """

    sample: Key
    shape: tuple[int, ...]
    per_prompt: frozenset[Key]
    scale: float
    repeated: bool
    dtype: torch.dtype
    separate: bool

    @property
    def packed(self) -> bool:
        """Whether samples are tokens, each a patch of 2 x 2."""
        return len(self.shape) == 2

    def conditioning(self, call: Call) -> Conditioning:
        """Return what a call gives the denoiser besides samples and timestep."""
        shared = {
            key: value
            for key, value in call.arguments.items()
            if key not in (self.sample, _TIMESTEP)
        }
        samples = {
            key: shared.pop(key)
            for key in self.per_prompt
            if isinstance(shared.get(key), Tensor)  # masks are None where nothing is padded
        }
        return Conditioning(samples, shared)


class _DenoiserCalledError(Exception):
    """The denoiser was called with these arguments."""

    def __init__(self, arguments: Mapping[str, Any]) -> None:
        self.arguments = arguments


class _StandIn:
    """Takes the place of a denoiser and records its call. Hooks on the denoiser never see it."""

    def __init__(self, denoiser: nn.Module) -> None:
        self._denoiser = denoiser

    def __getattr__(self, name: str) -> Any:
        return getattr(self._denoiser, name)

    def __call__(self, *args: Any, **kwargs: Any) -> NoReturn:
        raise _DenoiserCalledError(denoiser_call(self._denoiser, args, kwargs).arguments)


def first_call(
    pipe: DiffusionPipeline, texts: Sequence[str], steps: int, *, guidance: float = 1.0
) -> Call:
    """Run a pipeline for these prompts until it calls its denoiser.

    Args:
        pipe: the pipeline.
        texts: the prompts.
        steps: scheduler steps to set.
        guidance: the guidance scale; 1 is none.

    Raises:
        ModelError: the pipeline fails before it calls its denoiser, or never calls it, or a cache
            is enabled.
    """
    denoiser, kind = denoiser_of(pipe), type(pipe).__name__
    refuse_altered(pipe, denoiser)
    # with model offload, a denoiser that ran last would share the device with the text encoder
    pipe.maybe_free_model_hooks()
    try:
        with (
            keeping_processors(denoiser),
            replaced(pipe, _StandIn(denoiser)),
            sampling(pipe),
            without_progress_bar(pipe),
        ):
            try:
                _call(
                    pipe,
                    texts,
                    guidance,
                    num_inference_steps=steps,
                    pag_scale=0.0,
                    generator=torch.Generator().manual_seed(0),
                )
            except _DenoiserCalledError as call:
                return Call(dict(_flat(call.arguments)), pipe.scheduler.timesteps.detach().cpu())
    except OverflowError as problem:
        raise ModelError(
            f"{kind}: a tokenizer does not know how long texts may be. Set its model_max_length, "
            "such as pipe.tokenizer.model_max_length = 77."
        ) from problem
    except (AttributeError, TypeError, ValueError) as problem:
        raise ModelError(
            f"{kind}: it fails before its first denoising step ({problem}). Load a text-to-image "
            "pipeline that can be called with a prompt alone."
        ) from problem
    raise ModelError(
        f"{kind}: it does not call its {type(denoiser).__name__}. Load a text-to-image pipeline."
    )


@contextmanager
def keeping_processors(denoiser: Any) -> Iterator[None]:
    """Put back the attention processors that a pipeline exchanges until its end, as PAG does."""
    before = processors_of(denoiser)
    try:
        yield
    finally:
        put_back_processors(denoiser, before)


def processors_of(denoiser: Any) -> dict[str, Any]:
    """Return the attention processors by path; none where the denoiser names none."""
    return dict(getattr(denoiser, "attn_processors", {}))


def put_back_processors(denoiser: Any, processors: Mapping[str, Any]) -> None:
    """Give a denoiser these attention processors, unless it has them."""
    if processors != processors_of(denoiser):
        denoiser.set_attn_processor(dict(processors))  # diffusers empties what it is given


@contextmanager
def without_progress_bar(pipe: DiffusionPipeline) -> Iterator[None]:
    """Hide the progress bar, which would stand still, or come again for each batch."""
    config = getattr(pipe, "_progress_bar_config", {})
    pipe.set_progress_bar_config(disable=True)
    try:
        yield
    finally:
        pipe.set_progress_bar_config(**config)


def run(pipe: Any, texts: Sequence[str], guidance: float, **options: Any) -> Any:
    """Call a pipeline at its own size with those options that its signature has.

    A pipeline exchanges attention processors (PAG) and the type of its autoencoder (Stable
    Diffusion XL in float16), and puts them back at its end alone. There it also takes offloaded
    models off the device. All of this is done here even if an exception ends it.

    Captions are cleaned where the pipeline does so by default, if both libraries for it are
    installed, because pipelines warn otherwise.

    Raises:
        ModelError: the pipeline has no guidance, or a cache is enabled.
    """
    denoiser = denoiser_of(pipe)
    refuse_altered(pipe, denoiser)
    with keeping_processors(denoiser), keeping_type(pipe):
        try:
            return _call(pipe, texts, guidance, **options)
        except BaseException:
            pipe.maybe_free_model_hooks()
            raise


def _call(pipe: Any, texts: Sequence[str], guidance: float, **options: Any) -> Any:
    """Call a pipeline as `run` does."""
    parameters = inspect.signature(type(pipe).__call__).parameters
    cleans = "clean_caption" in parameters and bool(parameters["clean_caption"].default)
    options = {
        "use_resolution_binning": False,
        "clean_caption": cleans and is_bs4_available() and is_ftfy_available(),
        **_guidance_options(pipe, guidance, len(texts)),
        **_size_options(pipe),
        **options,
    }
    accepted = {name: value for name, value in options.items() if name in parameters}
    return pipe(prompt=list(texts), **accepted)


def _size_options(pipe: Any) -> dict[str, int]:
    """Name a model's own size to a pipeline that has one size for all models (Sana)."""
    height = inspect.signature(type(pipe).__call__).parameters.get("height")
    tokens = getattr(getattr(pipe, "transformer", None), "config", {}).get("sample_size")
    if height is None or not isinstance(height.default, int) or not isinstance(tokens, int):
        return {}
    size = tokens * pipe.vae_scale_factor
    return {"height": size, "width": size}


def _guidance_options(pipe: Any, guidance: float, count: int) -> dict[str, Any]:
    """Name guidance as a pipeline does: classifier-free, or the input of a distilled denoiser.

    Raises:
        ModelError: it has none.
    """
    parameters = inspect.signature(type(pipe).__call__).parameters
    config = getattr(getattr(pipe, "transformer", None), "config", {})
    if "true_cfg_scale" in parameters and not config.get("guidance_embeds"):
        if guidance <= 1:
            return {"true_cfg_scale": 1.0}
        return {"true_cfg_scale": guidance, "negative_prompt": [""] * count}
    if "guidance_scale" in parameters:
        return {"guidance_scale": guidance}
    if guidance > 1:
        raise ModelError(
            f"{type(pipe).__name__}: it has no guidance_scale. Use --guidance 1, which is none."
        )
    return {}


def layout_of(pipe: DiffusionPipeline) -> Layout:
    """Observe how a pipeline calls its denoiser from a call for two prompts and one for three.

    Raises:
        ModelError: the denoiser does not take what the method needs.
    """
    kind = type(pipe).__name__
    if "num_frames" in inspect.signature(type(pipe).__call__).parameters:
        raise ModelError(f"{kind}: it makes videos. {_IMAGES_ONLY}")
    with quiet_loading():  # the long text may be cut
        two, three = first_call(pipe, _TEXTS[:2], 2), first_call(pipe, _TEXTS, 5)
    parameters = inspect.signature(type(denoiser_of(pipe)).forward).parameters
    sample: Key = (next(name for name in parameters if name != "self"),)
    per_prompt = frozenset(
        key
        for key, value in three.arguments.items()
        if _rows(two.arguments.get(key)) in (2, None) and _rows(value) == 3
    )
    if not {sample, TEXT} <= per_prompt or _TIMESTEP not in two.arguments:
        names = ", ".join(".".join(key) for key in two.arguments)
        raise ModelError(
            f"{kind}: its denoiser is called with {names}; the method needs samples, timestep and "
            "encoder_hidden_states."
        )
    shape = tuple(two.arguments[sample].shape[1:])
    if len(shape) > 3:
        raise ModelError(
            f"{kind}: its latents have the shape {shape}, as those of videos have. {_IMAGES_ONLY}"
        )
    if len(shape) == 2 and (shape[1] % 4 or math.isqrt(shape[0]) ** 2 != shape[0]):
        raise ModelError(
            f"{kind}: its latents have the shape {shape}, which are no patches of 2 x 2 of a "
            f"square image. {_IMAGES_ONLY}"
        )
    timestep = torch.as_tensor(two.arguments[_TIMESTEP])
    scale, again = (
        float(torch.as_tensor(call.arguments[_TIMESTEP]).flatten()[0]) / float(call.timesteps[0])
        for call in (two, three)
    )
    if not scale or not math.isclose(scale, again, rel_tol=_SAME_SCALE):
        raise ModelError(
            f"{kind}: the time that its denoiser receives is no multiple of the scheduler's "
            "timestep. Such models (Lumina is one) are not supported."
        )
    return Layout(
        sample=sample,
        shape=shape,
        per_prompt=per_prompt - {sample, _TIMESTEP},
        scale=scale,
        repeated=timestep.ndim > 0,
        dtype=timestep.dtype,
        separate=two.arguments[TEXT].shape[1] != three.arguments[TEXT].shape[1],
    )


def _rows(value: object) -> int | None:
    """Return the first dimension of a tensor; None for None, 0 for anything else."""
    if value is None:
        return None
    return len(value) if isinstance(value, Tensor) and value.ndim else 0


def _flat(arguments: Mapping[str, Any], outer: Key = ()) -> Iterator[tuple[Key, Any]]:
    """Yield arguments with their keys; the entries of a dictionary get two names."""
    for name, value in arguments.items():
        if isinstance(value, Mapping) and value and not outer:
            yield from _flat(value, (name,))
        else:
            yield (*outer, name), value
