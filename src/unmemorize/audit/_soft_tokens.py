"""L3 and L4: free text embeddings (Kowalczuk et al., "Finding DoRI", arXiv 2507.16880).

At level L4 all positions are free and unbounded: more numbers than the image has. At level L3 only
some positions are free, or the embedding stays in a ball around its start, or both.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from unmemorize.audit._attack import (
    STARTS,
    AttackSettings,
    Candidate,
    Start,
    State,
    Trial,
    every_trial,
)
from unmemorize.audit._bench import Bench
from unmemorize.audit._objectives import IMAGE, IMAGELESS, Objective
from unmemorize.generation import own_tokens


@dataclass(frozen=True)
class SoftTokens:
    """An attack on the text embedding by Adam, with fresh noise and noise levels at each step.

    Args:
        objective: what it minimizes.
        positions: how many positions are free, from the first one that differs from the empty
            prompt; None for all.
        radius: how far the embedding may move from its start, in multiples of the median distance
            between two ordinary captions; infinity for any distance.
        rate: the learning rate.
    """

    objective: Objective = IMAGE
    positions: int | None = None
    radius: float = math.inf
    rate: float = 0.1

    @property
    def name(self) -> str:
        """See `Attack`."""
        if self.positions is None and math.isinf(self.radius):
            return f"L4{self.objective.suffix}"
        positions = "all" if self.positions is None else self.positions
        return f"L3{self.objective.suffix}-m{positions}-r{self.radius:g}"

    def ladder(self, steps: Sequence[int]) -> Sequence[int]:
        """See `Attack`."""
        return steps

    def trials(self, starts: Sequence[Start], seeds: int) -> Sequence[tuple[Start, int]]:
        """See `Attack`. A ball around noise would say nothing, so L3 starts from captions."""
        if not self.name.startswith("L4"):
            starts = [start for start in starts if start != "noise"] or STARTS[:1]
        return every_trial(starts, seeds)

    def samples(self, step: int, batch: int) -> int:
        """See `Attack`."""
        return self.objective.samples(step, batch)

    def check(self, bench: Bench) -> None:
        """See `Attack`."""
        bench.one_stream()

    def begin(self, bench: Bench, trial: Trial) -> State:
        """See `Attack`."""
        start = starting_embedding(bench, trial)
        return self.objective.begun(bench, trial, {"value": start, "start": start})

    def advance(self, bench: Bench, trial: Trial, state: State, step: int) -> State:
        """See `Attack`."""
        (advanced,) = self.advance_all(bench, [trial], [state], step)
        return advanced

    def advance_all(
        self, bench: Bench, trials: Sequence[Trial], states: Sequence[State], step: int
    ) -> list[State]:
        """See `SideBySide`."""
        device = bench.model.device
        start = torch.stack([state.tensors["start"] for state in states]).to(device)
        free = torch.stack([self._free(bench, each) for each in start])
        farthest = self.radius * bench.scale if math.isfinite(self.radius) else math.inf
        unbound = math.isinf(farthest) and bool(free.all())

        def project(value: Tensor) -> Tensor:
            if unbound:
                return value
            change = torch.where(free, value - start, 0.0)
            length = change.flatten(1).norm(dim=1)[:, None, None]
            share: Tensor = (farthest / length.clamp_min(1e-12)).clamp_max(1.0)
            return start + change * share

        captions = [caption_of(bench, trial) for trial in trials]
        return self.objective.descended(
            bench,
            trials,
            states,
            step,
            rate=self.rate,
            text=lambda values: bench.with_embeddings(captions, values, bench.batch),
            project=project,
        )

    def candidate(self, bench: Bench, trial: Trial, state: State) -> Candidate:
        """See `Attack`."""
        return Candidate(text=caption_of(bench, trial), embedding=state.tensors["value"])

    def _free(self, bench: Bench, start: Tensor) -> Tensor:
        """Tell which positions are free, (tokens, 1)."""
        count = len(start)
        if self.positions is None:
            return torch.ones(count, 1, dtype=torch.bool, device=start.device)
        differs = own_tokens(start.cpu()[None], bench.embedding("")[None])[0]
        first = int(differs.int().argmax())  # 0 where nothing differs
        number = torch.arange(count, device=start.device)[:, None]
        return (number >= first) & (number < first + self.positions)


def caption_of(bench: Bench, trial: Trial) -> str:
    """Return the caption that the pipeline is called with: an ordinary one if none is known."""
    return trial.target.prompt or bench.captions[0]


def start_caption(bench: Bench, trial: Trial) -> str:
    """Return the caption that an attack starts from; empty for the start from noise."""
    if trial.start == "noise":
        return ""
    if trial.start == "prompt" and trial.target.prompt:
        return trial.target.prompt
    number = int(torch.randint(len(bench.captions), (1,), generator=trial.generator("start")))
    return bench.captions[number]


def starting_embedding(bench: Bench, trial: Trial) -> Tensor:
    """Return the embedding that an attack starts from, (tokens, features), float32."""
    caption = start_caption(bench, trial)
    if caption:
        return bench.embedding(caption)
    shape = bench.embedding(caption_of(bench, trial)).shape
    return torch.randn(shape, generator=trial.generator("start"), dtype=torch.float32)


def free_positions(
    settings: AttackSettings, *, objective: Objective = IMAGE
) -> Iterator[SoftTokens]:
    """Make the attacks of level L3, one for each number of positions and radius but that of L4."""
    for positions in settings.positions:
        for radius in settings.radii:
            farthest = math.inf if radius is None else radius
            if positions is not None or radius is not None:
                yield SoftTokens(objective, positions, farthest, settings.rate)


def free_positions_imageless(settings: AttackSettings) -> Iterator[SoftTokens]:
    """Make the attacks of level L3 without an image."""
    return free_positions(settings, objective=IMAGELESS)


def all_positions(settings: AttackSettings) -> tuple[SoftTokens]:
    """Make the attack of level L4."""
    return (SoftTokens(rate=settings.rate),)


def all_positions_imageless(settings: AttackSettings) -> tuple[SoftTokens]:
    """Make the attack of level L4 without an image."""
    return (SoftTokens(IMAGELESS, rate=settings.rate),)
