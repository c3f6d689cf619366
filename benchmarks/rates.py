"""What each rule of calibration calls memorized on the bundled model.

python benchmarks/rates.py

For each rule and each set of calibration captions it prints the level, how many of 100 ordinary
captions lie above it, and how many of the prompts that were planted at the full dose. Rules are
those of seed similarity. The default detector follows at the conformal rates.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import unmemorize as um
from unmemorize._captions import ordinary_captions
from unmemorize.detection import LateNoiseMagnitude, conformal_quantile
from unmemorize.detection._calibration import PromptScores
from unmemorize.detection._seed_similarity import SeedSimilarity
from unmemorize.statistics import threshold_captions

RULES = {
    "1 %": um.Calibration(),
    "5 %": um.Calibration(max_fpr=0.05),
    "paper, highest pairs": um.Calibration(reduction="prompts"),
    "paper, all pairs": um.Calibration(reduction="pairs"),
}
RATES = (0.01, 0.05)
"""The rates of false positives at which the default detector is looked at."""
BATCH = 8


@dataclass(frozen=True)
class Measured:
    """Scores of some captions under one definition of similarity."""

    texts: tuple[str, ...]
    scores: tuple[PromptScores, ...]

    @classmethod
    def on(cls, model: um.Model, texts: Sequence[str], noise: um.NoiseSettings) -> Measured:
        scores: list[PromptScores] = []
        for start in range(0, len(texts), BATCH):
            trace = um.Trace(model, texts[start : start + BATCH], noise, batch=BATCH * noise.seeds)
            scores += [
                PromptScores(value=score.value, pairs=score.pairs)
                for score in SeedSimilarity().score(trace)
            ]
        return cls(tuple(texts), tuple(scores))

    def above(self, tau: float) -> int:
        """Count the captions whose score is above a level."""
        return sum(score.value > tau for score in self.scores)


def main() -> None:
    model = um.Model.load("testbed", dtype="float32")
    test = [text for text in um.testbed.captions("test") if text not in ordinary_captions()][:100]
    planted = [entry.prompt.text for entry in um.testbed.planted() if entry.mode != "rare"]
    calibrations = {
        "its own captions": um.testbed.captions("calibration"),
        "ours, known words first": threshold_captions(model),
        "ours, in any order": ordinary_captions()[:500],
    }
    for noise in (um.NoiseSettings(), um.NoiseSettings.published()):
        ordinary = Measured.on(model, test, noise)
        memorized = Measured.on(model, planted, noise)
        for name, texts in calibrations.items():
            measured = Measured.on(model, texts, noise)
            for rule, calibration in RULES.items():
                level = calibration.threshold(
                    model, SeedSimilarity(), noise, measured.texts, measured.scores
                ).detect
                print(
                    f"{noise.similarity}, {len(texts)} captions ({name}), {rule}: "
                    f"tau {level.tau:.3f}, {ordinary.above(level.tau)} of {len(test)} ordinary, "
                    f"{memorized.above(level.tau)} of {len(planted)} planted",
                    flush=True,
                )
    usual, copied = by_default(model, test), by_default(model, planted)
    for name, texts in calibrations.items():
        scores = by_default(model, texts)
        for rate in RATES:
            tau = conformal_quantile(scores, rate)
            print(
                f"{LateNoiseMagnitude.name}, {len(texts)} captions ({name}), {rate:.0%}: "
                f"tau {tau:.3f}, {above(usual, tau)} of {len(test)} ordinary, "
                f"{above(copied, tau)} of {len(planted)} planted",
                flush=True,
            )


def by_default(model: um.Model, texts: Sequence[str]) -> list[float]:
    """Return the scores of the default detector."""
    scores: list[float] = []
    for start in range(0, len(texts), BATCH):
        trace = um.Trace(model, texts[start : start + BATCH])
        scores += [score.value for score in LateNoiseMagnitude().score(trace)]
    return scores


def above(scores: Sequence[float], tau: float) -> int:
    return sum(score > tau for score in scores)


if __name__ == "__main__":
    main()
