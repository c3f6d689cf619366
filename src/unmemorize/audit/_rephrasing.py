"""L1: what a user may try: other words, other guidance, other steps, another scheduler.

Each step of this attack is one variant. Variants are tried in a fixed order.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from diffusers import DDIMScheduler, PNDMScheduler

from unmemorize.audit._attack import AttackSettings, Candidate, State, Trial
from unmemorize.audit._bench import Bench
from unmemorize.audit._original_prompt import WithoutSearch
from unmemorize.generation import GenerationSettings
from unmemorize.pipelines import sampler

Change = Callable[[GenerationSettings], GenerationSettings]


class Rephrasing(WithoutSearch):
    """Three paraphrases, words dropped and added, other guidance, steps and scheduler.

    Where a caption has fewer than three paraphrases, shuffled words take their place.
    """

    name = "L1"

    _WORDS = 7
    """Variants of the text. The others change the settings."""
    _SETTINGS: tuple[Change, ...] = (
        lambda settings: replace(settings, guidance=1.0),
        lambda settings: replace(settings, guidance=2 * settings.guidance),
        lambda settings: replace(settings, steps=max(1, settings.steps // 2)),
        lambda settings: replace(settings, steps=2 * settings.steps),
    )

    def ladder(self, _steps: Sequence[int]) -> Sequence[int]:
        """See `Attack`. The budget is the number of variants that were tried."""
        return range(1, self._WORDS + len(self._SETTINGS) + 2)

    def candidate(self, bench: Bench, trial: Trial, state: State) -> Candidate:
        """See `Attack`. Before the first variant it is the caption itself."""
        variant = state.step - 1
        if variant < 0:
            return Candidate(text=trial.target.prompt)
        if variant < self._WORDS:
            text = self._reworded(bench, trial, variant)
            return Candidate(text=text, words=text)
        variant -= self._WORDS
        if variant < len(self._SETTINGS):
            return Candidate(text=trial.target.prompt, settings=self._SETTINGS[variant])
        return Candidate(text=trial.target.prompt, scheduler=lambda: _other_scheduler(bench))

    def _reworded(self, bench: Bench, trial: Trial, variant: int) -> str:
        generator = trial.generator(variant)
        draw = random.Random(int(torch.randint(2**62, (1,), generator=generator)))
        words, paraphrases = trial.target.prompt.split(), trial.target.paraphrases
        if variant < 3:
            if variant < len(paraphrases):
                return paraphrases[variant]
            return " ".join(draw.sample(words, len(words)))
        if variant < 5:  # one or two words fewer
            for _ in range(variant - 2):
                if len(words) > 1:
                    del words[draw.randrange(len(words))]
            return " ".join(words)
        for _ in range(1 if variant == 5 else 4):  # random tokens (Somepalli et al. 2023)
            words.insert(draw.randrange(len(words) + 1), _random_word(bench, draw))
        return " ".join(words)


def _random_word(bench: Bench, draw: random.Random) -> str:
    tokenizer: Any = bench.model.pipe.tokenizer
    while True:
        number = draw.randrange(len(tokenizer))
        word = tokenizer.decode([number]).strip()
        if number not in tokenizer.all_special_ids and word and word.isprintable():
            return str(word)


def _other_scheduler(bench: Bench) -> object:
    """Return PNDM, which Stable Diffusion shipped with; the usual one where it does not fit."""
    usual = sampler(bench.model.pipe)
    if not isinstance(usual, DDIMScheduler) or usual.config.prediction_type == "sample":
        return usual
    return PNDMScheduler.from_config(usual.config, skip_prk_steps=True)


def rephrasing(_settings: AttackSettings) -> tuple[Rephrasing]:
    """Make the attack of level L1."""
    return (Rephrasing(),)
