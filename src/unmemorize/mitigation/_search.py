"""The search for one edit under which no prompt copies, and its certificates."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

from unmemorize.generation import Edit
from unmemorize.mitigation._certificate import Attempt, Certification, Copies, Plan
from unmemorize.mitigation._ladders import LADDERS, Findings, Rung, Rungs, climb, joint_edit

Look = Callable[[Edit, Sequence[int]], Collection[int]]
"""Generates images of prompts under an edit and returns which of the prompts copy."""
Count = Callable[[Edit, Plan], Mapping[int, Copies]]
"""Counts copies of each prompt on the fresh seeds of an attempt, up to the first copy too many."""
ATTEMPTS = 4
"""Certificates of one prompt after which nothing more is tried."""


@dataclass(frozen=True)
class Candidate:
    """The end of a climb.

    Args:
        ladder: the name of the ladder.
        rungs: the rung of each prompt.
        edit: the joint edit.
        copying: the prompts that still copy at the top of the ladder.
    """

    ladder: str
    rungs: Rungs
    edit: Edit
    copying: tuple[int, ...]


def search(
    findings: Mapping[int, Findings], keep: Sequence[str], look: Look
) -> Iterator[Candidate]:
    """Climb each ladder until no prompt copies, or those that do are at its top.

    All prompts share one edit all the time, because that is what is exported: a prompt may be
    helped or harmed by what is done for another one.

    Args:
        findings: of each confirmed prompt.
        keep: ordinary captions that closed-form edits leave alone.
        look: judges prompts on search seeds.

    Yields:
        The end of each ladder. A ladder is climbed when its end is asked for. Ladders whose edit
        changes nothing are left out.
    """
    for name in LADDERS:
        candidate = _climbed(name, findings, keep, look)
        if candidate is not None:
            yield candidate


def certify_joint(
    candidate: Candidate,
    rules: Certification,
    count: Count,
    strengthen: Callable[[Candidate, Collection[int]], Candidate | None],
) -> tuple[Candidate, dict[int, Attempt]]:
    """Test each prompt on fresh seeds; where one copies, strengthen the edit and test all again.

    Every attempt is of one edit and of all prompts, because what is certified is the edit that is
    exported. Each attempt spends its own share of the error, see `Certification`.

    Args:
        candidate: the edit that the search has chosen.
        rules: fix the seeds of each attempt.
        count: counts copies of all prompts on fresh seeds under an edit.
        strengthen: returns a stronger edit for the prompts that failed, or None.

    Returns:
        The last edit, and what each prompt showed under it.
    """
    number = 1
    while True:
        plan = rules.plan(number)
        counts = count(candidate.edit, plan)
        attempts = {index: Attempt(plan, copies) for index, copies in counts.items()}
        failed = [index for index, attempt in attempts.items() if not attempt.passed]
        if not failed or rules.single or number == ATTEMPTS:
            return candidate, attempts
        stronger = strengthen(candidate, failed)
        if stronger is None:
            return candidate, attempts
        candidate, number = stronger, number + 1


def strengthened(
    candidate: Candidate,
    failed: Collection[int],
    findings: Mapping[int, Findings],
    keep: Sequence[str],
) -> Candidate | None:
    """Move prompts whose certificate failed one rung up.

    Returns:
        The stronger candidate, or None if all of them are at the top already.
    """
    ladder = LADDERS[candidate.ladder]
    rungs = climb(candidate.rungs, ladder, sorted(failed))
    edit = joint_edit(rungs, findings, keep)
    if edit is None or edit == candidate.edit:
        return None
    return Candidate(candidate.ladder, rungs, edit, ())


def _climbed(
    name: str, findings: Mapping[int, Findings], keep: Sequence[str], look: Look
) -> Candidate | None:
    ladder = LADDERS[name]
    rungs: dict[int, Rung] = dict.fromkeys(findings, ladder[0])
    pending = sorted(findings)
    while True:
        edit = joint_edit(rungs, findings, keep)
        copying = sorted(look(edit, pending)) if edit is not None else pending
        climbing = [index for index in copying if rungs[index] != ladder[-1]]
        if climbing:
            rungs = climb(rungs, ladder, climbing)
            pending = copying
        elif edit is None:
            return None
        elif len(pending) < len(findings):
            pending = sorted(findings)  # the edit has changed since the others were looked at
        else:
            return Candidate(name, rungs, edit, tuple(copying))
