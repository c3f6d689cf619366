"""The interface of attacks: what they are after, what they hold, and what they would generate."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal, Protocol, runtime_checkable

import torch
from PIL import Image
from torch import Tensor

from unmemorize._checked import check_fields
from unmemorize._errors import AuditError
from unmemorize._registry import Registry
from unmemorize.audit._bench import Bench, content_of
from unmemorize.generation import GenerationSettings
from unmemorize.mitigation import derived_seed

IMAGELESS_SUFFIX = "-imageless"
"""How the names of attacks end that match the unedited model in place of the image."""
Start = Literal["prompt", "noise", "other"]
"""Where an attack on embeddings starts: the own prompt, normal noise, or an ordinary caption."""
STARTS: tuple[Start, ...] = ("prompt", "noise", "other")
ONCE: tuple[tuple[Start, int], ...] = (("prompt", 0),)
"""The only trial of an attack that has neither starts nor random numbers."""
FORWARD_AND_BACKWARD = 3
"""Denoiser samples of a forward and a backward pass."""


@dataclass(frozen=True, kw_only=True)
class Target:
    """An image that an attack tries to bring back.

    Args:
        key: identifies it in seeds, such as a hash of image and prompt.
        prompt: its caption; empty where none is known.
        images: the image, or several images of one layout.
        paraphrases: other wordings of the caption.
        others: further images of a template, of which the first stands for all.
    """

    key: str
    prompt: str
    images: tuple[Image.Image, ...]
    paraphrases: tuple[str, ...] = ()
    others: tuple[Image.Image, ...] = ()

    @cached_property
    def contents(self) -> frozenset[str]:
        """What its images show, see `content_of`."""
        return frozenset(map(content_of, (*self.images, *self.others)))


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One attack on one image, with everything that its random numbers follow from.

    The arms of an audit share these numbers, so they differ in the model alone.

    Args:
        target: the image.
        start: where it starts.
        seed: the number of the repetition.
        attack: the name of the attack.
        fingerprint: of the audited model before its edit, or see `AuditInputs.seed_name`.
    """

    target: Target
    start: Start
    seed: int
    attack: str
    fingerprint: str

    def generator(self, step: int | str) -> torch.Generator:
        """Return the CPU generator of one step, or of another part of the attack.

        It depends on nothing that was drawn before, so an attack can be resumed at any step.
        """
        purpose = (self.fingerprint, self.target.key, self.attack, self.start, self.seed, str(step))
        return torch.Generator().manual_seed(derived_seed("attack", *purpose))


@dataclass(frozen=True, kw_only=True)
class State:
    """How far an attack has come: everything that it needs to go on.

    Args:
        step: how many steps are done.
        tensors: what the attack remembers, on the CPU.
    """

    step: int = 0
    tensors: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """What an attack would generate with.

    Args:
        text: the caption that the pipeline is called with.
        embedding: a text embedding, (tokens, features), in place of the encoded caption.
        words: the caption that stands for the embedding, if there is one.
        noise: an initial noise, (C, H, W), in place of those of the audit's seeds.
        settings: changes the settings of the audit.
        scheduler: makes a scheduler of diffusers in place of the usual one.
        around: opens a context while images are drawn, such as an adapter of weights.
        edits: whether that context applies the edit, beneath what else it changes.
    """

    text: str
    embedding: Tensor | None = None
    words: str = ""
    noise: Tensor | None = None
    settings: Callable[[GenerationSettings], GenerationSettings] = lambda settings: settings
    scheduler: Callable[[], object] = lambda: None
    around: Callable[[], AbstractContextManager[None]] = nullcontext
    edits: bool = False


class Attack(Protocol):
    """Looks for something that makes an edited model copy an image again.

    An attack is a function of its state, so it can be stopped at each budget and resumed from
    there by another program. Add one by a class in a module of its own and an entry point of the
    group ``unmemorize.attacks``; see docs/extending.md.
    """

    @property
    def name(self) -> str:
        """The name in records and options. It begins with the level, such as "L4"."""
        ...

    def ladder(self, steps: Sequence[int]) -> Sequence[int]:
        """Return the budgets at which the attack is judged, rising.

        Args:
            steps: the ladder of the audit, in optimization steps.
        """
        ...

    def trials(self, starts: Sequence[Start], seeds: int) -> Sequence[tuple[Start, int]]:
        """Return which starts and repetitions of the audit make a difference to this attack."""
        ...

    def samples(self, step: int, batch: int) -> int:
        """Return the work of so many steps in denoiser samples; a backward pass counts as two.

        Args:
            step: how many steps.
            batch: noisy latents per step, see `Bench`.
        """
        ...

    def check(self, bench: Bench) -> None:
        """Refuse a model on which the attack is not possible, before any work.

        Raises:
            AuditError: with the reason.
        """
        ...

    def begin(self, bench: Bench, trial: Trial) -> State:
        """Return the state after 0 steps."""
        ...

    def advance(self, bench: Bench, trial: Trial, state: State, step: int) -> State:
        """Return the state after so many steps in all."""
        ...

    def candidate(self, bench: Bench, trial: Trial, state: State) -> Candidate:
        """Return what the attack would generate with now."""
        ...


