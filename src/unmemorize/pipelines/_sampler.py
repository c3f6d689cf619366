"""The scheduler under which a model is evaluated and generates images."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler

from unmemorize._errors import ModelError

_SPACING = ("timestep_spacing", "steps_offset")
_PREDICTIONS = ("epsilon", "v_prediction", "sample")
_FLOW_CLASSES = "FlowMatch"
"""What the names of schedulers for flow matching alone begin with."""
_NOISY_FLOW = "FlowMatchLCMScheduler"
"""It draws noise even where its configuration asks for nothing."""


def is_flow(scheduler: Any) -> bool:
    """Tell whether a scheduler does flow matching, by its class or its configuration (Sana)."""
    named = type(scheduler).__name__.startswith(_FLOW_CLASSES)
    config = getattr(scheduler, "config", {})
    return named or config.get("prediction_type") == "flow_prediction"


def sampler(pipe: Any) -> Any:
    """Make a new scheduler for a pipeline, from the configuration of its own.

    It is of the same class for flow matching, else DDIM with the same noise schedule. Schedulers of
    diffusion that are configured for flow matching become Euler steps with the same shift.

    Raises:
        ModelError: the pipeline's scheduler is of neither kind, or draws noise at each step, or the
            kind of the model's prediction is unknown.
    """
    kind = type(pipe.scheduler)
    is_stochastic = getattr(pipe.scheduler, "config", {}).get("stochastic_sampling", False)
    if kind.__name__ == _NOISY_FLOW or is_stochastic:
        raise ModelError(
            f"{kind.__name__}: it draws new noise at each step, from no seed, so no image could be "
            "made again. Set pipe.scheduler = FlowMatchEulerDiscreteScheduler(...) without "
            "stochastic_sampling."
        )
    if is_flow(pipe.scheduler):
        if kind.__name__.startswith(_FLOW_CLASSES):
            return kind.from_config(pipe.scheduler.config)
        return FlowMatchEulerDiscreteScheduler(
            num_train_timesteps=pipe.scheduler.config.num_train_timesteps,
            shift=pipe.scheduler.config.get("flow_shift") or 1.0,
        )
    if not hasattr(pipe.scheduler, "alphas_cumprod"):
        raise ModelError(
            f"{kind.__name__}: neither flow matching nor a diffusion over steps. "
            "Set another scheduler."
        )
    config = dict(pipe.scheduler.config)
    # from_config replaces what the loaded scheduler has by default with DDIM's own defaults. That
    # is right for how steps are spaced but wrong for the noise schedule.
    defaults = config.get("_use_default_values", ())
    config["_use_default_values"] = [name for name in defaults if name in _SPACING]
    prediction = config.get("prediction_type", "epsilon")
    if prediction not in _PREDICTIONS:
        raise ModelError(
            f"prediction type {prediction}: unknown. Known are {', '.join(_PREDICTIONS)} and flow "
            "matching."
        )
    # where the loaded scheduler has no such option, DDIM would clip latents to [-1, 1]
    config.setdefault("clip_sample", False)
    if "variance_type" in config:
        config["variance_type"] = "fixed_small"  # pipelines drop a learned one before DDIM sees it
    known = {*inspect.signature(DDIMScheduler).parameters, "variance_type", "_use_default_values"}
    # DDIM would warn of what only LCM and TCD have
    return DDIMScheduler.from_config({name: config[name] for name in config if name in known})


@contextmanager
def sampling(pipe: Any, scheduler: Any = None) -> Iterator[None]:
    """Give the pipeline a scheduler, by default that of `sampler`, while the context lasts."""
    before = pipe.scheduler
    pipe.scheduler = sampler(pipe) if scheduler is None else scheduler
    try:
        yield
    finally:
        pipe.scheduler = before
