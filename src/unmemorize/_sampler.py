"""The scheduler under which a model is looked at and generates, whatever scheduler it was loaded with."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from diffusers import DDIMScheduler

from unmemorize._errors import ModelError


def sampler(pipe: Any) -> Any:
    """A scheduler of its own: the pipeline's for flow matching, else DDIM with the noise schedule that the pipeline's is configured with.

    Raises:
        ModelError: the scheduler is neither.
    """
    if type(pipe.scheduler).__name__.startswith("FlowMatch"):
        return type(pipe.scheduler).from_config(pipe.scheduler.config)
    if not hasattr(pipe.scheduler, "alphas_cumprod"):
        raise ModelError(f"{type(pipe.scheduler).__name__}: neither flow matching nor a diffusion over steps. Set another scheduler.")
    config = dict(pipe.scheduler.config)
    if "variance_type" in config:
        config["variance_type"] = "fixed_small"  # DDIM has no use for a learned one, which pipelines then take away
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
