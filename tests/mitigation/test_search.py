"""The search on models whose copies are known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from unmemorize import Neurons
from unmemorize._errors import DivergedError
from unmemorize.generation import CombinedEdit, Edit, NeuronEdit
from unmemorize.mitigation._certificate import Certification, Copies, Plan
from unmemorize.mitigation._guides import Guide
from unmemorize.mitigation._ladders import FINE_TUNING, LADDERS, Findings, Rung, joint_edit
from unmemorize.mitigation._search import Candidate, certify_joint, search, strengthened

KEEP = ("a dog",)
KEPT = NeuronEdit(Neurons({"a": [1]}))
FOUND = {
    2: Findings(
        "a cat",
        {
            "complete": Neurons({"a": [1]}),
            "initial": Neurons({"a": [1, 2]}),
            "all": Neurons({"a": [1, 2, 3]}),
        },
        guide=Guide("start", "a"),
    ),
    7: Findings(
        "a bird",
        {
            "complete": Neurons({"a": [5]}),
            "initial": Neurons({"a": [5, 6]}),
            "all": Neurons({"a": [5, 6, 7]}),
        },
        guide=Guide("neighbour", "b"),
    ),
}


class Model:
    """Copies a prompt until its rung is high enough.

    Args:
        needed: for each prompt, the first rung that ends its copies.
        shares: for each prompt, how many of its images copy at some rungs; all do at others.
    """

    def __init__(
        self, needed: dict[int, Rung], shares: dict[int, dict[Rung, float]] | None = None
    ) -> None:
        self.needed, self.shares = needed, shares or {}
        self.looked: list[tuple[Edit, tuple[int, ...]]] = []

    def look(self, edit: Edit, indices: Sequence[int]) -> dict[int, float]:
        self.looked.append((edit, tuple(indices)))
        return {
            index: self._share(edit, index) for index in indices if not self._ended(edit, index)
        }

    def _share(self, edit: Edit, index: int) -> float:
        for rung, share in self.shares.get(index, {}).items():
            alone = joint_edit({index: rung}, FOUND, KEEP)
            if alone is not None and contains(edit, alone):
                return share
        return 1.0

    def _ended(self, edit: Edit, index: int) -> bool:
        alone = joint_edit({index: self.needed[index]}, FOUND, KEEP)
        assert alone is not None
        return contains(edit, alone)


def contains(edit: Edit, part: Edit) -> bool:
    """Whether an edit does to each neuron of a part what the part does."""
    whole = neuron_scales(edit)
    return all(whole.get(neuron) == scale for neuron, scale in neuron_scales(part).items())


def neuron_scales(edit: Edit) -> dict[tuple[str, int], float]:
    parts = edit.parts if isinstance(edit, CombinedEdit) else (edit,)
    return {
        neuron: part.scale
        for part in parts
        if isinstance(part, NeuronEdit)
        for neuron in part.neurons
    }


def test_ladders_of_which_no_rung_is_possible_are_left_out() -> None:
    found = {index: replace(each, closed_form=False) for index, each in FOUND.items()}
    never = dict.fromkeys(found, Rung("complete", 2.0))
    ends = list(search(found, KEEP, Model(never).look))
    assert [end.ladder for end in ends] == ["both", "neurons"]
    assert all(end.copying == (2, 7) for end in ends)
    assert not any(rung.weight for end in ends for rung in end.rungs.values())


def test_only_prompts_that_copy_climb_and_all_are_looked_at_in_the_end() -> None:
    ladder = LADDERS["neurons"]
    model = Model({2: ladder[0], 7: ladder[2]})
    found = {candidate.ladder: candidate for candidate in search(FOUND, KEEP, model.look)}
    neurons = found["neurons"]
    assert neurons.rungs == {2: ladder[0], 7: ladder[2]}
    assert neurons.copying == ()
    climbed = [index for index, (edit, _) in enumerate(model.looked) if edit == neurons.edit]
    looked = [indices for _, indices in model.looked]
    assert looked[climbed[0] - 2 : climbed[-1] + 1] == [(2, 7), (7,), (7,), (2, 7)]


def test_prompts_that_copy_at_the_top_are_named() -> None:
    model = Model(dict.fromkeys(FOUND, LADDERS["both"][-1]))  # all neurons at -0.25
    found = {candidate.ladder: candidate.copying for candidate in search(FOUND, KEEP, model.look)}
    assert found == {"neurons": (), "both": (), "closed form": (2, 7)}
    assert list(found) == [name for name in LADDERS if name != "fine-tuning"]  # not trainable


def test_a_prompt_that_no_rung_helps_goes_back_to_where_it_copied_least() -> None:
    ladder = LADDERS["neurons"]
    never = Rung("complete", 2.0)
    shares = {7: {ladder[2]: 0.2, ladder[5]: 0.2, ladder[8]: 0.5}}
    model = Model({2: ladder[1], 7: never}, shares)
    found = {candidate.ladder: candidate for candidate in search(FOUND, KEEP, model.look)}
    neurons = found["neurons"]
    assert neurons.rungs == {2: ladder[1], 7: ladder[2]}  # the lower one of two that are as good
    assert neurons.edit == joint_edit(neurons.rungs, FOUND, KEEP)
    assert neurons.copying == (7,)
    assert strengthened(neurons, [7], FOUND, KEEP) is None
    stronger = strengthened(neurons, [2, 7], FOUND, KEEP)
    assert stronger is not None
    assert stronger.rungs == {2: ladder[2], 7: ladder[2]}
    assert stronger.copying == (7,)


def test_a_ladder_is_climbed_when_it_is_asked_for() -> None:
    model = Model(dict.fromkeys(FOUND, LADDERS["neurons"][0]))
    first = next(search(FOUND, KEEP, model.look))
    assert (first.ladder, first.copying) == ("both", ())
    assert len(model.looked) == 1  # the other ladders are not climbed


def test_a_ladder_without_an_edit_is_left_out() -> None:
    nothing = {0: Findings("a cat", dict.fromkeys(("complete", "initial", "all"), Neurons()))}
    ladders = [candidate.ladder for candidate in search(nothing, KEEP, lambda _, __: {})]
    assert ladders == ["both", "closed form"]


def test_a_training_that_diverges_leaves_other_edits(caplog: pytest.LogCaptureFixture) -> None:
    """It ended the whole run, and again whenever the run was resumed."""

    def teach(_part: object, _erased: object) -> Edit:
        raise DivergedError("the training diverges before step 20 of 600.")

    trainable = {index: replace(findings, trainable=True) for index, findings in FOUND.items()}
    model = Model(dict.fromkeys(FOUND, LADDERS["neurons"][0]))
    found = search(trainable, KEEP, model.look, ladders=(FINE_TUNING, "neurons"), teach=teach)
    assert [candidate.ladder for candidate in found] == ["neurons"]
    assert "The training diverges before step 20 of 600. The search goes on" in caplog.text
    first = Candidate("neurons", dict.fromkeys(FOUND, LADDERS["neurons"][0]), KEPT, ())
    low = {index: findings.ladder(FINE_TUNING)[0] for index, findings in trainable.items()}
    failed = replace(first, ladder=FINE_TUNING, rungs=low)
    assert strengthened(failed, [2], trainable, KEEP, teach) is None


def test_a_failed_certificate_strengthens_the_edit_and_tests_all_again() -> None:
    ladder = LADDERS["neurons"]
    rungs = dict.fromkeys(FOUND, ladder[0])
    edit = joint_edit(rungs, FOUND, KEEP)
    assert edit is not None
    seen: list[tuple[Edit, int, int]] = []

    def count(edit: Edit, plan: Plan, indices: Sequence[int]) -> dict[int, Copies]:
        assert list(indices) == [2, 7]
        seen.append((edit, plan.seeds, plan.attempt))
        failed = Copies(2, 4) if plan.attempt < 3 else Copies(0, plan.seeds)
        return {2: Copies(0, plan.seeds), 7: failed}

    candidate, attempts = certify_joint(
        Candidate("neurons", rungs, edit, ()),
        Certification(),
        count,
        lambda weak, failed: strengthened(weak, failed, FOUND, KEEP),
    )
    assert [(seeds, attempt) for _, seeds, attempt in seen] == [(72, 1), (86, 2), (99, 3)]
    assert candidate.rungs == {2: ladder[0], 7: ladder[2]}
    assert seen[2][0] == candidate.edit
    assert all(attempt.passed for attempt in attempts.values())


@pytest.mark.parametrize("again", [0, 1, 2])
def test_one_copy_too_many_may_be_false_so_the_same_edit_is_tested_again(again: int) -> None:
    ladder = LADDERS["neurons"]
    rungs = dict.fromkeys(FOUND, ladder[0])
    edit = joint_edit(rungs, FOUND, KEEP)
    assert edit is not None
    seen: list[tuple[Edit, int, tuple[int, ...]]] = []
    copies = {1: {2: 0, 7: 1}, 2: {7: again}, 3: {2: 0, 7: 0}}

    def count(edit: Edit, plan: Plan, indices: Sequence[int]) -> dict[int, Copies]:
        seen.append((edit, plan.attempt, tuple(indices)))
        return {index: Copies(copies[plan.attempt][index], plan.seeds) for index in indices}

    candidate, attempts = certify_joint(
        Candidate("neurons", rungs, edit, ()),
        Certification(),
        count,
        lambda weak, failed: strengthened(weak, failed, FOUND, KEEP),
    )
    assert seen[:2] == [(edit, 1, (2, 7)), (edit, 2, (7,))]
    assert all(attempt.passed for attempt in attempts.values())
    if again:  # a second time, or two copies: no false ones
        assert seen[2:] == [(candidate.edit, 3, (2, 7))]
        assert candidate.rungs == {2: ladder[0], 7: ladder[1]}
        assert [attempts[index].plan.attempt for index in (2, 7)] == [3, 3]
    else:
        assert len(seen) == 2
        assert candidate.rungs == rungs
        assert [attempts[index].plan.attempt for index in (2, 7)] == [1, 2]


@pytest.mark.parametrize(
    ("copies", "taken"),
    [
        # copies of the two prompts in each of the four attempts, and the attempt that counts
        ([(2, 2), (0, 2), (2, 2), (2, 2)], 2),  # most prompts passed
        ([(9, 9), (9, 9), (9, 2), (9, 9)], 3),  # none passed, and fewest copies
        ([(2, 0), (0, 2), (2, 0), (0, 2)], 4),  # of more images as many copies are fewer
    ],
)
def test_the_edit_under_which_most_prompts_passed_is_taken(
    copies: list[tuple[int, int]], taken: int
) -> None:
    ladder = LADDERS["neurons"]
    rungs = dict.fromkeys(FOUND, ladder[0])
    edit = joint_edit(rungs, FOUND, KEEP)
    assert edit is not None
    seen: list[Edit] = []

    def count(edit: Edit, plan: Plan, indices: Sequence[int]) -> dict[int, Copies]:
        seen.append(edit)
        found = dict(zip((2, 7), copies[plan.attempt - 1], strict=True))
        return {index: Copies(found[index], plan.seeds) for index in indices}

    candidate, attempts = certify_joint(
        Candidate("neurons", rungs, edit, ()),
        Certification(),
        count,
        lambda weak, failed: strengthened(weak, failed, FOUND, KEEP),
    )
    assert len(seen) == len(set(seen)) == 4
    assert candidate.edit == seen[taken - 1]
    assert [attempts[index].plan.attempt for index in (2, 7)] == [taken, taken]
    assert [attempts[index].counted.copies for index in (2, 7)] == list(copies[taken - 1])


@pytest.mark.parametrize("most", [1, 3])
def test_attempts_end_after_as_many_as_are_asked_for(most: int) -> None:
    rungs = dict.fromkeys(FOUND, LADDERS["neurons"][0])
    edit = joint_edit(rungs, FOUND, KEEP)
    assert edit is not None
    seen: list[int] = []

    def count(_edit: Edit, plan: Plan, indices: Sequence[int]) -> dict[int, Copies]:
        seen.append(plan.attempt)
        return {index: Copies(2, plan.seeds) for index in indices}

    certify_joint(
        Candidate("neurons", rungs, edit, ()),
        Certification(),
        count,
        lambda weak, failed: strengthened(weak, failed, FOUND, KEEP),
        most,
    )
    assert seen == list(range(1, most + 1))


def test_a_declared_attempt_is_the_only_one() -> None:
    rungs = dict.fromkeys(FOUND, LADDERS["neurons"][0])
    edit = joint_edit(rungs, FOUND, KEEP)
    assert edit is not None
    attempts: list[int] = []

    def count(_edit: Edit, plan: Plan, _indices: Sequence[int]) -> dict[int, Copies]:
        attempts.append(plan.attempt)
        return {2: Copies(1, 1), 7: Copies(0, plan.seeds)}

    start = Candidate("neurons", rungs, edit, ())
    candidate, results = certify_joint(start, Certification(single=True), count, lambda *_: start)
    assert attempts == [1]
    assert candidate == start
    assert [results[index].passed for index in (2, 7)] == [False, True]


def test_nothing_is_stronger_than_the_top() -> None:
    rungs = dict.fromkeys(FOUND, LADDERS["closed form"][-1])
    edit = joint_edit(rungs, FOUND, KEEP)
    assert edit is not None
    assert strengthened(Candidate("closed form", rungs, edit, ()), [2], FOUND, KEEP) is None
