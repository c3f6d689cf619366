"""Which edit is taken, and when a prompt counts as copying in the search."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any

import pytest

from unmemorize import Neurons
from unmemorize.generation import Edit, NeuronEdit
from unmemorize.mitigation import MitigationSettings, OrdinaryCaptions, _mitigate
from unmemorize.mitigation._ladders import LADDERS, Findings
from unmemorize.mitigation._mitigate import _best
from unmemorize.mitigation._ordinary import OrdinaryChange
from unmemorize.mitigation._search import Candidate

FINDINGS = {0: Findings("a cat", {}), 3: Findings("a bird", {})}
EDITS = [NeuronEdit(Neurons({"a": [number]}), 0.0) for number in range(3)]


@dataclass
class Work:
    """Knows the copies of each prompt on the first and the further seeds, and what edits change."""

    changed: Mapping[Edit, int] = field(default_factory=dict)
    copies: Mapping[int, tuple[int, int]] = field(default_factory=dict)
    settings: MitigationSettings = field(default_factory=MitigationSettings)
    looked: list[tuple[str, tuple[int, ...], int]] = field(default_factory=list)

    @property
    def stages(self) -> Any:
        return SimpleNamespace(settings=self.settings)

    @property
    def confirmations(self) -> Any:
        confirmation = SimpleNamespace(test=SimpleNamespace(level=0.5))
        return dict.fromkeys(self.copies, confirmation)

    @property
    def captions(self) -> Any:
        return OrdinaryCaptions((), ())

    def change(self, edit: Edit, images: int, _title: str) -> OrdinaryChange:
        changed = self.changed[edit]
        return OrdinaryChange(
            images=images, changed=changed, similarity=0.9, correlation=0.9, worst=0.1, shown=()
        )

    def judged(
        self,
        title: str,
        _kind: str,
        _edit: Edit,
        indices: Sequence[int],
        _seeds: Callable[[str], tuple[int, ...]],
        *,
        stop: int,
        keep: str = "none",
    ) -> dict[int, Any]:
        assert keep == ("all" if title == "search" else "none")
        self.looked.append((title, tuple(indices), stop))
        found = {index: self.copies[index][title != "search"] for index in indices}
        return {
            index: SimpleNamespace(copies=copies, scores=(0.9,) * copies + (0.1,) * (10 - copies))
            for index, copies in found.items()
        }


def ends(monkeypatch: pytest.MonkeyPatch, copying: Sequence[tuple[int, ...]]) -> None:
    """Let the ladders end at `EDITS`, under which these prompts copy."""

    def search(*_: Any, **__: Any) -> Iterator[Candidate]:
        for name, edit, prompts in zip(LADDERS, EDITS, copying, strict=False):
            yield Candidate(name, {}, edit, prompts)

    monkeypatch.setattr(_mitigate, "search", search)


@pytest.mark.parametrize(
    ("copying", "changed", "best"),
    [
        (((0,), (), ()), (1, 60, 21), 0),  # the budget of 10 % comes first
        (((0,), (), (0, 3)), (1, 60, 0), 0),  # then how many prompts copy
        (((), (), (0,)), (9, 5, 0), 1),  # then how many ordinary images change
        (((0,), (), (0, 3)), (50, 60, 70), 1),  # nothing is within the budget
    ],
)
def test_an_edit_within_the_budget_is_better_than_one_that_ends_more(
    monkeypatch: pytest.MonkeyPatch,
    copying: Sequence[tuple[int, ...]],
    changed: Sequence[int],
    best: int,
) -> None:
    ends(monkeypatch, copying)
    work: Any = Work(dict(zip(EDITS, changed, strict=True)))
    assert work.settings.sample == 200
    candidate, summaries = _best(work, FINDINGS)
    assert candidate is not None
    assert candidate.edit == EDITS[best]
    assert summaries[0].ladder == list(LADDERS)[best]
    assert len(summaries) == 3


@pytest.mark.parametrize(("compare", "ladders"), [(True, 3), (False, 1)])
def test_the_search_may_take_the_first_end(
    monkeypatch: pytest.MonkeyPatch, compare: bool, ladders: int
) -> None:
    ends(monkeypatch, ((0,), (), ()))
    settings = replace(MitigationSettings(), compare=compare)
    work: Any = Work(dict.fromkeys(EDITS, 3), settings=settings)
    assert len(_best(work, FINDINGS)[1]) == ladders


@pytest.mark.parametrize(("copying", "changed", "ladders"), [((), 2, 1), ((), 3, 3), ((0,), 0, 3)])
def test_an_end_without_copies_that_changes_few_images_is_taken_at_once(
    monkeypatch: pytest.MonkeyPatch, copying: tuple[int, ...], changed: int, ladders: int
) -> None:
    """Few are 1 %: a tenth of the budget of 10 %, of 200 images."""
    ends(monkeypatch, (copying, (0, 1), (0, 1)))
    work: Any = Work(dict.fromkeys(EDITS, changed))
    candidate, summaries = _best(work, FINDINGS)
    assert candidate is not None
    assert candidate.edit == EDITS[0]
    assert len(summaries) == ladders


def test_a_single_copy_is_looked_at_again(monkeypatch: pytest.MonkeyPatch) -> None:
    shares: list[Mapping[int, float]] = []

    def search(_findings: Any, _keep: Any, look: Any, **__: Any) -> Iterator[Candidate]:
        shares.append(look(EDITS[0], [0, 1, 2, 3]))
        yield from ()

    monkeypatch.setattr(_mitigate, "search", search)
    work: Any = Work(copies={0: (0, 9), 1: (1, 0), 2: (1, 1), 3: (2, 9)})
    _best(work, FINDINGS)
    assert shares == [{2: 0.1, 3: 1.0}]
    assert work.looked == [("search", (0, 1, 2, 3), 2), ("search, again", (1, 2), 1)]
