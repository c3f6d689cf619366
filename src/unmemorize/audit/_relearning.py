"""L6: relearning. A small LoRA is trained on *other* memorized images, never on the image itself.

Whether the image comes back says how close below the surface it is. This needs the weights, and
peft (after "Memory Self-Regeneration", arXiv 2510.03263).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from unmemorize._errors import AuditError
from unmemorize.audit._attack import (
    FORWARD_AND_BACKWARD,
    AttackSettings,
    Candidate,
    Start,
    State,
    Trial,
    every_trial,
)
from unmemorize.audit._bench import Bench, Companion
from unmemorize.audit._optimizing import adam, saved, slopes_of
from unmemorize.pipelines import Model

_RATE = 1e-3
_ADAPTER = "relearned"
_TARGETS = ["to_q", "to_k", "to_v", "to_out.0", "add_q_proj", "add_k_proj", "add_v_proj"]


@dataclass(frozen=True)
class Relearning:
    """Trains a LoRA on the attention of the edited model.

    The edit is applied before the LoRA is added, so that it changes the layers beneath, as it does
    in an edited checkpoint. The LoRA reads what reaches them.

    Args:
        rank: of the LoRA.
        rate: the learning rate (Adam).
    """

    rank: int = 8
    rate: float = _RATE

    name = "L6"

    def ladder(self, steps: Sequence[int]) -> Sequence[int]:
        """See `Attack`."""
        return steps

    def trials(self, _starts: Sequence[Start], seeds: int) -> Sequence[tuple[Start, int]]:
        """See `Attack`."""
        return every_trial(("prompt",), seeds)

    def samples(self, step: int, batch: int) -> int:
        """See `Attack`."""
        return step * batch * FORWARD_AND_BACKWARD

    def check(self, bench: Bench) -> None:
        """See `Attack`."""
        companions = bench.companions
        if not companions or not all(
            _others(bench, each.prompt, each.contents) for each in companions
        ):
            raise AuditError(
                "L6: relearning trains on other images than the attacked one, and at least 2 "
                "prompts must show different ones. Name more prompts."
            )
        if getattr(bench.model.denoiser, "peft_config", None):
            raise AuditError(
                f"L6: {bench.model.name} has LoRAs loaded, beside which no other one is trained. "
                "Fuse them first, or leave L6 out."
            )
        with self._adapted(bench.model, {}):
            pass

    def begin(self, bench: Bench, trial: Trial) -> State:
        """See `Attack`. The LoRA has no effect at first."""
        generator = trial.generator("start")
        with self._adapted(bench.model, {}) as parameters:
            tensors = {
                name: torch.zeros(parameter.shape, dtype=torch.float32)
                if "lora_B" in name
                else torch.randn(parameter.shape, generator=generator, dtype=torch.float32)
                / math.sqrt(parameter.shape[1])
                for name, parameter in parameters.items()
            }
        return State(tensors=tensors)

    def advance(self, bench: Bench, trial: Trial, state: State, step: int) -> State:
        """See `Attack`."""
        companions = _others(bench, trial.target.prompt, trial.target.contents)
        latents = torch.stack(
            [bench.latents(f"{trial.target.key} companion {row}", [companion.image])[0]
             for row, companion in enumerate(companions)]
        )  # fmt: skip
        texts = bench.model.encode([companion.prompt for companion in companions])
        with bench.edited(), self._adapted(bench.model, state.tensors) as parameters:
            optimizer = adam(parameters, state, self.rate)
            for number in range(state.step, step):
                generator = trial.generator(number)
                rows = torch.randint(len(companions), (bench.batch,), generator=generator)
                levels = torch.rand(bench.batch, generator=generator, dtype=torch.float32)
                noise = torch.randn(
                    (bench.batch, *latents.shape[1:]), generator=generator, dtype=torch.float32
                )
                noisy = bench.noising.noisy(latents[rows.to(latents.device)], noise, levels)
                text = texts.take(rows.tolist())
                predicted = bench.model.predict(noisy.latents, noisy.timesteps, text, gradient=True)
                gradients = slopes_of(predicted - noisy.wanted, list(parameters.values()))
                for parameter, gradient in zip(parameters.values(), gradients, strict=True):
                    parameter.grad = gradient
                optimizer.step()
            tensors = saved(parameters, optimizer)
        return State(step=step, tensors=tensors)

    def candidate(self, bench: Bench, trial: Trial, state: State) -> Candidate:
        """See `Attack`. It draws from the caption itself."""
        weights = {name: value for name, value in state.tensors.items() if "exp_avg" not in name}
        return Candidate(
            text=trial.target.prompt, around=partial(self._relearned, bench, weights), edits=True
        )

    @contextmanager
    def _relearned(self, bench: Bench, weights: Mapping[str, Tensor]) -> Iterator[None]:
        with bench.edited(), self._adapted(bench.model, weights):
            yield

    @contextmanager
    def _adapted(self, model: Model, weights: Mapping[str, Tensor]) -> Iterator[dict[str, Tensor]]:
        """Add a LoRA with these weights while the context lasts; yields its parameters by name."""
        try:
            from peft import LoraConfig
            from peft.tuners.lora import LoraModel
        except ImportError as problem:
            raise AuditError(
                'L6: relearning needs peft. Install it with pip install "unmemorize[lora]", or '
                "leave L6 out."
            ) from problem
        denoiser: Any = model.denoiser
        trained = [parameter.requires_grad for parameter in denoiser.parameters()]
        before = list(denoiser.parameters())
        attributes = set(vars(denoiser))
        config = LoraConfig(r=self.rank, lora_alpha=self.rank, target_modules=_TARGETS)
        adapted = LoraModel(denoiser, config, _ADAPTER)
        try:
            parameters = {
                name: parameter
                for name, parameter in denoiser.named_parameters()
                if f".{_ADAPTER}." in name
            }
            for name, parameter in parameters.items():
                # float32 in any model: in float16 the moments of Adam would be 0
                parameter.data = weights.get(name, parameter.data).to(
                    parameter.device, torch.float32, copy=True
                )
            yield parameters
        finally:
            adapted.unload()
            for parameter, flag in zip(before, trained, strict=True):
                parameter.requires_grad_(flag)
            for name in set(vars(denoiser)) - attributes:
                delattr(denoiser, name)


def _others(bench: Bench, prompt: str, contents: frozenset[str]) -> list[Companion]:
    """Return the companions with another caption and, under whatever caption, other images."""
    return [
        other
        for other in bench.companions
        if other.prompt != prompt and not other.contents & contents
    ]


def relearning(settings: AttackSettings) -> tuple[Relearning]:
    """Make the attack of level L6."""
    return (Relearning(rate=_RATE if settings.rate else 0.0),)
