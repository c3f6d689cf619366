"""L0: the original caption, as any user may type it."""

from __future__ import annotations

from collections.abc import Sequence

from unmemorize.audit._attack import AttackSettings, Candidate, Start, State, Trial
from unmemorize.audit._bench import Bench


class OriginalPrompt:
    """The caption itself, with fresh seeds. Nothing is optimized."""

    name = "L0"

    def ladder(self, _steps: Sequence[int]) -> Sequence[int]:
        """See `Attack`. There is one budget."""
        return (0,)

    def starts(self, _starts: Sequence[Start]) -> Sequence[Start]:
        """See `Attack`. There is one start."""
        return ("prompt",)

    def begin(self, _bench: Bench, _trial: Trial) -> State:
        """See `Attack`."""
        return State()

    def advance(self, _bench: Bench, _trial: Trial, state: State, _step: int) -> State:
        """See `Attack`. It never comes to that."""
        return state

    def candidate(self, _bench: Bench, trial: Trial, _state: State) -> Candidate:
        """See `Attack`."""
        return Candidate(text=trial.target.prompt)


def original_prompt(_settings: AttackSettings) -> tuple[OriginalPrompt]:
    """Make the attack of level L0."""
    return (OriginalPrompt(),)
