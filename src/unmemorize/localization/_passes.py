"""Passes of the denoiser for one prompt with neurons off, each replaying what it can."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from unmemorize.detection import Probe, noise_differences
from unmemorize.localization._meter import Meter
from unmemorize.localization._prefixes import Prefixes, RecordedPass
from unmemorize.neurons import Neurons, scaled
from unmemorize.pipelines import Model, Recording, recording, replaying


@dataclass(frozen=True)
class Pass:
    """The result of one pass, or of several with the same neurons off.

    Args:
        off: the neurons that were off.
        differences: the noise differences of the seeds that ran, (seeds, C, H, W).
        recording: what was recorded of these seeds.
    """

    off: Neurons
    differences: Tensor
    recording: Recording

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seeds that ran."""
        return self.recording.seeds

    @classmethod
    def join(cls, passes: Sequence[Pass]) -> Pass:
        """Make one of several passes with the same neurons off, over different seeds."""
        return cls(
            passes[0].off,
            torch.cat([each.differences for each in passes]),
            Recording.join([each.recording for each in passes]),
        )

    def only(self, seeds: Sequence[int]) -> Pass:
        """Return some of the seeds, in their order, without the recording."""
        rows = [self.seeds.index(seed) for seed in seeds]
        return Pass(self.off, self.differences[rows], Recording(tuple(seeds), {}))


class Passes:
    """The denoiser, run for one prompt with different neurons off.

    Args:
        model: the model.
        probe: the prompt with all its seeds.
        layers: the value layers whose neurons may be switched, in the order in which they run.
        scale: what the outputs of switched-off neurons are multiplied by.
        meter: counts the samples.
    """

    def __init__(
        self, model: Model, probe: Probe, layers: Sequence[str], scale: float, meter: Meter
    ) -> None:
        self.model = model
        self.layers = list(layers)
        self.probe = probe
        self.scale = scale
        self.meter = meter
        self._plan = model.replay_plan(layers, probe.samples)
        self.prefixes = Prefixes(self._plan, layers, self._plan.recordings(probe.samples))

    def run(self, off: Neurons, seeds: Sequence[int]) -> Pass:
        """Run some of the seeds with these neurons off."""
        prefix = self.prefixes.longest(off, seeds)
        probe = self.probe.of_seeds(seeds)
        denoiser = self.model.denoiser
        with (
            scaled(self.model, [off], self.scale),
            replaying(denoiser, self.prefixes.outputs(prefix, seeds)),
            recording(denoiser, self.prefixes.modules_to_record(off)) as outputs,
        ):
            differences = noise_differences(self.model, probe)
        self.meter.add_forward(probe.samples, self._plan.cost(prefix.layer if prefix else None))
        return Pass(off, differences, Recording(tuple(seeds), outputs))

    def keep(self, finished: Pass) -> None:
        """Keep what a pass over all seeds recorded, so that later passes can replay it."""
        self.prefixes.keep(RecordedPass(finished.off, finished.recording))
