"""What each rule of calibration calls memorized on the bundled model.

python benchmarks/rates.py [--published]

For each rule and each set of calibration captions it prints the level, how many of 100 ordinary
captions lie above it, and how many of the prompts that were planted at the full dose. Rules are
those of seed similarity. The default detector follows at the conformal rates.

--published prints how much the settings of the published code change, from 60 calibration captions
(three minutes on an idle core): similarities and levels by both definitions of similarity, and the
level over all pairs with guidance and at the paper's timestep.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

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
FEW = 60
"""Calibration captions for the settings of the published code."""


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

    @property
    def mean(self) -> float:
        """The mean similarity of all pairs of seeds."""
        return fmean(pair for score in self.scores for pair in score.pairs)


def main(published: bool) -> None:
    model = um.Model.load("testbed", dtype="float32")
    test = [text for text in um.testbed.captions("test") if text not in ordinary_captions()][:100]
    planted = [entry.prompt.text for entry in um.testbed.planted() if entry.mode != "rare"]
    if published:
        print_published(model, test, planted)
        return
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
                tau = level_of(model, calibration, noise, measured)
                print(
                    f"{noise.similarity}, {len(texts)} captions ({name}), {rule}: "
                    f"tau {tau:.3f}, {ordinary.above(tau)} of {len(test)} ordinary, "
                    f"{memorized.above(tau)} of {len(planted)} planted",
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


def level_of(
    model: um.Model, calibration: um.Calibration, noise: um.NoiseSettings, measured: Measured
) -> float:
    """Return the level of detection that a rule makes of scores."""
    threshold = calibration.threshold(
        model, SeedSimilarity(), noise, measured.texts, measured.scores
    )
    return threshold.detect.tau


def print_published(model: um.Model, test: Sequence[str], planted: Sequence[str]) -> None:
    """Print how much each setting of the published code changes."""
    texts = um.testbed.captions("calibration")[:FEW]
    settings = {
        "fixed": um.NoiseSettings(),
        "published": um.NoiseSettings.published(),
        "fixed, the paper's timestep": um.NoiseSettings(protocol="paper"),
        "fixed, guidance 7": um.NoiseSettings(guidance=7),
        "fixed, guidance 7 with swapped halves": um.NoiseSettings(guidance=-6),
    }
    for name, noise in settings.items():
        measured = Measured.on(model, texts, noise)
        tau = level_of(model, RULES["paper, all pairs"], noise, measured)
        print(f"{name}: mean of pairs {measured.mean:.3f}, tau over pairs {tau:.3f}", flush=True)
        if name not in ("fixed", "published"):
            continue
        ordinary, memorized = (Measured.on(model, some, noise) for some in (test, planted))
        print(f"{name}: mean of pairs of planted prompts {memorized.mean:.3f}")
        for rule in ("paper, all pairs", "paper, highest pairs"):
            tau = level_of(model, RULES[rule], noise, measured)
            print(
                f"{name}, {rule}: tau {tau:.3f}, {ordinary.above(tau)} of {len(test)} ordinary, "
                f"{memorized.above(tau)} of {len(planted)} planted",
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
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--published", action="store_true", help="the published settings alone")
    main(parser.parse_args().published)
