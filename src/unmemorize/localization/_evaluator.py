"""The one question that localization asks the model: how memorized does the prompt still look with these neurons off?"""

from __future__ import annotations

from torch import Tensor

from unmemorize._model import Model
from unmemorize._neurons import Neurons
from unmemorize._similarity import Probe, noise_differences, pairs_of, pairwise_similarity, similarity
from unmemorize._switch import scaled
from unmemorize.localization._settings import LocalizationSettings


class Evaluator:
    """Scores sets of neurons for one prompt, over the kept seeds.

    Args:
        model: the model.
        probe: the prompt with the kept seeds only.
        unblocked: noise differences of the kept seeds with nothing switched off, (seeds, C, H, W).
        settings: criterion, scale and guidance.
    """

    def __init__(self, model: Model, probe: Probe, unblocked: Tensor, settings: LocalizationSettings) -> None:
        self._model, self._probe, self._unblocked, self._settings = model, probe, unblocked, settings
        self.evaluations = 0
        """Denoiser sample evaluations spent: one initial noise through one denoiser forward."""

    def scores(self, neurons: Neurons) -> Tensor:
        """With these neurons off: per seed the similarity to the unblocked noise difference, or per pair of seeds that between them."""
        with scaled(self._model, [neurons], self._settings.scale):
            blocked = noise_differences(self._model, self._probe, self._settings.noise.guidance)
        self.evaluations += len(blocked) * self._settings.noise.samples
        if self._settings.criterion == "seeds":
            return pairs_of(pairwise_similarity(blocked))
        return similarity(self._unblocked, blocked)

    def reduce(self, scores: Tensor) -> float:
        """One number in [0, 1]: the highest over the seeds, or the mean over the pairs of seeds."""
        return float(scores.mean() if self._settings.criterion == "seeds" else scores.max())

    def score(self, neurons: Neurons) -> float:
        """One number for a set of neurons switched off."""
        return self.reduce(self.scores(neurons))
