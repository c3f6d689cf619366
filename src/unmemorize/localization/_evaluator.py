"""The one question that localization asks the model: does the prompt still look memorized with these neurons off?

How work is saved is this module's business alone. What runs before the first switched layer is replayed; a test ends as soon as its answer
is known, the seeds that told most so far going first; a set is never evaluated twice.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from unmemorize._model import Model
from unmemorize._neurons import Neurons
from unmemorize._similarity import Probe, noise_differences, pairs_of, pairwise_similarity, similarity
from unmemorize._switch import gated, scaled
from unmemorize.localization._replay import LARGEST, Plan, Recording, first_difference, joined, plan_for, recording, replaying
from unmemorize.localization._settings import LocalizationSettings

log = logging.getLogger(__name__)

_GROWTH = 4
"""How much larger each batch of seeds is than the one before."""
_ROUNDING = 1e-3
"""By how much the noise differences of a seed, in [0, 1], may differ between batches."""
_DIFFERENTIATED = 32 * 1024
"""Latent values that are differentiated at once: two seeds of Stable Diffusion."""


@dataclass(frozen=True)
class Limit:
    """What the scores of a set of neurons must stay below.

    Args:
        value: the limit of the score; or, with a reference, of each seed's relative distance from it.
        strict: whether a score at the limit is too high.
        reference: scores per seed.
    """

    value: float
    strict: bool = True
    reference: Tensor | None = None

    def exceeded(self, scores: Tensor, seeds: Sequence[int] | None = None) -> Tensor:
        """Which scores are too high; ``seeds`` are theirs."""
        if self.reference is not None:
            reference = self.reference if seeds is None else self.reference[list(seeds)]
            scores = ((scores - reference) / reference).abs()
        return scores >= self.value if self.strict else scores > self.value


class Work:
    """Denoiser samples spent on a prompt: in all, weighted by the share of the forward's multiply-adds that ran, and these by stage.

    What is done once per model (one sample to see its structure, and the check of replaying) is no prompt's work.
    """

    def __init__(self) -> None:
        self.evaluations = 0
        self.weighted = 0.0
        self.stages: dict[str, float] = {}

    def add(self, samples: int, share: float) -> None:
        self.evaluations += samples
        self.weighted += samples * share

    def end(self, stage: str) -> None:
        """What was spent since the last stage was this stage's."""
        self.stages[stage] = self.weighted - sum(self.stages.values())

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

    def differences(self, probe: Probe, seeds: Sequence[int], off: Neurons, guidance: float) -> tuple[Tensor, Recording]:
        """Noise differences of the probe, whose seeds are these, with the neurons switched by the caller, and what was recorded."""
        plan = self._plan(probe)
        base, layer = self._base(off, seeds)
        replayed = base.of(seeds, plan.before[layer]) if base and layer else {}
        names = plan.recorded if plan.exact is not False else ()
        with replaying(self._model.denoiser, replayed), recording(self._model.denoiser, names) as outputs:
            found = noise_differences(self._model, probe, guidance)
        self._work.add(len(seeds) * (1 if probe.empty is None else 2), plan.cost(layer))
        return found, Recording(off, tuple(seeds), outputs)

    def keep(self, name: str, parts: Sequence[Recording]) -> None:
        """Keep what was recorded with the same neurons off, for all seeds, to replay from it."""
        plan = self._known_plan
        if plan is None or plan.exact is False or (name != "unblocked" and not plan.roomy):
            return
        whole = joined(parts)
        base, _ = self._base(whole.off, whole.seeds)
        missing = set(base.outputs) - set(whole.outputs) if base else set()  # inside of what was replayed
        self._kept[name] = replace(whole, outputs=whole.outputs | (base.of(whole.seeds, missing) if base else {}))
        self.peak = max(self.peak, self.bytes)
        if self.bytes > LARGEST and name == "unblocked":
            self._stop(f"{self.bytes / 1024**3:.1f} GiB of recorded outputs are too many")
        elif self.bytes > LARGEST:
            del self._kept[name]
            plan.roomy = False

    def verify(self, probe: Probe, seeds: Sequence[int], expected: Tensor, guidance: float) -> None:
        """See once per model that replaying changes nothing, not even the last bit; where it does, it is never used."""
        plan = self._plan(probe)
        if plan.exact is not None:
            return
        some = list(reversed(seeds[1:]))
        for layer, chosen in ((self._layers[0], seeds), (self._layers[-1], seeds), (self._layers[-1], some)):
            with replaying(self._model.denoiser, self._kept["unblocked"].of(chosen, plan.before[layer])):
                found = noise_differences(self._model, probe.keep(list(chosen)), guidance)
            # another batch may round differently, the same one may not
            same = torch.equal(found, expected) if chosen is seeds else torch.allclose(found, expected[some], atol=_ROUNDING)
            if not same:
                self._stop("a replayed prefix does not give the same output")
                return
        plan.exact = True

    def _plan(self, probe: Probe) -> Plan:
        one = probe.keep([0])
        if self._known_plan is None:
            self._known_plan = plan_for(
                self._model.denoiser, self._layers, lambda: self._model.predict(one.latents, one.timestep, one.text)
            )
        return self._known_plan

    def _stop(self, reason: str) -> None:
        log.warning("%s: %s, so the denoiser always runs whole", self._model.name, reason)
        if self._known_plan is not None:
            self._known_plan.exact = False
        self._kept.clear()

    def _base(self, off: Neurons, seeds: Sequence[int]) -> tuple[Recording | None, str | None]:
        """The recording that spares most, and the layer from which on the denoiser must run."""
        best: tuple[Recording | None, str | None] = (None, None)
        for kept in self._kept.values():
            layer = first_difference(self._layers, off, kept.off) or self._layers[-1]
            if set(seeds) <= set(kept.seeds) and (best[1] is None or self._layers.index(layer) > self._layers.index(best[1])):
                best = (kept, layer)
        return best


