"""Which fresh images of a prompt are added up over all prompts."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from unmemorize import NeuronEdit, Neurons
from unmemorize.mitigation import ImagesRecord
from unmemorize.mitigation._certificate import Attempt, Certification, Copies
from unmemorize.mitigation._outcomes import _first
from unmemorize.mitigation._stages import digest

EDIT = NeuronEdit(Neurons({"attn2.to_v": [3]}))


def record(copies: int, seeds: int) -> ImagesRecord:
    return ImagesRecord(prompt="a", seeds=tuple(range(seeds)), copies=copies)


def test_the_first_certificate_under_the_edit_counts_whatever_came_of_it() -> None:
    """The first attempt was made on another edit, the second and the third on this one."""
    records = {
        "certificate-1-ffffffffff": {0: record(9, 9), 1: record(9, 9), 2: record(9, 9)},
        f"certificate-2-{digest(EDIT)}": {0: record(0, 86), 1: record(1, 86), 2: record(2, 7)},
        f"certificate-3-{digest(EDIT)}": {1: record(0, 99)},
        f"count-2-{digest(EDIT)}": {2: record(5, 86)},
    }
    stages = SimpleNamespace(recorded=lambda kind: records.get(kind, {}))
    work: Any = SimpleNamespace(stages=stages)
    rules = Certification()
    attempts = {
        0: Attempt(rules.plan(2), Copies(0, 86)),
        1: Attempt(rules.plan(3), Copies(0, 99)),
        2: Attempt(rules.plan(2), Copies(5, 86)),
    }
    assert _first(work, EDIT, attempts) == {0: Copies(0, 86), 1: Copies(1, 86), 2: Copies(5, 86)}
