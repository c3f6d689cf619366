"""What the work on one prompt costs: denoiser samples and wall time, in all and by stage."""

from __future__ import annotations

import time

from unmemorize.engines import Progress, silent
from unmemorize.localization._records import Spent


class Meter:
    """A count of the denoiser samples and the seconds spent on a prompt.

    Samples are also weighted by the share of the multiply-adds of a forward pass that ran. What is
    done once per model (see `Model.replay_plan`) is no prompt's work.

    Args:
        progress: called with the denoiser samples so far, after each pass.

    Examples:
        >>> meter = Meter()
        >>> meter.add_forward(10, share=0.5)
        >>> meter.end("detection")
        >>> meter.add_backward(2)
        >>> meter.evaluations, meter.weighted, meter.stages["detection"].work
        (10, 7.0, 5.0)
    """

    def __init__(self, progress: Progress = silent) -> None:
        self._progress = progress
        self.evaluations = 0
        self.weighted = 0.0
        self.stages: dict[str, Spent] = {}
        self._began = time.perf_counter()
        self._stage_began = self._began

    @property
    def seconds(self) -> float:
        """Wall time so far."""
        return time.perf_counter() - self._began

    def add_forward(self, samples: int, share: float) -> None:
        """Count a forward pass of which this share ran."""
        self.evaluations += samples
        self.weighted += samples * share
        self._progress(self.evaluations, None)

    def add_backward(self, samples: int) -> None:
        """Count a backward pass with respect to gates, without its forward pass.

        It takes no gradients of weights, so its multiply-adds are those of a forward pass.
        """
        self.weighted += samples

    def end(self, stage: str) -> None:
        """Attribute everything since the end of the previous stage to this one."""
        now = time.perf_counter()
        earlier = sum(spent.work for spent in self.stages.values())
        self.stages[stage] = Spent(self.weighted - earlier, now - self._stage_began)
        self._stage_began = now
