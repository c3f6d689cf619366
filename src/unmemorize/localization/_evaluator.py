"""The one question localization asks: does the prompt look memorized with these neurons off?"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from unmemorize.detection import SimilarityName
from unmemorize.localization._criteria import Limit, Scoring, SeedsScoring, UnblockedScoring
from unmemorize.localization._early_exit import Answer, PairTests, SeedTests, Tests, WholeTests
from unmemorize.localization._effects import Neuron, effects_of
from unmemorize.localization._passes import Pass, Passes
from unmemorize.localization._prediction_changes import PredictionChanges
from unmemorize.localization._records import Trial
from unmemorize.localization._settings import Criterion
from unmemorize.neurons import Neurons

_SHOWN = 3
"""Seeds whose noise differences are kept for people to look at."""


class Evaluator:
    """Scores of sets of neurons for one prompt, over its memorized seeds.

    Nothing is computed twice: scores that are known, or known to be too high, cost nothing.

    Args:
        passes: runs the denoiser for the prompt.
        unblocked: the pass over all seeds with nothing switched off.
        seeds: the memorized seeds.
        criterion: what counts as still memorized.
        similarity: how noise differences are compared.
    """

    def __init__(
        self,
        passes: Passes,
        unblocked: Pass,
        seeds: Sequence[int],
        criterion: Criterion,
        similarity: SimilarityName = "fixed",
    ) -> None:
        self._passes = passes
        self._unblocked = unblocked
        self._seeds = list(seeds)
        self._scoring: Scoring
        self._tests: Tests
        if criterion == "seeds":
            self._scoring = SeedsScoring(similarity)
            self._tests = PairTests(passes, seeds, self._scoring, unblocked.only(seeds))
        else:
            self._scoring = UnblockedScoring(unblocked.differences, similarity)
            self._tests = SeedTests(passes, seeds, self._scoring)
        if similarity == "published":
            self._tests = WholeTests(passes, seeds, self._scoring)
        self._scores = {Neurons(): self._scoring.scores(unblocked.only(seeds))}
        self._at_least: dict[Neurons, float] = {}
        self._last_passing: tuple[Neurons, Tensor] | None = None
        self.changes = PredictionChanges(passes, seeds)
        self.trials: list[Trial] = []
        """The tests that took the denoiser, in order."""

    def scores(self, off: Neurons) -> Tensor:
        """Return the scores with these neurons off.

        Returns:
            Criterion "unblocked": one score per memorized seed. Criterion "seeds": one per pair.
        """
        if off not in self._scores:
            blocked = self._passes.run(off, self._seeds)
            self._passes.keep(blocked)
            self._scores[off] = self._scoring.scores(blocked)
        return self._scores[off]

    def score(self, off: Neurons) -> float:
        """Return one number in [0, 1]: the highest score of a seed, or the mean over the pairs."""
        return self._scoring.reduce(self.scores(off))

    def below(self, off: Neurons, limit: Limit) -> float | None:
        """Return the score with these neurons off if it stays below the limit, otherwise None."""
        known = self.known_below(off, limit)
        if known is not None:
            return self.score(off) if known else None
        answer = self._tests.answer(off, limit)
        self._remember(off, answer)
        self.trials.append(Trial(len(off), answer.at_least, answer.below))
        return answer.at_least if answer.below else None

    def known_below(self, off: Neurons, limit: Limit) -> bool | None:
        """Tell whether the score stays below the limit if earlier tests say so, otherwise None."""
        if off in self._scores:
            return not self._scoring.too_high(self._scores[off], limit)
        return False if self._is_known_to_exceed(off, limit) else None

    def seems_below(self, off: Neurons, limit: Limit) -> bool:
        """Tell from a few seeds whether the score with these neurons off stays below the limit.

        Where the score is the highest of a seed, or depends on all of them, the answer is exact.
        """
        if off in self._scores or not isinstance(self._tests, PairTests):
            return self.below(off, limit) is not None
        is_new = not self._tests.is_screened(off)
        score, seems_below = self._tests.screen(off, limit)
        if is_new:
            self.trials.append(Trial(len(off), score, seems_below))
        return seems_below

    def effects(self, off: Neurons) -> dict[Neuron, float]:
        """Return how fast the mean score rises when each of these neurons is switched on again.

        It takes a pass with the neurons off and a backward pass.
        """
        passes = self._passes
        blocked = passes.run(off, self._seeds)
        effects = effects_of(passes.model, passes.probe, blocked, self._scoring, passes.scale)
        samples = passes.probe.of_seeds(self._seeds).samples
        passes.meter.add_forward(samples, share=1.0)
        passes.meter.add_backward(samples)
        return effects

    def differences(self, off: Neurons) -> Tensor:
        """Return noise differences of the first memorized seeds, to look at.

        Returns:
            (1 or 2, seeds, C, H, W): with nothing off, then with these neurons off. The second is
            missing unless these neurons were the last to pass a test: nothing is computed for it.
        """
        rows = [self._unblocked.only(self._seeds[:_SHOWN]).differences]
        if self._last_passing is not None and self._last_passing[0] == off:
            rows.append(self._last_passing[1])
        return torch.stack(rows).cpu()

    def _is_known_to_exceed(self, off: Neurons, limit: Limit) -> bool:
        if off not in self._at_least or limit.reference is not None:
            return False
        return bool(limit.exceeded(torch.tensor(self._at_least[off], dtype=torch.float32)))

    def _remember(self, off: Neurons, answer: Answer) -> None:
        if answer.scores is None:
            self._at_least[off] = answer.at_least
        else:
            self._scores[off] = answer.scores
        if answer.blocked is not None:
            self._last_passing = off, answer.blocked.only(self._seeds[:_SHOWN]).differences
            self._passes.keep(answer.blocked)
