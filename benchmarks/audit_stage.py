"""What the parts of benchmarks/audit.py share: models, plants, and attacks side by side."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from statistics import median
from typing import Any, Literal

import torch

from together import CardDescriptor, Job, Stand, attacked, scored
from unmemorize import (
    Edit,
    GenerationSettings,
    Model,
    NeuronEdit,
    Neurons,
    testbed,
)
from unmemorize.audit import Start, Target, Trial, companions_of, targets_of
from unmemorize.audit._latents import latent_of
from unmemorize.audit._objectives import _DRAWN as DRAWN
from unmemorize.audit._objectives import _STEPS as STEPS
from unmemorize.generation import generate_each
from unmemorize.mitigation import control_edit, derived_seed

Half = Literal["a", "b"]
HALVES: tuple[Half, ...] = ("a", "b")
Rows = list[tuple[Any, ...]]
Unit = tuple[str, ...]
COLUMNS = ("arm", "image", "attack", "start", "seed", "budget", "median", "best")
"""Of a row. Median and best are over the images of an embedding."""


@dataclass(frozen=True)
class Stage:
    """Models, plants and settings that the parts share."""

    options: argparse.Namespace

    @cached_property
    def model(self) -> Model:
        return Model.load("testbed", dtype="float32")

    @cached_property
    def twins(self) -> dict[str, Model]:
        return {half: Model(testbed.load_twin(half)) for half in HALVES}

    @cached_property
    def descriptor(self) -> CardDescriptor:
        return CardDescriptor(self.model.device)

    @cached_property
    def generation(self) -> GenerationSettings:
        guidance = testbed.defaults()["guidance"]
        return GenerationSettings(steps=self.options.steps, guidance=guidance, batch=256)

    @cached_property
    def entries(self) -> tuple[testbed.Planted, ...]:
        """The plants whose neurons are known, the kinds of each half in turn."""
        known = [entry for entry in testbed.planted() if entry.neurons]
        return tuple(sorted(known, key=lambda entry: (entry.half, _rank(entry, known))))

    @cached_property
    def edits(self) -> dict[str, Edit | None]:
        off = NeuronEdit(Neurons.of(neuron for entry in self.entries for neuron in entry.neurons))
        return {"edited": off, "random": control_edit(off, self.model), "unedited": None}

    @cached_property
    def targets(self) -> tuple[Target, ...]:
        return targets_of([entry.prompt for entry in self.entries])

    @cached_property
    def ordinary(self) -> tuple[Target, ...]:
        """Images that the unedited model draws for ordinary captions."""
        texts = testbed.captions("test")[: self.options.ordinary]
        seeds = [derived_seed("audit ordinary", text) for text in texts]
        one = replace(self.generation, images=1)
        images = generate_each(self.model, texts, [None] * len(texts), settings=one, seeds=seeds)
        return tuple(
            Target(key=derived_key(text), prompt=text, images=(image,))
            for text, (image,) in zip(texts, images, strict=True)
        )

    def draw_unedited(self, bench: Stand, places: Sequence[int]) -> None:
        """Draw what attacks without an image have instead, see `Objective.begun`, all at once."""
        prompts, seeds, targets = [], [], [self.targets[place] for place in places]
        for target in targets:
            prompts += [target.prompt] * DRAWN
            purpose = ("imageless", self.model.fingerprint, target.key)
            seeds += [derived_seed(*purpose, number) for number in range(DRAWN)]
        settings = replace(self.generation, images=1, steps=STEPS, guidance=1.0)
        images = generate_each(
            self.model, prompts, [None] * len(prompts), settings=settings, seeds=seeds
        )
        latents = [latent_of(self.model, image).cpu() for (image,) in images]
        some = torch.stack(latents).split(DRAWN)
        bench.unedited.update(zip((each.key for each in targets), some, strict=True))

    @cached_property
    def _benches(self) -> dict[Unit, Stand]:
        return {}

    def bench(self, arm: str, half: str) -> Stand:
        """Return the model of an arm for the plants of a half; the edited one for other names."""
        key = (arm, half) if arm == "never-trained" else (arm,)
        if key not in self._benches:
            twin = arm == "never-trained"
            self._benches[key] = Stand(
                self.twins[half] if twin else self.model,
                None if twin else self.edits[arm if arm in self.edits else "edited"],
                testbed.captions("test"),
                teacher=self.model if twin else None,
                companions=companions_of(self.targets),
            )
        return self._benches[key]

    def places(self, half: str, most: int | None = None) -> list[int]:
        """Return places of the plants of a half."""
        most = self.options.plants if most is None else min(most, self.options.plants)
        return [n for n, entry in enumerate(self.entries) if entry.half == half][:most]

    def trial(self, target: Target, start: Start, seed: int, attack: str) -> Trial:
        return Trial(
            target=target,
            start=start,
            seed=seed,
            attack=attack,
            fingerprint=self.model.fingerprint,
        )

    def together(
        self, arm: str, bench: Stand, jobs: Sequence[tuple[int, Job]], ladder: Sequence[int]
    ) -> Rows:
        """Run attacks side by side; each comes with the place of its image."""
        rows: Rows = []
        places = {id(job): place for place, job in jobs}
        ladder = self.options.ladder or ladder
        images = self.options.images
        for budget, some, embeddings in attacked(bench, [job for _, job in jobs], ladder):
            found = scored(bench, some, embeddings, images, self.generation, self.descriptor)
            for job, scores in zip(some, found, strict=True):
                rows.append(row(arm, places[id(job)], job.attack, job.trial, budget, scores))
        return rows


def _rank(entry: testbed.Planted, known: Sequence[testbed.Planted]) -> tuple[int, str]:
    alike = [each for each in known if (each.half, each.kind) == (entry.half, entry.kind)]
    return alike.index(entry), entry.kind


def derived_key(text: str) -> str:
    return f"ordinary {derived_seed('audit ordinary', text):x}"


def row(
    arm: str, image: int | str, attack: Any, trial: Trial, budget: int, scores: Sequence[float]
) -> tuple[Any, ...]:
    """Return the record of one attack at one budget, see `COLUMNS`."""
    middle, best = round(median(scores), 4), round(max(scores), 4)
    return arm, image, attack.name, trial.start, trial.seed, budget, middle, best