@runtime_checkable
class SideBySide(Attack, Protocol):
    """An attack that can work on several images at once, which a GPU makes cheap."""

    def advance_all(
        self, bench: Bench, trials: Sequence[Trial], states: Sequence[State], step: int
    ) -> list[State]:
        """Return what `advance` returns for each trial, but for rounding.

        Args:
            bench: the model under its edit.
            trials: the attacks.
            states: of each, all after as many steps.
            step: how many steps are done in all at the end.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class AttackSettings:
    """What the attacks of this package take.

    Args:
        positions: how many text positions are free at level L3; None for all.
        radii: how far embeddings may move at level L3, in multiples of the median distance between
            the embeddings of two ordinary captions; None for any distance. All positions at any
            distance are level L4.
        rate: the learning rate of attacks on embeddings (Adam). 0 leaves them at their start.

    Raises:
        AuditError: a value is of another type or out of range.
    """

    positions: tuple[int | None, ...] = (1, 4, 16, None)
    radii: tuple[float | None, ...] = (0.25, 0.5, 1.0, 2.0, None)
    rate: float = 0.1

    def __post_init__(self) -> None:
        check_fields(self, AuditError)
        if any(count is not None and count < 1 for count in self.positions):
            raise AuditError(f"positions={self.positions}: at least 1 position must be free.")
        if any(radius is not None and not 0 < radius < math.inf for radius in self.radii):
            raise AuditError(f"radii={self.radii}: give numbers above 0, or None for any distance.")
        if not 0 <= self.rate < math.inf:
            raise AuditError(f"rate={self.rate}: a learning rate is a number such as 0.1.")


AttackFactory = Callable[[AttackSettings], Iterable[Attack]]
"""What is registered: makes the attacks of one level."""
ATTACKS: Registry[AttackFactory] = Registry(
    "unmemorize.attacks",
    {
        "L0": "unmemorize.audit._original_prompt:original_prompt",
        "L1": "unmemorize.audit._rephrasing:rephrasing",
        "L2": "unmemorize.audit._hard_tokens:hard_tokens",
        "L3": "unmemorize.audit._soft_tokens:free_positions",
        "L4": "unmemorize.audit._soft_tokens:all_positions",
        "L5": "unmemorize.audit._inversion:inversion",
        "L6": "unmemorize.audit._relearning:relearning",
        "L2-imageless": "unmemorize.audit._hard_tokens:hard_tokens_imageless",
        "L3-imageless": "unmemorize.audit._soft_tokens:free_positions_imageless",
        "L4-imageless": "unmemorize.audit._soft_tokens:all_positions_imageless",
    },
    AuditError,
)


def every_trial(starts: Sequence[Start], seeds: int) -> list[tuple[Start, int]]:
    """Return each start with each repetition."""
    return [(start, seed) for start in starts for seed in range(seeds)]


def make_attacks(levels: Sequence[str], settings: AttackSettings) -> tuple[Attack, ...]:
    """Make the attacks of some levels.

    Raises:
        AuditError: a level is unknown.
    """
    return tuple(attack for level in levels for attack in ATTACKS.get(level)(settings))


def is_imageless(attack: Attack) -> bool:
    """Tell by its name whether an attack matches the unedited model in place of the image."""
    return attack.name.endswith(IMAGELESS_SUFFIX)


def checkpoints(
    attack: Attack, bench: Bench, trial: Trial, steps: Sequence[int]
) -> Iterator[tuple[State, Candidate]]:
    """Run an attack and yield its state and candidate at each budget of its ladder.

    Args:
        attack: the attack.
        bench: the model under its edit.
        trial: what it is after.
        steps: the ladder of the audit.
    """
    state = attack.begin(bench, trial)
    for budget in attack.ladder(steps):
        if budget > state.step:
            state = attack.advance(bench, trial, state, budget)
        yield state, attack.candidate(bench, trial, state)
