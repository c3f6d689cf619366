"""One budget of an attack on many images, as a task: advance, generate, compare."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from unmemorize._files import png_bytes, to_json
from unmemorize.audit._attack import Attack, Candidate, SideBySide, State, Target, Trial
from unmemorize.audit._bench import Bench, Companion
from unmemorize.audit._drawing import drawn, drawn_all
from unmemorize.audit._records import AttackItem, AttackRecord, state_bytes
from unmemorize.audit._settings import AuditSettings
from unmemorize.engines import Finished, UnitFunction
from unmemorize.generation import Edit
from unmemorize.metrics import (
    SMALLEST_LAYOUT,
    Descriptor,
    copy_scores,
    layout_mask,
    masked_copy_scores,
)
from unmemorize.mitigation import derived_seed
from unmemorize.pipelines import Loading, Model

_LEVELS = (0.1, 0.3, 0.5, 0.7, 0.9)
"""Noise levels at which embeddings are compared without generating."""
_NOISES = 4
"""Noises at each of them."""


@dataclass(frozen=True, kw_only=True)
class AttackTask:
    """One attack in one arm as a `Task`, whose items are `AttackItem`.

    Args:
        kind: the name of the records.
        attack: the attack.
        edit: what is applied to the model; None for nothing.
        settings: of the audit.
        captions: ordinary captions.
        companions: other memorized images.
        descriptor: compares images.
        fingerprint: what seeds are derived from, see `AuditInputs.seed_name`.
        teacher: how the audited model was loaded, for an attack without an image on another model.
    """

    kind: str
    attack: Attack
    edit: Edit | None
    settings: AuditSettings
    captions: tuple[str, ...]
    companions: tuple[Companion, ...]
    descriptor: Descriptor
    fingerprint: str
    teacher: Loading | None = None

    @property
    def size(self) -> int:
        """See `Task`."""
        return self.settings.together if isinstance(self.attack, SideBySide) else 1

    def prepare(self, model: Model) -> UnitFunction:
        """See `Task`."""
        bench = Bench(
            model,
            self.edit,
            self.captions,
            batch=self.settings.batch,
            teacher=Model.from_loading(self.teacher) if self.teacher else None,
            companions=self.companions,
        )
        return lambda items: self._finished(bench, items)

    def _finished(self, bench: Bench, items: Sequence[AttackItem]) -> list[Finished]:
        began = time.perf_counter()
        trials = [
            Trial(
                target=item.image,
                start=item.start,
                seed=item.seed,
                attack=self.attack.name,
                fingerprint=self.fingerprint,
            )
            for item in items
        ]
        states = self._advanced(bench, items, trials)
        candidates = [
            self.attack.candidate(bench, trial, state)
            for trial, state in zip(trials, states, strict=True)
        ]
        seeds = [
            [
                derived_seed("audit image", self.fingerprint, item.image.key, number)
                for number in range(self.settings.images)
            ]
            for item in items
        ]
        generation = self.settings.generation
        if len(items) > 1:
            images = drawn_all(bench, candidates, seeds, generation)
        else:
            images = [drawn(bench, candidates[0], seeds[0], generation)]
        seconds = (time.perf_counter() - began) / len(items)
        found = zip(items, trials, states, candidates, images, strict=True)
        return [self._compared(bench, *each, seconds) for each in found]

    def _advanced(
        self, bench: Bench, items: Sequence[AttackItem], trials: Sequence[Trial]
    ) -> list[State]:
        """Bring all attacks to their budget, which is the same for all."""
        attack, budget = self.attack, items[0].budget
        states = [
            attack.begin(bench, trial) if item.state is None else item.state
            for item, trial in zip(items, trials, strict=True)
        ]
        if budget <= states[0].step:
            return states
        if isinstance(attack, SideBySide):
            return attack.advance_all(bench, trials, states, budget)
        return [
            attack.advance(bench, trial, state, budget)
            for trial, state in zip(trials, states, strict=True)
        ]

    def _compared(
        self,
        bench: Bench,
        item: AttackItem,
        trial: Trial,
        state: State,
        candidate: Candidate,
        images: Sequence[Image.Image],
        seconds: float,
    ) -> Finished:
        began, attack, target = time.perf_counter(), self.attack, item.image
        scores, measure = similarity(images, target, self.descriptor)
        name = f"{self.kind}/{item.trial:05d}-{item.budget:04d}"
        files = {f"{name}.png": png_bytes(images[scores.index(max(scores))])}
        if state.tensors:
            files[f"{name}.safetensors"] = state_bytes(state)
        gains, distance, spread = _of_embedding(bench, trial, candidate)
        record = AttackRecord(
            target=item.target,
            prompt=target.prompt,
            start=item.start,
            seed=item.seed,
            budget=item.budget,
            samples=attack.samples(item.budget, self.settings.batch),
            seconds=round(seconds + time.perf_counter() - began, 3),
            scores=tuple(scores),
            measure=measure,
            gains=gains,
            distance=distance,
            spread=spread,
            words=candidate.words,
            state=f"{name}.safetensors" if state.tensors else "",
            image=f"{name}.png",
        )
        return Finished(to_json(record), files)


def similarity(
    images: Sequence[Image.Image], target: Target, descriptor: Descriptor
) -> tuple[list[float], str]:
    """Compare images with a target.

    Returns:
        A score in [-1, 1] for each image, and what was compared: "layout" where the target has
        several images that agree in a part, else "image".
    """
    mask = _layout(target)
    if mask is not None:
        scores = masked_copy_scores(images, target.images, mask)
        assert scores is not None  # the mask is large enough
        return list(scores), "layout"
    return copy_scores(descriptor(images), descriptor(target.images)).tolist(), "image"


def measure_of(target: Target) -> str:
    """Return what `similarity` compares of a target: "layout" or "image"."""
    return "image" if _layout(target) is None else "layout"


def _layout(target: Target) -> NDArray[np.bool_] | None:
    if len(target.images) < 2:
        return None
    mask = layout_mask(target.images)
    return mask if mask.mean() >= SMALLEST_LAYOUT else None


def _of_embedding(
    bench: Bench, trial: Trial, candidate: Candidate
) -> tuple[tuple[float, ...], float | None, float | None]:
    """Return gains, distance and spread of an embedding, see `AttackRecord`."""
    if candidate.embedding is None:
        return (), None, None
    prompt, key = trial.target.prompt, trial.target.key
    anchor = bench.embedding(prompt)
    change = (candidate.embedding.float() - anchor).double()
    singular = torch.linalg.svdvals(change)
    spread = float(singular.square().sum() / singular[0].square()) if singular[0] > 0 else 0.0
    clean = bench.latents(key, trial.target.images)[:1]
    generator = trial.generator("gain")
    count = len(_LEVELS) * _NOISES
    noise = torch.randn((count, *clean.shape[1:]), generator=generator, dtype=torch.float32)
    levels = torch.tensor(_LEVELS, dtype=torch.float32).repeat_interleave(_NOISES)
    before, after = (
        bench.denoising_loss(
            clean.expand_as(noise),
            noise,
            levels,
            bench.with_embedding(candidate.text, embedding, count),
        )
        for embedding in (anchor, candidate.embedding)
    )
    gains = (before - after).view(len(_LEVELS), _NOISES).mean(1).tolist()
    return tuple(gains), float(change.norm()) / bench.scale, spread
