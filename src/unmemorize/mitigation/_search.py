"""The search for one edit under which no prompt copies, and its certificates."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from unmemorize._errors import DivergedError
from unmemorize.generation import Edit
from unmemorize.mitigation._certificate import Attempt, Certification, Copies, Plan
from unmemorize.mitigation._ladders import (
    LADDERS,
    Findings,
    Rung,
    Rungs,
    Teach,
    climb,
    joint_edit,
    stronger,
)

_logger = logging.getLogger("unmemorize")
Look = Callable[[Edit, Sequence[int]], Mapping[int, float]]
"""Generates images of prompts under an edit, and returns for each prompt that copies its copy
rate."""
Count = Callable[[Edit, Plan, Sequence[int]], Mapping[int, Copies]]
"""Counts copies of prompts on the fresh seeds of an attempt, at least up to the second copy too
many."""
ATTEMPTS = 4
"""The usual number of attempts."""


@dataclass(frozen=True)
class Candidate:
    """The end of a climb.

    Args:
        ladder: the name of the ladder.
        rungs: the rung of each prompt.
        edit: the joint edit.
        copying: the prompts that still copy, because no rung of the ladder ends their copies.
    """

    ladder: str
    rungs: Rungs
    edit: Edit
    copying: tuple[int, ...]


def search(
    findings: Mapping[int, Findings],
    keep: Sequence[str],
    look: Look,
    *,
    ladders: Iterable[str] = LADDERS,
    teach: Teach | None = None,
) -> Iterator[Candidate]:
    """Climb each ladder until no prompt copies, or those that do have seen all of it.

    All prompts share one edit all the time, because that is what is exported: a prompt may be
    helped or harmed by what is done for another one. A prompt that no rung helps goes back to the
    one where it copied least, since the highest rungs cost most.

    Args:
        findings: of each confirmed prompt.
        keep: ordinary captions that closed-form edits leave alone.
        look: judges prompts on search seeds.
        ladders: the names of the ladders.
        teach: trains a part of the model, for the ladder that asks for it.

    Yields:
        The end of each ladder. A ladder is climbed when its end is asked for. Ladders whose edit
        changes nothing are left out.
    """
    for name in ladders:
        candidate = _climbed(name, findings, keep, look, teach)
        if candidate is not None:
            yield candidate


def certify_joint(
    candidate: Candidate,
    rules: Certification,
    count: Count,
    strengthen: Callable[[Candidate, Collection[int]], Candidate | None],
    most: int = ATTEMPTS,
) -> tuple[Candidate, dict[int, Attempt]]:
    """Test each prompt on fresh seeds; where one copies, strengthen the edit and test all again.

    What is certified is the edit that is exported, so a stronger edit is tested for all prompts.
    One image too many may be a false copy, since the level of copies lets some pass. So a prompt
    that fails by one image is tested again under the same edit, once. Each attempt spends its own
    share of the error, see `Certification`. All attempts together stay within it, so any edit that
    was tested may be taken: the one under which most prompts passed.

    Args:
        candidate: the edit that the search has chosen.
        rules: fix the seeds of each attempt.
        count: counts copies on fresh seeds under an edit.
        strengthen: returns a stronger edit for the prompts that failed, or None.
        most: attempts after which nothing more is tried. What is certified does not depend on it,
            because the share of an attempt is fixed by its number.

    Returns:
        The edit, and what each prompt showed under it. Of edits under which as many prompts passed,
        it is the one with the lowest shares of copies, up to where attempts ended, then the first.
    """
    tested: list[tuple[Candidate, dict[int, Attempt]]] = [(candidate, {})]
    pending, doubted, number = sorted(candidate.rungs), set[int](), 1
    while True:
        candidate, attempts = tested[-1]
        plan = rules.plan(number)
        counts = count(candidate.edit, plan, pending)
        attempts |= {index: Attempt(plan, copies) for index, copies in counts.items()}
        failed = [index for index in pending if not attempts[index].passed]
        if not failed or rules.single or number == most:
            break
        doubtful = [
            index
            for index in failed
            if index not in doubted and counts[index].copies == plan.allowed + 1
        ]
        certain = [index for index in failed if index not in doubtful]
        stronger = strengthen(candidate, certain) if certain else None
        if stronger is not None:
            tested.append((stronger, {}))
            pending, doubted = sorted(stronger.rungs), set()
        elif doubtful:
            pending, doubted = doubtful, doubted.union(doubtful)
        else:
            break
        number += 1
    return max(tested, key=lambda each: _success(each[1].values()))


def _success(attempts: Collection[Attempt]) -> tuple[int, float]:
    """Return what the better of two edits has more of: prompts that passed, images that differ.

    Attempts end at a copy too many, so the shares of prompts that failed are rough.
    """
    passed = sum(attempt.passed for attempt in attempts)
    shares = (attempt.counted.copies / attempt.counted.seeds for attempt in attempts)
    return passed, -sum(shares)


def strengthened(
    candidate: Candidate,
    failed: Collection[int],
    findings: Mapping[int, Findings],
    keep: Sequence[str],
    teach: Teach | None = None,
) -> Candidate | None:
    """Move prompts whose certificate failed up, unless no rung ended their copies.

    They passed the search on their rung, so little is left. The next rung may do something else in
    place of what helped; the one that a prompt climbs to does all of that, and more.

    Returns:
        The stronger candidate, or None if none of them can climb.
    """
    rungs = dict(candidate.rungs)
    for index in set(failed).difference(candidate.copying):
        rungs[index] = stronger(rungs[index], findings[index].ladder(candidate.ladder))
    edit = _joined(rungs, findings, keep, teach)
    if edit is None or edit == candidate.edit:
        return None
    return Candidate(candidate.ladder, rungs, edit, candidate.copying)


def copy_rate(scores: Sequence[float], level: float) -> float:
    """Estimate the copy rate from the place of the second copy; 0 without a second one.

    Images are drawn in batches until there are two copies, so how many there are depends on the
    batch. If the second copy is the n-th image, 1 / (n - 1) is unbiased for any rate.

    Examples:
        >>> copy_rate([0.9, 0.1, 0.1, 0.1, 0.9, 0.9], level=0.5)
        0.25
    """
    copies = [number for number, score in enumerate(scores) if score > level]
    return 1 / copies[1] if len(copies) > 1 else 0.0


def _climbed(
    name: str,
    findings: Mapping[int, Findings],
    keep: Sequence[str],
    look: Look,
    teach: Teach | None,
) -> Candidate | None:
    ladders = {index: found.ladder(name) for index, found in findings.items()}
    rungs: dict[int, Rung] = {index: ladder[0] for index, ladder in ladders.items()}
    least: dict[int, tuple[float, Rung]] = {}
    given_up: set[int] = set()
    pending = sorted(findings)
    while True:
        edit = _joined(rungs, findings, keep, teach)
        shares = look(edit, pending) if edit is not None else dict.fromkeys(pending, 1.0)
        climbing = sorted(shares.keys() - given_up)
        for index in climbing:
            if index not in least or shares[index] < least[index][0]:
                least[index] = shares[index], rungs[index]
        top = {index for index in climbing if rungs[index] == ladders[index][-1]}
        given_up |= top
        rungs = climb(rungs, ladders, climbing) | {index: least[index][1] for index in top}
        if climbing:
            pending = [index for index in climbing if index not in top] or sorted(findings)
        elif edit is None:
            return None
        elif len(pending) < len(findings):
            pending = sorted(findings)  # the edit has changed since the others were looked at
        else:
            return Candidate(name, rungs, edit, tuple(sorted(shares)))


def _joined(
    rungs: Mapping[int, Rung],
    findings: Mapping[int, Findings],
    keep: Sequence[str],
    teach: Teach | None,
) -> Edit | None:
    """Return the edit of all rungs, or None if it changes nothing or its training diverges."""
    try:
        return joint_edit(rungs, findings, keep, teach)
    except DivergedError as problem:
        _logger.warning("%s The search goes on without this edit.", str(problem).capitalize())
        return None
