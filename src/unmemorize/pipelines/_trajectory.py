"""The steps of an ordinary run of a pipeline, taken one by one."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler
from torch import Tensor

from unmemorize._errors import ModelError
from unmemorize.pipelines._sampler import sampler

if TYPE_CHECKING:
    from unmemorize.pipelines._model import Model

Stepper = Callable[[Tensor, int, Tensor], Tensor]
"""Takes a prediction (B, C, H, W), the index of its step and the sample; returns the next one."""


def stepper(model: Model, steps: int) -> Stepper:
    """Return what turns each prediction of a run into the next sample, as the pipeline does it.

    Args:
        model: the model.
        steps: the number of steps of the run.

    Raises:
        ModelError: the scheduler of a flow takes other steps than Euler's.
    """
    scheduler, timesteps = sampler(model.pipe), model.timesteps(steps)
    if isinstance(scheduler, DDIMScheduler):
        scheduler.set_timesteps(steps)

        def denoise(prediction: Tensor, index: int, sample: Tensor) -> Tensor:
            stepped: Tensor = scheduler.step(
                prediction, timesteps[index], sample.float(), return_dict=False
            )[0]
            return stepped.to(sample.dtype)

        return denoise
    if not isinstance(scheduler, FlowMatchEulerDiscreteScheduler):
        raise ModelError(
            f"{type(scheduler).__name__}: its steps cannot be taken one by one. Set "
            "FlowMatchEulerDiscreteScheduler with the same configuration."
        )
    levels = [float(time) / scheduler.config.num_train_timesteps for time in timesteps] + [0.0]

    def flow(prediction: Tensor, index: int, sample: Tensor) -> Tensor:
        change = (levels[index + 1] - levels[index]) * prediction
        stepped: Tensor = (sample.float() + change).to(sample.dtype)
        return stepped

    return flow
