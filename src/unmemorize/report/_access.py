"""Ways to an image, from the caption to the weights, and which of them were tried on the edit."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from unmemorize.report._audit import LEVELS, AuditTable


@dataclass(frozen=True)
class Tried:
    """An attack of an audit.

    Args:
        audit: the folder of the audit.
        attack: its name.
        budget: the largest one: seeds, variants or steps for each image.
        images: how many images were attacked.
    """

    audit: str
    attack: str
    budget: int
    images: int


@dataclass(frozen=True)
class Access:
    """One level of access.

    Args:
        level: its name, from L0 (the caption) to L6 (the weights).
        way: what is varied.
        tried: what audits of this edit tried.
        impossible: why an audit of this edit could not try it; empty where none says so.
    """

    level: str
    way: str
    tried: tuple[Tried, ...]
    impossible: str = ""


def levels_of_access(audits: Sequence[AuditTable]) -> Iterator[Access]:
    """Yield what was tried at each level of access.

    Args:
        audits: of any edit and model. Those of others say nothing about this one.
    """
    own = [audit for audit in audits if audit.is_of_edit]
    for level, way in LEVELS.items():
        tried = (
            Tried(audit.name, outcome.attack, outcome.last.budget, audit.images)
            for audit in own
            for outcome in audit.result.attacks
            if outcome.attack.startswith(level)
        )
        reasons = [audit.result.impossible.get(level, "") for audit in own]
        yield Access(level, way, tuple(tried), next(filter(None, reasons), ""))


def not_tried(access: Sequence[Access], *, paraphrased: bool) -> str:
    """Name the levels that nobody has tried on this edit.

    Args:
        access: see `levels_of_access`. A mitigation itself tries the caption.
        paraphrased: whether it tried other wordings, too.
    """
    left = []
    for each in access:
        if each.level == "L0" or each.tried:
            continue
        of_it = " (guidance, steps, schedulers)" if each.level == "L1" and paraphrased else ""
        left.append(each.level + of_it)
    return f"not tried: {', '.join(left)}" if left else ""
