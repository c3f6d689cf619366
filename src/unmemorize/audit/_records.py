"""The attack cache: what each attack had found at each budget, on record in the run folder.

RUN/ARM-ATTACK.jsonl             an `AttackRecord` for each trial and budget
RUN/ARM-ATTACK/00012-0025.*      state of trial 12 after 25 steps, and its most similar image
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from torch import Tensor

from unmemorize._errors import RunError
from unmemorize._files import read_tensors, safetensors_bytes
from unmemorize.audit._attack import Start, State, Target
from unmemorize.runs import Run


@dataclass(frozen=True, kw_only=True)
class AttackRecord:
    """What one attack on one image had found at one budget.

    Args:
        target: the position of the image in its arm.
        prompt: the caption of the image; empty where none is known.
        start, seed: of the attack.
        budget: steps.
        samples: denoiser samples that these steps take; a backward pass counts as two.
        seconds: since the last budget, images included.
        scores: similarity of each generated image to the target image.
        measure: "image" (descriptor) or "layout" (masked correlation).
        gains: denoising loss of the caption minus that of the embedding, at rising noise levels,
            with the same noises; empty where no embedding was found.
        distance: of the embedding from that of the caption, in multiples of the median distance
            between two ordinary captions; None without one.
        spread: squared Frobenius norm over squared spectral norm of that difference: over how many
            directions it is spread.
        words: what a user would type, where the attack finds words.
        state: the file with its state; empty if it remembers nothing.
        image: the file with the most similar image.
    """

    target: int
    prompt: str
    start: Start
    seed: int
    budget: int
    samples: int
    seconds: float
    scores: tuple[float, ...]
    measure: str
    gains: tuple[float, ...] = ()
    distance: float | None = None
    spread: float | None = None
    words: str = ""
    state: str = ""
    image: str = ""


@dataclass(frozen=True)
class AttackItem:
    """A trial that is due at a budget.

    Args:
        index: of its record.
        trial: its position among the trials.
        target: the position of the image in the arm.
        image: the image and its caption.
        start, seed: of the attack.
        state: how far it has come; None for the beginning.
        budget: steps.
    """

    index: int
    trial: int
    target: int
    image: Target
    start: Start
    seed: int
    state: State | None
    budget: int


def kind_of(arm: str, attack: str) -> str:
    """Return the name of the records of an attack in an arm."""
    return f"{arm}-{attack}"


def state_bytes(state: State) -> bytes:
    """Return the file that holds the tensors of a state."""
    tensors = {name: value.contiguous().clone() for name, value in state.tensors.items()}
    return safetensors_bytes(tensors)


def due_items(
    run: Run,
    kind: str,
    targets: Sequence[Target],
    trials: Sequence[tuple[Start, int]],
    ladder: Sequence[int],
    place: int,
    size: int,
) -> Iterator[tuple[int, AttackItem | None]]:
    """Yield what is due at one budget, with the state of the budget before it.

    Args:
        run: the run.
        kind: of the records.
        targets: the images of the arm.
        trials: starts and repetitions.
        ladder: all budgets.
        place: which of them is due.
        size: how many trials are worked on together. Those of which one is due all are.

    Yields:
        Index and item; None for an item that is not due, or waits for another shard.
    """
    count = len(targets) * len(trials)
    finished = run.done(kind, count * len(ladder))
    earlier = run.records(kind) if place else {}
    for number in range(count):
        index, first = number * len(ladder) + place, number - number % size
        unit = range(first, min(first + size, count))
        due = not all(finished[other * len(ladder) + place] for other in unit)
        target, (start, seed) = number // len(trials), trials[number % len(trials)]
        state = None
        if place:
            before = earlier.get(index - 1)
            if before is None or not due:
                yield index, None
                continue
            tensors = _tensors(run, before["state"]) if before["state"] else {}
            state = State(step=ladder[place - 1], tensors=tensors)
        yield (
            index,
            AttackItem(index, number, target, targets[target], start, seed, state, ladder[place]),
        )


def _tensors(run: Run, name: str) -> dict[str, Tensor]:
    return read_tensors(run.folder / name, RunError, "state of an attack")


def read_attacks(run: Run, kind: str) -> tuple[AttackRecord, ...]:
    """Read the records of one attack in one arm, in the order of trials and budgets.

    Raises:
        RunError: one is damaged.
    """
    return tuple(record for _, record in run.typed(kind, AttackRecord, "Start a new run."))
