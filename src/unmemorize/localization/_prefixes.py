"""What one prompt's tests of sets of neurons share: recorded prefixes of the denoiser, and the work they spend."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from unmemorize._progress import Progress, silent
from unmemorize.detection import Probe, noise_differences
from unmemorize.localization._records import Spent
from unmemorize.localization._replay import (
    LARGEST,
    Plan,
    Recording,
    first_difference,
    joined,
    plan_for,
    recording,
    replaying,
)
from unmemorize.neurons import Neurons
from unmemorize.pipelines import Model

log = logging.getLogger(__name__)

_ROUNDING = 0.05
"""By how much noise differences, in [0, 1], may differ between batches, in half precision too; another seed differs by more."""


class Work:
    """Denoiser samples spent on a prompt: in all, weighted by the share of the forward's multiply-adds that ran, and by stage.

    What is done once per model (one sample to see its structure, and the check of replaying) is no prompt's work.

    Args:
        progress: called with the denoiser samples so far, after each pass.
    """

    def __init__(self, progress: Progress = silent) -> None:
        self._progress = progress
        self.evaluations = 0
        self.weighted = 0.0
        self.stages: dict[str, Spent] = {}
        self._began = self._clock = time.perf_counter()

    def add(self, samples: int, share: float) -> None:
        self.evaluations += samples
        self.weighted += samples * share
        self._progress(self.evaluations, None)

    def end(self, stage: str) -> None:
        """What was spent since the last stage was this stage's."""
        now = time.perf_counter()
        self.stages[stage] = Spent(
            self.weighted - sum(spent.work for spent in self.stages.values()), now - self._clock
        )
        self._clock = now

    @property
    def seconds(self) -> float:
        """Wall time so far."""
        return time.perf_counter() - self._began

    def add_backward(self, samples: int) -> None:
        """A forward with a backward pass, which takes about as much as two forwards."""
        self.add(samples, 3.0)


class Prefixes:
    """Recorded prefixes of one prompt: with nothing off, and with what was off at the last test that was passed.

    Args:
        model: the model.
        layers: the value layers whose neurons may be switched, in the order in which they run.
        work: where denoiser samples are counted.
    """

    def __init__(self, model: Model, layers: Sequence[str], work: Work) -> None:
        self._model, self._layers, self._work = model, list(layers), work
        self._kept: dict[str, Recording] = {}
        self._known_plan: Plan | None = None
        self.peak = 0
        """The most bytes that the recordings took at a time."""

    @property
    def bytes(self) -> int:
        """What the recordings take."""
        return sum(kept.bytes for kept in self._kept.values())

    def differences(
        self, probe: Probe, seeds: Sequence[int], off: Neurons
    ) -> tuple[Tensor, Recording]:
        """Noise differences of the probe, whose seeds are these, with the neurons switched by the caller, and what was recorded."""
        plan = self._plan(probe)
        base, layer = self._base(off, seeds)
        replayed = base.of(seeds, plan.before[layer]) if base and layer else {}
        names = plan.recorded if plan.exact is not False else ()
        with (
            replaying(self._model.denoiser, replayed),
            recording(self._model.denoiser, names) as outputs,
        ):
            found = noise_differences(self._model, probe)
        self._work.add(probe.samples, plan.cost(layer))
        return found, Recording(off, tuple(seeds), outputs)

    def keep(self, name: str, parts: Sequence[Recording]) -> None:
        """Keep what was recorded with the same neurons off, for all seeds, to replay from it."""
        plan = self._known_plan
        if plan is None or plan.exact is False or (name != "unblocked" and not plan.roomy):
            return
        whole = joined(parts)
        base, _ = self._base(whole.off, whole.seeds)
        missing = (
            set(base.outputs) - set(whole.outputs) if base else set()
        )  # inside of what was replayed
        self._kept[name] = replace(
            whole, outputs=whole.outputs | (base.of(whole.seeds, missing) if base else {})
        )
        taken = self.bytes
        self.peak = max(self.peak, taken)
        if taken > LARGEST and name == "unblocked":
            self._stop(plan, f"{taken / 1024**3:.1f} GiB of recorded outputs are too many")
        elif taken > LARGEST:
            del self._kept[name]
            plan.roomy = False

    def verify(self, probe: Probe, seeds: Sequence[int], expected: Tensor) -> None:
        """See once per model that replaying changes nothing, not even the last bit; where it does, it is never used."""
        plan = self._plan(probe)
        if plan.exact is not None:
            return
        some = list(reversed(seeds[1:]))
        for layer, chosen in (
            (self._layers[0], seeds),
            (self._layers[-1], seeds),
            (self._layers[-1], some),
        ):
            with replaying(
                self._model.denoiser, self._kept["unblocked"].of(chosen, plan.before[layer])
            ):
                found = noise_differences(self._model, probe.of_seeds(chosen))
            # another batch may round differently, the same one may not
            same = (
                torch.equal(found, expected)
                if chosen is seeds
                else torch.allclose(found, expected[some], atol=_ROUNDING)
            )
            if not same:
                self._stop(plan, "a replayed prefix does not give the same output")
                return
        plan.exact = True

    def _plan(self, probe: Probe) -> Plan:
        if self._known_plan is None:
            one = probe.of_seeds([0])
            self._known_plan = plan_for(
                self._model.denoiser,
                self._layers,
                lambda: self._model.predict(one.latents, one.timestep, one.text),
            )
        return self._known_plan

    def _stop(self, plan: Plan, reason: str) -> None:
        log.warning("%s: %s, so the denoiser always runs whole", self._model.name, reason)
        plan.exact = False
        self._kept.clear()

    def _base(self, off: Neurons, seeds: Sequence[int]) -> tuple[Recording | None, str | None]:
        """The recording that spares most, and the layer from which on the denoiser must run."""
        best: tuple[Recording | None, str | None] = (None, None)
        for kept in self._kept.values():
            layer = first_difference(self._layers, off, kept.off) or self._layers[-1]
            if set(seeds) <= set(kept.seeds) and (
                best[1] is None or self._layers.index(layer) > self._layers.index(best[1])
            ):
                best = (kept, layer)
        return best
