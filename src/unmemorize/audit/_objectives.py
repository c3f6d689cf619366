"""What attacks on text minimize: the error on the image, or the distance to the unedited model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from unmemorize._errors import AuditError
from unmemorize.audit._attack import FORWARD_AND_BACKWARD, IMAGELESS_SUFFIX, State, Trial
from unmemorize.audit._bench import Bench
from unmemorize.audit._latents import latent_of
from unmemorize.audit._optimizing import adam, drawn_batch, joined, saved, slopes_of
from unmemorize.generation import GenerationSettings, generate_each
from unmemorize.mitigation import derived_seed
from unmemorize.pipelines import Conditioning

_DRAWN = 4
"""Images of the unedited model that stand for the image which an imageless attack lacks."""
_STEPS = 30
"""Sampling steps of these images."""


@dataclass(frozen=True)
class Objective:
    """The loss of an attack on text.

    Args:
        imageless: match the unedited model's prediction under the original caption (after Chin et
            al., "Prompting4Debugging", ICML 2024) instead of the noise that was added to the
            image (Kowalczuk et al., "Finding DoRI"). Such an attack needs no image, and brings in
            nothing that the unedited model does not know.
    """

    imageless: bool

    @property
    def suffix(self) -> str:
        """The end of an attack's name."""
        return IMAGELESS_SUFFIX if self.imageless else ""

    def samples(self, step: int, batch: int) -> int:
        """Return the work of so many steps in denoiser samples."""
        if not self.imageless:
            return step * batch * FORWARD_AND_BACKWARD
        return _DRAWN * _STEPS + step * batch * (FORWARD_AND_BACKWARD + 1)

    def begun(self, bench: Bench, trial: Trial, tensors: dict[str, Tensor]) -> State:
        """Return the first state of an attack, with clean latents if it has no image."""
        if not self.imageless:
            return State(tensors=tensors)
        prompt = trial.target.prompt
        if not prompt:
            raise AuditError(
                f"{trial.attack}: an attack without an image needs the caption. Name the prompts."
            )
        teacher = bench.teacher or bench.model
        settings = GenerationSettings(images=1, steps=_STEPS, guidance=1.0, batch=_DRAWN)
        seeds = [
            derived_seed("imageless", trial.fingerprint, trial.target.key, number)
            for number in range(_DRAWN)
        ]
        images = generate_each(
            teacher, [prompt] * _DRAWN, [None] * _DRAWN, settings=settings, seeds=seeds
        )
        latents = torch.stack([latent_of(teacher, image) for (image,) in images]).cpu()
        return State(tensors={**tensors, "latents": latents})

    def descended(
        self,
        bench: Bench,
        trials: Sequence[Trial],
        states: Sequence[State],
        step: int,
        *,
        rate: float,
        decay: float = 0.0,
        text: Callable[[Tensor], Conditioning],
        project: Callable[[Tensor], Tensor],
    ) -> list[State]:
        """Minimize the mean square of the errors over the tensor ``value`` of states by Adam.

        Attacks share the passes of the denoiser, and nothing else: each has its own random
        numbers, gradients and moments.

        Args:
            bench: see `Attack.advance`.
            trials: the attacks.
            states: where each begins, all after as many steps.
            step: how many steps are done in all at the end.
            rate: the learning rate. With 0 nothing moves, not even by the rounding of ``project``.
            decay: the weight decay.
            text: makes what the denoiser receives from the values, (attacks, ...): a batch for each
                attack, one after the other.
            project: maps the values to allowed ones after each step.
        """
        if not rate:
            return [State(step=step, tensors=state.tensors) for state in states]
        device = bench.model.device
        value = torch.stack([state.tensors["value"] for state in states]).to(device)
        parameters = {"value": value.requires_grad_()}
        optimizer = adam(parameters, joined(states, "value"), rate, decay=decay)
        for number in range(states[0].step, step):
            errors = self._errors(bench, trials, states, text(value), number)
            (value.grad,) = slopes_of(errors, [value], attacks=len(trials))
            optimizer.step()
            with torch.no_grad():
                value.copy_(project(value))
        found = saved(parameters, optimizer) if step > states[0].step else {}
        return [
            State(
                step=step,
                tensors={**state.tensors, **{name: rows[row] for name, rows in found.items()}},
            )
            for row, state in enumerate(states)
        ]

    def _errors(
        self,
        bench: Bench,
        trials: Sequence[Trial],
        states: Sequence[State],
        text: Conditioning,
        number: int,
    ) -> Tensor:
        drawn = []
        for trial, state in zip(trials, states, strict=True):
            if self.imageless:
                latents = state.tensors["latents"]
            else:
                latents = bench.latents(trial.target.key, trial.target.images)
            drawn.append(drawn_batch(bench, trial, latents, number))
        clean, noise, levels = (torch.cat(each) for each in zip(*drawn, strict=True))
        noisy = bench.noising.noisy(clean, noise, levels)
        wanted = noisy.wanted
        if self.imageless:
            teacher = bench.teacher or bench.model
            own = teacher.encode([trial.target.prompt for trial in trials])
            rows = [row for row in range(len(trials)) for _ in range(bench.batch)]
            wanted = teacher.predict(noisy.latents, noisy.timesteps, own.take(rows))
        predicted = bench.predict(noisy.latents, noisy.timesteps, text, gradient=True)
        return predicted - wanted


IMAGE = Objective(imageless=False)
IMAGELESS = Objective(imageless=True)
