"""The rungs of the ladder, least invasive first, and the search that climbs it.

A rung says how an edit is made from findings. The search draws images on search seeds and ends a
rung at its first copy. It may be as adaptive as one likes, because only fresh seeds certify.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

from unmemorize._errors import MitigationError
from unmemorize.generation import ClosedFormEdit, CombinedEdit, Edit, NeuronEdit
from unmemorize.mitigation._certificate import Copies
from unmemorize.neurons import Neurons

Selection = Literal["complete", "initial", "all layers"]
SELECTIONS: tuple[Selection, ...] = ("complete", "initial", "all layers")
"""The complete set, the initial set at a lower theta, and the set from all value layers."""
SCALES = (0.0, -0.25, -0.5, -1.0)
WEIGHTS = (1.0, 3.0, 10.0)
UNION_SCALE = -0.25


@dataclass(frozen=True)
class Findings:
    """What the rungs make edits from.

    Args:
        prompts: the prompts whose copies an edit must end.
        neurons: the neurons of all these prompts together, by how they were selected.
        left: those of the prompts that no set of neurons ends.
        keep: ordinary captions that a closed form keeps.
    """

    prompts: tuple[str, ...]
    neurons: Mapping[Selection, Neurons] = field(default_factory=dict)
    left: tuple[str, ...] = ()
    keep: tuple[str, ...] = ()


class Rung(Protocol):
    """One step of the ladder."""

    @property
    def name(self) -> str:
        """What tables call it."""
        ...

    def edit(self, findings: Findings) -> Edit | None:
        """Make the edit, or return None if the findings have nothing for it."""
        ...


@dataclass(frozen=True)
class NeuronRung:
    """Neurons of one selection, at one scale."""

    selection: Selection
    scale: float

    @property
    def name(self) -> str:
        """See `Rung`."""
        return f"{self.selection} neurons at {self.scale:g}"

    def edit(self, findings: Findings) -> NeuronEdit | None:
        """See `Rung`."""
        neurons = findings.neurons.get(self.selection, Neurons())
        return NeuronEdit(neurons, self.scale) if neurons else None


@dataclass(frozen=True)
class ClosedFormRung:
    """The closed form of all key and value projections, at one weight."""

    weight: float

    @property
    def name(self) -> str:
        """See `Rung`."""
        return f"closed form at weight {self.weight:g}"

    def edit(self, findings: Findings) -> ClosedFormEdit:
        """See `Rung`."""
        return ClosedFormEdit(findings.prompts, self.weight, findings.keep)


@dataclass(frozen=True)
class CombinedRung:
    """The union of neurons at one scale, with the closed form for what neurons leave."""

    selection: Selection
    scale: float
    weight: float

    @property
    def name(self) -> str:
        """See `Rung`."""
        return f"{self.selection} neurons at {self.scale:g}, closed form at weight {self.weight:g}"

    def edit(self, findings: Findings) -> CombinedEdit | None:
        """See `Rung`. Where no prompt is left, the closed form is for all of them."""
        neurons = NeuronRung(self.selection, self.scale).edit(findings)
        if neurons is None:
            return None
        erase = findings.left or findings.prompts
        closed = ClosedFormEdit(erase, self.weight, findings.keep)
        return CombinedEdit((closed, neurons))


LADDER: tuple[Rung, ...] = (
    *(NeuronRung(selection, scale) for selection in SELECTIONS for scale in SCALES),
    *(ClosedFormRung(weight) for weight in WEIGHTS),
    *(CombinedRung("complete", UNION_SCALE, weight) for weight in WEIGHTS),
)
"""All rungs, least invasive first."""


@dataclass(frozen=True)
class Candidate:
    """A rung with the edit that it makes."""

    rung: Rung
    edit: Edit


@dataclass(frozen=True)
class Climbed:
    """What the search saw on one rung.

    Args:
        candidate: the rung and its edit.
        counted: copies among the search seeds, up to the first copy.
    """

    candidate: Candidate
    counted: Copies

    @property
    def passed(self) -> bool:
        """Whether no search seed copied."""
        return self.counted.copies == 0


def candidates(findings: Findings, rungs: Iterable[Rung] = LADDER) -> Iterator[Candidate]:
    """Yield the rungs that the findings have an edit for, each edit once."""
    seen: set[Edit] = set()
    for rung in rungs:
        edit = rung.edit(findings)
        if edit is not None and edit not in seen:
            seen.add(edit)
            yield Candidate(rung, edit)


def climb(
    rungs: Iterable[Candidate], seeds: Sequence[int], is_copy: Callable[[Candidate, int], bool]
) -> Iterator[Climbed]:
    """Try candidates one after another, as long as the caller asks for more.

    Args:
        rungs: candidates, least invasive first.
        seeds: search seeds, in the order in which they are tried. A copy ends a rung.
        is_copy: (candidate, seed) -> whether its image is a copy.

    Yields:
        What was seen on each rung, in the order of the ladder.
    """
    for candidate in rungs:
        tried, copied = 0, False
        for seed in seeds:
            tried, copied = tried + 1, is_copy(candidate, seed)
            if copied:
                break
        yield Climbed(candidate, Copies(int(copied), tried))


def least_invasive(climbed: Iterable[Climbed], change: Callable[[Candidate], float]) -> Candidate:
    """Return the passing candidate with the least measured change of ordinary images.

    Args:
        climbed: what `climb` yielded.
        change: candidate -> how much it changes ordinary images. The lower rung wins a tie.

    Raises:
        MitigationError: no candidate passed.
    """
    passing = [each.candidate for each in climbed if each.passed]
    if not passing:
        raise MitigationError(
            "every rung of the ladder still copies on search seeds. Try more rungs, or harden the "
            "model."
        )
    return min(passing, key=change)