class Evaluator:
    """Scores sets of neurons for one prompt, over the kept seeds.

    Args:
        model: the model.
        probe: the prompt with all its seeds.
        unblocked: noise differences of all seeds with nothing switched off, (seeds, C, H, W).
        kept: the seeds that count.
        settings: criterion, scale and guidance.
        prefixes: recorded prefixes of the prompt.
        work: where denoiser samples are counted.
    """

    def __init__(
        self,
        model: Model,
        probe: Probe,
        unblocked: Tensor,
        kept: Sequence[int],
        settings: LocalizationSettings,
        prefixes: Prefixes,
        work: Work,
    ) -> None:
        self._model, self._probe, self._unblocked, self._settings = model, probe, unblocked, settings
        self._prefixes, self._work, self._kept = prefixes, work, list(kept)
        self._order = list(range(len(kept)))
        self._known: dict[Neurons, Tensor] = {Neurons(): self._scores(self._order, unblocked[self._kept])}
        self._at_least: dict[Neurons, float] = {}

    def scores(self, neurons: Neurons) -> Tensor:
        """With these neurons off: per seed the similarity to the unblocked noise difference, or per pair of seeds that between them."""
        if neurons not in self._known:
            places = list(range(len(self._kept)))
            blocked, recorded = self._blocked(neurons, places)
            self._known[neurons] = self._scores(places, blocked)
            self._prefixes.keep("current", [recorded])
        return self._known[neurons]

    def reduce(self, scores: Tensor) -> float:
        """One number in [0, 1]: the highest over the seeds, or the mean over the pairs of seeds."""
        return float(scores.mean() if self._settings.criterion == "seeds" else scores.max())

    def score(self, neurons: Neurons) -> float:
        """One number for a set of neurons switched off."""
        return self.reduce(self.scores(neurons))

    def below(self, neurons: Neurons, limit: Limit) -> float | None:
        """The score of a set of neurons if it stays below the limit, else None; seeds are tried until the answer is known."""
        if neurons in self._known:
            scores = self._known[neurons]
            seedwise = self._settings.criterion != "seeds"
            too_high = bool((limit.exceeded(scores) if seedwise else limit.exceeded(scores.mean())).any())
            return None if too_high else self.reduce(scores)
        if limit.reference is None and bool(limit.exceeded(torch.tensor(self._at_least.get(neurons, -1.0)))):
            return None
        return self._below_by_pairs(neurons, limit) if self._settings.criterion == "seeds" else self._below_by_seeds(neurons, limit)

    def effects(self, neurons: Neurons) -> dict[tuple[str, int], float]:
        """With these neurons off, how fast the mean score rises when each of them is switched on again, by one backward pass.

        A seed's gradient needs the noise differences of the others but not their graphs, so only a few seeds are differentiated at a time.
        """
        places = list(range(len(self._kept)))
        blocked, _ = self._blocked(neurons, places)
        with torch.inference_mode(False), torch.enable_grad(), _frozen(self._model.denoiser):
            return self._effects(neurons, places, blocked.clone().requires_grad_())

    def _effects(self, neurons: Neurons, places: list[int], blocked: Tensor) -> dict[tuple[str, int], float]:
        (pull,) = torch.autograd.grad(self._scores(places, blocked).mean(), blocked)
        model, probe = self._model, self._probe.differentiable()
        gates = {path: torch.ones(model.widths[path], device=model.device, dtype=model.dtype) for path in neurons.layers}
        for path, indices in neurons.layers.items():
            gates[path][list(indices)] = self._settings.scale
            gates[path].requires_grad_()
        rise = {path: torch.zeros(model.widths[path]) for path in gates}
        size = max(1, _DIFFERENTIATED // (blocked[0].numel() * self._settings.noise.samples))
        for start in range(0, len(places), size):
            some = places[start : start + size]
            with gated(model, gates):
                part = noise_differences(
                    model, probe.keep([self._kept[place] for place in some]), self._settings.noise.guidance, gradient=True
                )
                found = torch.autograd.grad((part * pull[some]).sum(), list(gates.values()))
            for path, gradient in zip(gates, found, strict=True):
                rise[path] += gradient.float().cpu()
        self._work.add_backward(len(places) * self._settings.noise.samples)
        return {(path, index): float(rise[path][index]) * (1 - self._settings.scale) for path, index in neurons}

    def _below_by_seeds(self, neurons: Neurons, limit: Limit) -> float | None:
        scores = torch.empty(len(self._kept))
        recorded: list[Recording] = []
        start, size = 0, 1
        while start < len(self._order):
            places = self._order[start : start + size]
            blocked, part = self._blocked(neurons, places)
            found = self._scores(places, blocked)
            exceeded = limit.exceeded(found, places)
            if bool(exceeded.any()):
                telling = places[int(exceeded.float().argmax())]
                self._order.remove(telling)
                self._order.insert(0, telling)
                self._at_least[neurons] = float(found.max())
                return None
            scores[places] = found
            recorded.append(part)
            start, size = start + size, size * _GROWTH
        return self._passed(neurons, scores, recorded)

    def _below_by_pairs(self, neurons: Neurons, limit: Limit) -> float | None:
        """The mean over all pairs is too high as soon as the pairs known so far, whose similarity is never negative, make it so."""
        count = len(self._kept)
        total = count * (count - 1) / 2
        enough = next(size for size in range(2, count + 1) if size == count or size * (size - 1) / 2 / total > limit.value)
        first = list(range(enough))
        blocked, part = self._blocked(neurons, first)
        recorded = [part]
        if enough < count:
            so_far = pairs_of(pairwise_similarity(blocked)).sum() / total
            if bool(limit.exceeded(so_far)):
                self._at_least[neurons] = float(so_far)
                return None
            rest, part = self._blocked(neurons, list(range(enough, count)))
            blocked = torch.cat([blocked, rest])
            recorded.append(part)
        scores = pairs_of(pairwise_similarity(blocked))
        if bool(limit.exceeded(scores.mean())):
            self._known[neurons] = scores
            return None
        return self._passed(neurons, scores, recorded)

    def _passed(self, neurons: Neurons, scores: Tensor, recorded: Sequence[Recording]) -> float:
        self._known[neurons] = scores
        self._prefixes.keep("current", recorded)
        return self.reduce(scores)

    def _blocked(self, neurons: Neurons, places: list[int]) -> tuple[Tensor, Recording]:
        seeds = [self._kept[place] for place in places]
        with scaled(self._model, [neurons], self._settings.scale):
            return self._prefixes.differences(self._probe.keep(seeds), seeds, neurons, self._settings.noise.guidance)

    def _scores(self, places: list[int], blocked: Tensor) -> Tensor:
        if self._settings.criterion == "seeds":
            return pairs_of(pairwise_similarity(blocked))
        return similarity(self._unblocked[[self._kept[place] for place in places]], blocked).cpu()


@contextmanager
def _frozen(denoiser: nn.Module) -> Iterator[None]:
    """No gradients for weights, which a backward pass would otherwise keep everything for."""
    trained = [parameter for parameter in denoiser.parameters() if parameter.requires_grad]
    for parameter in trained:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in trained:
            parameter.requires_grad_()
