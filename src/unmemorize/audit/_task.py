"""One budget of an attack on many images, as a task: advance, generate, compare."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from PIL import Image

from unmemorize._files import png_bytes, to_json
from unmemorize.audit._attack import Attack, Candidate, Target, Trial
from unmemorize.audit._bench import Bench, Companion
from unmemorize.audit._drawing import drawn
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
        fingerprint: of the audited model.
        teacher: how the audited model was loaded, where the attacked one is another model.
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
    size: int = 1

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
        return lambda items: [self._finished(bench, item) for item in items]

    def _finished(self, bench: Bench, item: AttackItem) -> Finished:
        began = time.perf_counter()
        attack, target = self.attack, item.image
        trial = Trial(
            target=target,
            start=item.start,
            seed=item.seed,
            attack=attack.name,
            fingerprint=self.fingerprint,
        )
        state = item.state
        if state is None:
            state = attack.begin(bench, trial)
        if item.budget > state.step:
            state = attack.advance(bench, trial, state, item.budget)
        candidate = attack.candidate(bench, trial, state)
        seeds = [
            derived_seed("audit image", self.fingerprint, target.key, number)
            for number in range(self.settings.images)
        ]
        images = drawn(bench, candidate, seeds, self.settings.generation)
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
            seconds=round(time.perf_counter() - began, 3),
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
    if len(target.images) > 1:
        mask = layout_mask(target.images)
        if mask.mean() >= SMALLEST_LAYOUT:
            scores = masked_copy_scores(images, target.images, mask)
            assert scores is not None  # the mask is large enough
            return list(scores), "layout"
    return copy_scores(descriptor(images), descriptor(target.images)).tolist(), "image"


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
    gains = []
    for level in _LEVELS:
        noise = torch.randn((_NOISES, *clean.shape[1:]), generator=generator, dtype=torch.float32)
        latents, levels = clean.expand_as(noise), torch.full((_NOISES,), level, dtype=torch.float32)
        losses = [
            float(
                bench.denoising_loss(
                    latents,
                    noise,
                    levels,
                    bench.with_embedding(candidate.text, embedding, _NOISES),
                ).mean()
            )
            for embedding in (anchor, candidate.embedding)
        ]
        gains.append(losses[0] - losses[1])
    return tuple(gains), float(change.norm()) / bench.scale, spread
