"""What the choices of benchmarks/harden.py share: images, attacks that judge, and the price."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from statistics import median
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from together import CardClip, CardDescriptor, Job, Stand, attacked, drawn_from, image_seeds, scored
from unmemorize import (
    ClosedFormEdit,
    CombinedEdit,
    Edit,
    Erased,
    GenerationSettings,
    Model,
    NeuronEdit,
    Neurons,
    OrdinaryCaptions,
    testbed,
)
from unmemorize.audit import COPY, Start, Target, Trial, targets_of
from unmemorize.audit._latents import _pixels as pixels_of
from unmemorize.audit._soft_tokens import SoftTokens
from unmemorize.audit._targets import targets_of_files
from unmemorize.generation import generate_each
from unmemorize.hardening._examples import SUBSTITUTES
from unmemorize.metrics import copy_scores, quality
from unmemorize.mitigation import CHANGED, SAME, derived_seed, digest, ordinary_items
from unmemorize.pipelines import encoded

SOME = (1, 9, 15, 22, 26, 29, 36, 45)
"""Places among the plants of full dose: photographs, templates and posters, natural ones too."""
_ERASE = 10.0


@dataclass(frozen=True)
class Stage:
    """What all choices of a call share: the unedited model, images of it, and who is attacked.

    Args:
        model: the bundled model or, with ``--half``, its twin that never saw this half.
        entries: the plants that are taught away.
        controls: photographs that no model has seen.
        unseen: in place of them the plants that the twin never saw, which are of the same kinds.
        generation: of all images.
        options: of the call.
    """

    model: Model
    entries: Sequence[testbed.Planted]
    controls: Sequence[Path]
    unseen: Sequence[testbed.Planted]
    generation: GenerationSettings
    options: argparse.Namespace

    @classmethod
    def of(cls, options: argparse.Namespace) -> Stage:
        """Load the model and the plants that a call names."""
        if options.half:
            model = Model(testbed.load_twin(options.half))
        else:
            model = Model.load("testbed", dtype="float32")
        planted = [entry for entry in testbed.planted() if entry.mode != "rare"]
        named = {"some": SOME, "all": range(len(planted))}.get(options.plants[0])
        generation = GenerationSettings(
            images=1,
            steps=options.steps,
            guidance=testbed.defaults()["guidance"],
            batch=options.batch,
        )
        chosen = [planted[place] for place in named or map(int, options.plants)]
        return cls(
            model,
            [entry for entry in chosen if entry.half != options.half],
            [photograph.image for photograph in testbed.unused()][: options.controls],
            [entry for entry in planted if entry.half == options.half][: options.controls],
            generation,
            options,
        )

    def about(self, choice: str, settings: Any, asked: Sequence[str]) -> dict[str, Any]:
        """Return the head of a record: what was measured, by the names of options that matter."""
        return {
            "model": self.model.fingerprint,
            "device": str(self.model.device),
            "choice": choice,
            "settings": settings,
            "asked": {name: getattr(self.options, name) for name in asked},
            "plants": described(self.entries),
            "unseen": described(self.unseen),
        }

    def record(self, choice: str) -> Path:
        """Return the file of a record, in its folder."""
        self.options.records.mkdir(parents=True, exist_ok=True)
        name = choice.replace(",", "").replace(" ", "-")
        records: Path = self.options.records
        twin = [f"without-{self.options.half}"] if self.options.half else []
        return records / f"{'-'.join([name, *self.options.plants, *twin])}.json"

    @cached_property
    def bench(self) -> Stand:
        """The model as it is at the moment."""
        return Stand(self.model, None, self.captions.ordinary)

    @cached_property
    def captions(self) -> OrdinaryCaptions:
        return OrdinaryCaptions.of(self.model)

    @cached_property
    def descriptor(self) -> CardDescriptor:
        return CardDescriptor(self.model.device)

    @cached_property
    def clip(self) -> CardClip:
        return CardClip(self.model.device)

    @cached_property
    def targets(self) -> tuple[Target, ...]:
        """Of the plants. A template is compared as a whole image, as never-trained images are."""
        return whole_images(self.entries)

    @cached_property
    def others(self) -> tuple[Target, ...]:
        """Never-trained images. Photographs are attacked from the captions of the plants."""
        if self.unseen:
            return whole_images(self.unseen)
        return targets_of_files(self.controls, [target.prompt for target in self.targets])

    @cached_property
    def substitutes(self) -> tuple[Tensor, ...]:
        """For each plant what takes its place, (N, C, H, W)."""
        print("drawing substitutes", flush=True)
        model, fingerprint = self.model, self.model.fingerprint
        prompts = [target.prompt for target in self.targets for _ in range(SUBSTITUTES)]
        seeds = [
            derived_seed("substitute", fingerprint, target.key, number)
            for target in self.targets
            for number in range(SUBSTITUTES)
        ]
        edit = substituting(model, self.entries)
        found = generate_each(
            model, prompts, [edit] * len(prompts), settings=self.generation, seeds=seeds
        )
        substitutes = []
        for place, target in enumerate(self.targets):
            images = [image for (image,) in found[place * SUBSTITUTES :][:SUBSTITUTES]]
            scores = self.similarity(images, target)
            others = [image for image, score in zip(images, scores, strict=True) if score <= COPY]
            if not others:  # the library refuses; here the least similar image stands in
                print(f"{target.prompt}: all substitutes copy, {scores}", flush=True)
                others = [images[scores.index(min(scores))]]
            substitutes.append(self.bench.latents(f"substitutes of {target.key}", others).cpu())
        return tuple(substitutes)

    @cached_property
    def kept(self) -> tuple[Tensor, tuple[str, ...]]:
        """Latents of ordinary images, (captions, C, H, W), and their captions."""
        print("drawing ordinary images", flush=True)
        model, fingerprint = self.model, self.model.fingerprint
        known = self.captions.keep
        if self.options.kept_images > len(known):  # captions of the training, none memorized
            known = tuple(dict.fromkeys([*known, *testbed.captions("train")]))
        some = known[: self.options.kept_images]
        seeds = [derived_seed("kept", fingerprint, caption) for caption in some]
        kept = []
        for part, guidance in enumerate((1.0, self.generation.guidance)):  # as in training, in use
            settings = replace(self.generation, guidance=guidance)
            mine, theirs = some[part::2], seeds[part::2]
            edits = [None] * len(mine)
            drawn = generate_each(model, mine, edits, settings=settings, seeds=theirs)
            kept += [image for (image,) in drawn]
        some = some[::2] + some[1::2]
        side = model.latent_shape[-1] * model.pipe.vae_scale_factor
        pixels = torch.cat([pixels_of(image, side, side) for image in kept])
        parts = pixels.split(self.options.batch)
        latents = torch.cat([encoded(model, part.to(model.device)).float().cpu() for part in parts])
        return latents, some

    def similarity(self, images: Sequence[Image.Image], target: Target) -> list[float]:
        """Compare whole images."""
        scores = copy_scores(self.descriptor(images), self.descriptor(target.images))
        return [float(score) for score in scores]

    def drawn_ordinary(
        self, arm: str, count: int | None = None
    ) -> tuple[Tensor, Tensor, list[float]]:
        """Draw ordinary images, and return their descriptors, features and alignments."""
        items = ordinary_items(self.captions.ordinary, count or self.options.ordinary, arm)
        _, texts, seeds = zip(*(item for _, item in items), strict=True)
        edits = [None] * len(items)
        drawn = generate_each(self.model, texts, edits, settings=self.generation, seeds=seeds)
        images = [image for (image,) in drawn]
        features = self.clip.features(images)
        return self.descriptor(images), features, self.clip.alignment(features, texts).tolist()

    @cached_property
    def before(self) -> tuple[Tensor, Tensor, list[float]]:
        """Ordinary images before; the model must be the unedited one."""
        return self.drawn_ordinary(SAME)

    @cached_property
    def other(self) -> Tensor:
        """Features of unedited images from other noise."""
        return self.drawn_ordinary("other")[1]

    def price(self, count: int | None = None) -> dict[str, Any]:
        """Measure what ordinary images have become, or the first ones of them."""
        after, features, alignment = self.drawn_ordinary(SAME, count)
        count = len(after)
        similarity = (self.before[0][:count] * after).sum(1)
        both = features, self.before[1][:count]
        fid, unedited = (quality(each, self.other[:count]).fid for each in both)
        return {
            "images": len(after),
            "changed": int((similarity < CHANGED).sum()),
            "similarity": float(similarity.median()),
            "worst": float(similarity.min()),
            "alignment_before": median(self.before[2][:count]),
            "alignment_after": median(alignment),
            "clip_fid_before": unedited,
            "clip_fid": fid,
        }

    def trials(
        self, targets: Sequence[Target], start: Start, seed: int, attack: str, name: str = ""
    ) -> list[Job]:
        """Return one attack on each image, with seeds from a name, or those of the model."""
        name = name or self.model.fingerprint
        return [
            Job(SoftTokens(), Trial(target=target, start=start, seed=seed, attack=attack,
                                    fingerprint=name))
            for target in targets
        ]  # fmt: skip

    def judging_name(self, edit: Edit) -> str:
        """Return what the seeds of judging attacks follow from, as in `HardeningInputs.judging`."""
        return f"{self.model.fingerprint} {digest(edit)}"

    def judged(self, start: Start, seed: int, name: str) -> tuple[list[float], list[float]]:
        """Attack all images once: the score of each plant, and of each control."""
        scores = self.reached([*self.targets, *self.others], start, seed, name)
        return scores[: len(self.targets)], scores[len(self.targets) :]

    def reached(self, targets: Sequence[Target], start: Start, seed: int, name: str) -> list[float]:
        """Attack images once, and return the score of each."""
        jobs = self.trials(targets, start, seed, "L4", name)
        scores = []
        for _, some, embeddings in attacked(self.bench, jobs, (self.options.attack_steps,)):
            found = scored(
                self.bench, some, embeddings, self.options.images, self.generation, self.descriptor
            )
            scores += [median(each) for each in found]
        return scores

    def plain(self) -> list[float]:
        """Draw the captions themselves: the median similarity of each plant."""
        count, fingerprint = self.options.images, self.model.fingerprint
        rows = torch.stack([self.bench.embedding(target.prompt) for target in self.targets])
        seeds = [seed for each in self.targets for seed in image_seeds(fingerprint, each, count)]
        images = drawn_from(self.bench, rows.repeat_interleave(count, 0), seeds, self.generation)
        return [
            median(self.similarity(images[place * count :][:count], target))
            for place, target in enumerate(self.targets)
        ]


def whole_images(entries: Sequence[testbed.Planted]) -> tuple[Target, ...]:
    return targets_of([replace(entry.prompt, kind="VM") for entry in entries])


def described(entries: Sequence[testbed.Planted]) -> list[dict[str, str]]:
    return [
        {"prompt": entry.prompt.text, "mode": entry.mode, "kind": entry.kind} for entry in entries
    ]


def substituting(model: Model, entries: Sequence[testbed.Planted]) -> Edit:
    """Return what takes the copies out: known neurons off, and captions moved in closed form."""
    erased = tuple(Erased(entry.prompt.text, weight=_ERASE) for entry in entries)
    closed = ClosedFormEdit(erased, OrdinaryCaptions.of(model).keep)
    neurons = Neurons.of(neuron for entry in entries for neuron in entry.neurons)
    return CombinedEdit((closed, NeuronEdit(neurons))) if neurons else closed
