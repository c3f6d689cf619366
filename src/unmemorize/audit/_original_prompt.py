"""L0: the original caption, as any user may type it, and what attacks without a search share."""

from __future__ import annotations

from collections.abc import Sequence

from unmemorize.audit._attack import ONCE, AttackSettings, Candidate, Start, State, Trial
from unmemorize.audit._bench import Bench


class WithoutSearch:
    """What is the same for attacks that optimize nothing: they try a fixed list of candidates."""

    def trials(self, _starts: Sequence[Start], _seeds: int) -> Sequence[tuple[Start, int]]:
        """See `Attack`."""
        return ONCE

    def samples(self, _step: int, _batch: int) -> int:
        """See `Attack`. Only images are generated."""
        return 0

    def check(self, _bench: Bench) -> None:
        """See `Attack`. It is always possible."""

    def begin(self, _bench: Bench, _trial: Trial) -> State:
        """See `Attack`."""
        return State()

    def advance(self, _bench: Bench, _trial: Trial, _state: State, step: int) -> State:
        """See `Attack`."""
        return State(step=step)


class OriginalPrompt(WithoutSearch):
    """The caption itself, with fresh seeds."""

    name = "L0"

    def ladder(self, _steps: Sequence[int]) -> Sequence[int]:
        """See `Attack`. There is one budget."""
        return (0,)

    def candidate(self, _bench: Bench, trial: Trial, _state: State) -> Candidate:
        """See `Attack`."""
        return Candidate(text=trial.target.prompt)


def original_prompt(_settings: AttackSettings) -> tuple[OriginalPrompt]:
    """Make the attack of level L0."""
    return (OriginalPrompt(),)
