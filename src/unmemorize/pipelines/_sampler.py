"""The scheduler under which a model is looked at and generates, whatever scheduler it was loaded with."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from diffusers import DDIMScheduler

from unmemorize._errors import ModelError

_SPACING = ("timestep_spacing", "steps_offset")
_PREDICTIONS = ("epsilon", "v_prediction", "sample")


def sampler(pipe: Any) -> Any:
    """A scheduler of its own: the pipeline's for flow matching, else DDIM with the noise schedule that the pipeline's is configured with.

    Raises:
        ModelError: the scheduler is neither, or what the model predicts is unknown.
    """
    if type(pipe.scheduler).__name__.startswith("FlowMatch"):
        return type(pipe.scheduler).from_config(pipe.scheduler.config)
    if not hasattr(pipe.scheduler, "alphas_cumprod"):
        raise ModelError(
            f"{type(pipe.scheduler).__name__}: neither flow matching nor a diffusion over steps. Set another scheduler."
        )
    config = dict(pipe.scheduler.config)
    # from_config puts DDIM's defaults in place of what the loaded one has by default: right for how steps are spaced, not for the schedule
    config["_use_default_values"] = [
        name for name in config.get("_use_default_values", ()) if name in _SPACING
    ]
    if (kind := config.get("prediction_type", "epsilon")) not in _PREDICTIONS:
        raise ModelError(
            f"prediction type {kind}: unknown. Known are {', '.join(_PREDICTIONS)} and flow matching."
        )
    config.setdefault(
        "clip_sample", False
    )  # DDIM would clip latents to [-1, 1] where the loaded scheduler has no such option
    if "variance_type" in config:
        config["variance_type"] = (
            "fixed_small"  # DDIM has no use for a learned one, which pipelines then take away
        )
    return DDIMScheduler.from_config(config)


@contextmanager
def sampling(pipe: Any) -> Iterator[None]:
    """The pipeline has this scheduler in place of its own while the context lasts."""
    own = pipe.scheduler
    pipe.scheduler = sampler(pipe)
    try:
        yield
    finally:
        pipe.scheduler = own
