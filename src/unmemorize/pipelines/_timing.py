"""How long work takes on the device of a model."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

from unmemorize.pipelines._model import Model


def seconds_of(model: Model, work: Callable[[], object]) -> float:
    """Time some work: the second of two times, since the first one prepares.

    Devices work on after a call has returned, so their end is waited for.
    """
    for _ in range(2):
        began = time.perf_counter()
        work()
        if model.device.type != "cpu":
            torch.accelerator.synchronize(model.device)
        seconds = time.perf_counter() - began
    return seconds
