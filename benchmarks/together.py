"""Attacks on text embeddings of many images at once, for a GPU that a single attack leaves idle.

Each attack sees the noises and noise levels that it would see alone, and Adam moves every number by
its own gradients. So an attack among others finds what it finds alone, but for rounding.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from unmemorize import BundledDescriptor, GenerationSettings
from unmemorize.audit import Bench, Target, Trial, similarity
from unmemorize.audit._optimizing import drawn_batch
from unmemorize.audit._soft_tokens import SoftTokens, caption_of
from unmemorize.metrics import ClipAlignment, Descriptor
from unmemorize.mitigation import derived_seed
from unmemorize.pipelines import sampling, without_text

AT_ONCE = 64
"""Attacks that run side by side. Each takes .14 GB on the bundled model."""
DRAWN = 256
"""Images that are drawn at once."""


class CardDescriptor(BundledDescriptor):
    """The bundled descriptor on another device.

    Args:
        device: the device.
    """

    def __init__(self, device: torch.device) -> None:
        super().__init__()
        net = self._net.to(device)
        net.register_forward_pre_hook(lambda _, inputs: tuple(each.to(device) for each in inputs))
        net.register_forward_hook(lambda _, __, output: output.cpu())


class CardClip(ClipAlignment):
    """The bundled CLIP, whose image encoder is on another device.

    Args:
        device: the device.
    """

    def __init__(self, device: torch.device) -> None:
        super().__init__()
        self._device = device
        self._vision = self._clip.vision_model.to(device)
        self._projection = self._clip.visual_projection.to(device)

    @torch.inference_mode()
    def features(self, images: Sequence[Image.Image]) -> Tensor:
        """See `ClipAlignment`."""
        pooled = self._vision(pixel_values=self._pixels(images).to(self._device)).pooler_output
        features: Tensor = self._projection(pooled).cpu()
        return features


@dataclass(frozen=True)
class Stand(Bench):
    """A bench that remembers embeddings of captions. Its text encoder must not change."""

    _embeddings: dict[str, Tensor] = field(default_factory=dict, compare=False, repr=False)
    unedited: dict[str, Tensor] = field(default_factory=dict, compare=False, repr=False)
    """Latents of the unedited model's images, which stand for images that an attack lacks."""

    def embedding(self, text: str) -> Tensor:
        """See `Bench`."""
        if text not in self._embeddings:
            self._embeddings[text] = super().embedding(text)
        return self._embeddings[text]


@dataclass(frozen=True)
class Job:
    """One attack on one image."""

    attack: SoftTokens
    trial: Trial


class Together:
    """Attacks that run side by side.

    Args:
        bench: the model under its edit.
        jobs: the attacks. All of them have images, or none.
    """

    def __init__(self, bench: Bench, jobs: Sequence[Job]) -> None:
        self._bench, self._jobs, self._done = bench, tuple(jobs), 0
        device = bench.model.device
        known = bench.unedited if isinstance(bench, Stand) else dict[str, Tensor]()
        starts, self._clean = [], []
        for attack, trial in ((job.attack, job.trial) for job in jobs):
            target = trial.target
            if attack.objective.imageless and target.key in known:
                state = replace(attack, objective=type(attack.objective)(False)).begin(bench, trial)
            else:
                state = attack.begin(bench, trial)
            starts.append(state.tensors["value"])
            if attack.objective.imageless:
                known.setdefault(target.key, state.tensors.get("latents", torch.empty(0)))
                self._clean.append(known[target.key])
            else:
                self._clean.append(bench.latents(target.key, target.images).cpu())
        self._imageless = jobs[0].attack.objective.imageless
        self._start = torch.stack(starts).to(device)
        self.value = self._start.clone().requires_grad_()
        self._adam = torch.optim.Adam([self.value], lr=jobs[0].attack.rate)
        free = [
            job.attack._free(bench, start) for job, start in zip(jobs, self._start, strict=True)
        ]
        self._free = torch.stack(free)
        radii = torch.tensor([job.attack.radius for job in jobs], dtype=torch.float32)
        self._radius = (radii * bench.scale).to(device)
        self._bound = bool((~self._free).any()) or bool(torch.isfinite(radii).any())
        captions = [caption_of(bench, job.trial) for job in jobs]
        self._text = bench.model.encode(captions[:1]).take([0] * len(jobs) * bench.batch)
        if self._imageless:
            teacher = bench.teacher or bench.model
            own = teacher.encode(captions)
            self._own = own.take([row for row in range(len(jobs)) for _ in range(bench.batch)])

    def advance(self, step: int) -> None:
        """Bring all attacks to so many steps."""
        for number in range(self._done, step):
            loss = self._loss(number)
            (self.value.grad,) = torch.autograd.grad(loss, [self.value])
            self._adam.step()
            if self._bound:
                with torch.no_grad():
                    self.value.copy_(self._projected())
        self._done = max(self._done, step)

    def _loss(self, number: int) -> Tensor:
        bench, batch = self._bench, self._bench.batch
        drawn = [
            drawn_batch(bench, job.trial, clean, number)
            for job, clean in zip(self._jobs, self._clean, strict=True)
        ]
        clean, noise, levels = (torch.cat(each) for each in zip(*drawn, strict=True))
        noisy = bench.noising.noisy(clean, noise, levels)
        wanted = noisy.wanted
        if self._imageless:
            teacher = bench.teacher or bench.model
            wanted = teacher.predict(noisy.latents, noisy.timesteps, self._own)
        text = self._text.with_text(self.value.repeat_interleave(batch, 0))
        predicted = bench.predict(noisy.latents, noisy.timesteps, text, gradient=True)
        errors = (predicted - wanted).square().mean((1, 2, 3))
        return errors.view(-1, batch).mean(1).sum()

    def _projected(self) -> Tensor:
        change = torch.where(self._free, self.value - self._start, 0.0)
        length = change.flatten(1).norm(dim=1)
        share = (self._radius / length.clamp_min(1e-12)).clamp_max(1.0)
        projected: Tensor = self._start + change * share[:, None, None]
        return projected


