"""The one question that localization asks the model: does the prompt still look memorized with these neurons off?

How work is saved is this module's business alone. What runs before the first switched layer is replayed; a test ends as soon as its answer
is known, the seeds that told most so far going first; a set is never evaluated twice.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from unmemorize.detection import Probe, noise_differences, pairs_of, pairwise_similarity, similarity
from unmemorize.localization._prefixes import Prefixes, Work
from unmemorize.localization._records import Trial
from unmemorize.localization._replay import Recording
from unmemorize.localization._settings import LocalizationSettings
from unmemorize.neurons import Neurons, gated, scaled
from unmemorize.pipelines import Model

SHOWN = 3
"""Seeds whose noise differences are kept to look at."""
_GROWTH = 4
"""How much larger each batch of seeds is than the one before."""
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
        self._model, self._probe, self._unblocked, self._settings = (
            model,
            probe,
            unblocked,
            settings,
        )
        self._prefixes, self._work, self._kept = prefixes, work, list(kept)
        self._order = list(range(len(kept)))
        self._known: dict[Neurons, Tensor] = {
            Neurons(): self._scores(self._order, unblocked[self._kept])
        }
        self._at_least: dict[Neurons, float] = {}
        self._passing: tuple[Neurons, Tensor] | None = None
        self.trials: list[Trial] = []
        """What was asked so far and took the denoiser, in order."""

    def differences(self, neurons: Neurons) -> Tensor:
        """Noise differences of the first kept seeds, (1 or 2, seeds, C, H, W): with nothing off, then with these neurons off.

        The second is there when they were the last ones to pass a test; nothing is computed for it.
        """
        seeds = self._kept[:SHOWN]
        rows = [self._unblocked[seeds]]
        if self._passing is not None and self._passing[0] == neurons:
            rows.append(self._passing[1])
        return torch.stack(rows).cpu()

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
        before = self._work.evaluations
        found = self._below(neurons, limit)
        if self._work.evaluations > before:
            seen = (
                found
                if found is not None
                else self.score(neurons)
                if neurons in self._known
                else self._at_least[neurons]
            )
            self.trials.append(Trial(len(neurons), seen, found is not None))
        return found

    def _below(self, neurons: Neurons, limit: Limit) -> float | None:
        if neurons in self._known:
            scores = self._known[neurons]
            seedwise = self._settings.criterion != "seeds"
            too_high = bool(
                (limit.exceeded(scores) if seedwise else limit.exceeded(scores.mean())).any()
            )
            return None if too_high else self.reduce(scores)
        if limit.reference is None and bool(
            limit.exceeded(torch.tensor(self._at_least.get(neurons, -1.0)))
        ):
            return None
        return (
            self._below_by_pairs(neurons, limit)
            if self._settings.criterion == "seeds"
            else self._below_by_seeds(neurons, limit)
        )

    def effects(self, neurons: Neurons) -> dict[tuple[str, int], float]:
        """With these neurons off, how fast the mean score rises when each of them is switched on again, by one backward pass.

        A seed's gradient needs the noise differences of the others but not their graphs, so only a few seeds are differentiated at a time.
        """
        places = list(range(len(self._kept)))
        blocked, _ = self._blocked(neurons, places)
        with torch.enable_grad(), _frozen(self._model.denoiser):
            return self._effects(neurons, places, blocked.requires_grad_())

    def _effects(
        self, neurons: Neurons, places: list[int], blocked: Tensor
    ) -> dict[tuple[str, int], float]:
        (pull,) = torch.autograd.grad(self._scores(places, blocked).mean(), blocked)
        model, probe = self._model, self._probe
        gates = {
            path: torch.ones(model.widths[path], device=model.device, dtype=model.dtype)
            for path in neurons.layers
        }
        for path, indices in neurons.layers.items():
            gates[path][list(indices)] = self._settings.scale
            gates[path].requires_grad_()
        rise = {path: torch.zeros(model.widths[path]) for path in gates}
        size = max(1, _DIFFERENTIATED // (blocked[0].numel() * self._settings.noise.samples))
        for start in range(0, len(places), size):
            some = places[start : start + size]
            with gated(model, gates):
                part = noise_differences(
                    model,
                    probe.of_seeds([self._kept[place] for place in some]),
                    gradient=True,
                )
                found = torch.autograd.grad((part * pull[some]).sum(), list(gates.values()))
            for path, gradient in zip(gates, found, strict=True):
                rise[path] += gradient.float().cpu()
        self._work.add_backward(len(places) * self._settings.noise.samples)
        return {
            (path, index): float(rise[path][index]) * (1 - self._settings.scale)
            for path, index in neurons
        }

    def _below_by_seeds(self, neurons: Neurons, limit: Limit) -> float | None:
        scores = torch.empty(len(self._kept))
        blocked_by_place: dict[int, Tensor] = {}
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
            blocked_by_place |= zip(places, blocked, strict=True)
            recorded.append(part)
            start, size = start + size, size * _GROWTH
        return self._passed(
            neurons, scores, recorded, [blocked_by_place[place] for place in range(len(self._kept))]
        )

    def _below_by_pairs(self, neurons: Neurons, limit: Limit) -> float | None:
        """The mean over all pairs is too high as soon as the pairs known so far, whose similarity is never negative, make it so."""
        count = len(self._kept)
        total = count * (count - 1) / 2
        enough = next(
            size
            for size in range(2, count + 1)
            if size == count or size * (size - 1) / 2 / total > limit.value
        )
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
        return self._passed(neurons, scores, recorded, list(blocked))

    def _passed(
        self,
        neurons: Neurons,
        scores: Tensor,
        recorded: Sequence[Recording],
        blocked: Sequence[Tensor],
    ) -> float:
        self._known[neurons] = scores
        self._passing = neurons, torch.stack(list(blocked[:SHOWN]))
        self._prefixes.keep("current", recorded)
        return self.reduce(scores)

    def _blocked(self, neurons: Neurons, places: list[int]) -> tuple[Tensor, Recording]:
        seeds = [self._kept[place] for place in places]
        with scaled(self._model, [neurons], self._settings.scale):
            return self._prefixes.differences(self._probe.of_seeds(seeds), seeds, neurons)

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
