from __future__ import annotations

import pytest

from unmemorize import ClosedFormEdit, CombinedEdit, MitigationError, NeuronEdit, Neurons
from unmemorize.mitigation import (
    LADDER,
    Candidate,
    Climbed,
    Copies,
    Findings,
    Selection,
    candidates,
    climb,
    least_invasive,
)

SETS: dict[Selection, Neurons] = {
    "complete": Neurons({"a": [1]}),
    "initial": Neurons({"a": [1, 2]}),
    "all layers": Neurons({"a": [1, 2], "b": [0]}),
}
FINDINGS = Findings(("one", "two"), SETS, ("two",), ("kept",))


def test_the_ladder_climbs_from_the_least_invasive_rung() -> None:
    scaled = [
        NeuronEdit(SETS[selection], scale)
        for selection in ("complete", "initial", "all layers")
        for scale in (0.0, -0.25, -0.5, -1.0)
    ]
    closed = [ClosedFormEdit(("one", "two"), weight, ("kept",)) for weight in (1.0, 3.0, 10.0)]
    both = [
        CombinedEdit(
            (ClosedFormEdit(("two",), weight, ("kept",)), NeuronEdit(SETS["complete"], -0.25))
        )
        for weight in (1.0, 3.0, 10.0)
    ]
    assert [candidate.edit for candidate in candidates(FINDINGS)] == [*scaled, *closed, *both]
    names = [rung.name for rung in LADDER]
    assert names[1] == "complete neurons at -0.25"
    assert names[12:16:3] == [
        "closed form at weight 1",
        "complete neurons at -0.25, closed form at weight 1",
    ]
    assert len(set(names)) == 18


def test_rungs_without_an_edit_of_their_own_are_skipped() -> None:
    same = Findings(("one",), {"complete": SETS["initial"], "initial": SETS["initial"]})
    assert [type(each.edit) for each in candidates(same)] == [
        *[NeuronEdit] * 4,
        *[ClosedFormEdit] * 3,
        *[CombinedEdit] * 3,
    ]
    none = list(candidates(Findings(("one",))))
    assert [each.edit for each in none] == [ClosedFormEdit(("one",), w) for w in (1.0, 3.0, 10.0)]
    combined = list(candidates(same))[-1].edit
    assert isinstance(combined, CombinedEdit)
    assert combined.parts[0] == ClosedFormEdit(("one",), 10.0)  # no prompt is known to be left


def test_a_copy_ends_a_rung_and_the_caller_ends_the_search() -> None:
    tried: list[tuple[str, int]] = []

    def is_copy(candidate: Candidate, seed: int) -> bool:
        tried.append((candidate.rung.name, seed))
        return candidate.edit.to_json().get("scale") == 0.0 and seed == 8

    search = climb(candidates(FINDINGS), (7, 8, 9), is_copy)
    first, second = next(search), next(search)
    assert (first.counted, first.passed) == (Copies(1, 2), False)
    assert (second.counted, second.passed) == (Copies(0, 3), True)
    zero, quarter = "complete neurons at 0", "complete neurons at -0.25"
    assert tried == [(zero, 7), (zero, 8), (quarter, 7), (quarter, 8), (quarter, 9)]


def test_the_passing_candidate_that_changes_least_is_exported() -> None:
    rungs = list(candidates(FINDINGS))[:4]
    change = dict(zip([each.rung.name for each in rungs], (0.0, 0.3, 0.2, 0.2), strict=True))
    climbed = [
        Climbed(candidate, Copies(int(index == 0), 3)) for index, candidate in enumerate(rungs)
    ]
    assert least_invasive(climbed, lambda each: change[each.rung.name]) == rungs[2]
    with pytest.raises(MitigationError, match="every rung of the ladder"):
        least_invasive(climbed[:1], lambda each: change[each.rung.name])