def attacked(
    bench: Bench,
    jobs: Sequence[Job],
    ladder: Sequence[int],
    *,
    at_once: int = AT_ONCE,
) -> Iterator[tuple[int, Sequence[Job], Tensor]]:
    """Run attacks in groups.

    Args:
        bench: the model under its edit.
        jobs: the attacks.
        ladder: budgets in steps, rising.
        at_once: the size of a group.

    Yields:
        A budget, the attacks of a group, and their embeddings, (attacks, tokens, features).
    """
    size = -(-len(jobs) // -(-len(jobs) // at_once)) if jobs else 1  # groups of about one size
    for first in range(0, len(jobs), size):
        some = jobs[first : first + size]
        group = Together(bench, some)
        for budget in ladder:
            group.advance(budget)
            yield budget, some, group.value.detach()


def image_seeds(fingerprint: str, target: Target, count: int) -> list[int]:
    """Return the seeds from which an audit draws images of a target."""
    return [derived_seed("audit image", fingerprint, target.key, each) for each in range(count)]


def scored(
    bench: Bench,
    jobs: Sequence[Job],
    embeddings: Tensor,
    images: int,
    settings: GenerationSettings,
    descriptor: Descriptor,
) -> list[list[float]]:
    """Draw images of embeddings, and compare them with the images that were attacked.

    Args:
        bench: the model under its edit.
        jobs: the attacks.
        embeddings: what each has found, (attacks, tokens, features).
        images: how many for each.
        settings: how to draw.
        descriptor: compares.

    Returns:
        Similarities in [-1, 1], for each attack.
    """
    seeds = [image_seeds(job.trial.fingerprint, job.trial.target, images) for job in jobs]
    rows = embeddings.repeat_interleave(images, 0)
    drawn = drawn_from(bench, rows, [seed for some in seeds for seed in some], settings)
    return [
        similarity(drawn[place * images :][:images], job.trial.target, descriptor)[0]
        for place, job in enumerate(jobs)
    ]


def drawn_from(
    bench: Bench, embeddings: Tensor, seeds: Sequence[int], settings: GenerationSettings
) -> list[Image.Image]:
    """Draw one image of each embedding under the edit of a bench.

    Args:
        bench: the model under its edit, a Stable Diffusion whose guidance is above 1.
        embeddings: (images, tokens, features).
        seeds: of each image's initial noise.
        settings: steps and guidance.
    """
    model, found = bench.model, list[Image.Image]()
    pipe: Any = model.pipe
    pipe.set_progress_bar_config(disable=True)
    unique = sorted(set(seeds))
    noise = dict(zip(unique, model.draw_latents(1, *unique), strict=True))
    empty = without_text(model).text
    for first in range(0, len(seeds), DRAWN):
        text = embeddings[first : first + DRAWN].to(empty)
        some = seeds[first : first + DRAWN]
        with sampling(pipe), _applied(bench), torch.no_grad():
            output = pipe(
                prompt_embeds=text,
                negative_prompt_embeds=empty[:1].expand_as(text),
                guidance_scale=settings.guidance,
                latents=torch.stack([noise[seed] for seed in some]),
                num_inference_steps=settings.steps,
                output_type="np",
            )
        found += [
            Image.fromarray((pixels * 255).round().astype("uint8")) for pixels in output.images
        ]
    return found


def _applied(bench: Bench) -> AbstractContextManager[None]:
    return nullcontext() if bench.edit is None else bench.edit.applied(bench.model, [True])
