"""Rungs, and how the edits of all prompts are joined."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from diffusers import DiffusionPipeline

from architectures import make
from records import LAYER, localization
from unmemorize import Model, Neurons, Statistics, compute_statistics
from unmemorize.generation import (
    ClosedFormEdit,
    ClosedFormNeuronEdit,
    CombinedEdit,
    Edit,
    Erased,
    NeuronEdit,
    Reread,
)
from unmemorize.mitigation._guides import Guide
from unmemorize.mitigation._ladders import (
    LADDERS,
    SPREAD,
    TEXT_ENCODER,
    Findings,
    Rung,
    climb,
    joint_edit,
    stronger,
)
from unmemorize.mitigation._result import _SCALES_NEURONS
from unmemorize.mitigation._settings import Part
from unmemorize.statistics import activations

KEEP = ("a dog", "a house")
GUIDE = Guide("start", "a start")


def findings(text: str, *neurons: int) -> Findings:
    own = Neurons({"attn2.to_v": neurons}) if neurons else Neurons()
    every = Neurons({"attn2.to_v": [*neurons, 9]})
    return Findings(text, {"complete": own, "initial": own, "all": every}, guide=GUIDE)


FOUND = {3: findings("a cat", 1, 2), 5: findings("a bird", 2, 4)}


def test_ladders_begin_with_the_least_invasive_rung() -> None:
    neurons = LADDERS["neurons"]
    assert neurons[0] == Rung("complete", 0.0)
    assert [rung.scale for rung in neurons[:4]] == [0.0, -0.25, -0.5, -1.0]
    assert [rung.neurons for rung in neurons[::4]] == ["complete", "initial", "all"]
    to_guide = ["closed form to the guide, weight 3", "closed form to the guide, weight 10"]
    assert [str(rung) for rung in LADDERS["closed form"]] == [
        *to_guide,
        "closed form, weight 1",
        "closed form, weight 3",
        "closed form, weight 10",
        "complete neurons at 0 and closed form, weight 10",
        "complete neurons at -0.25 and closed form, weight 10",
        "complete neurons at -1 and closed form, weight 10",
    ]
    both = [str(rung) for rung in LADDERS["both"]]
    assert both[:12] == [
        "complete neurons at 0",
        *to_guide,
        *(f"complete neurons at 0 and {rung}" for rung in to_guide),
        "closed form, weight 1",
        "complete neurons at 0 and closed form, weight 1",
        "closed form, weight 3",
        "complete neurons at 0 and closed form, weight 3",
        "complete neurons at -0.25",
        "complete neurons at -1",
        "closed form, weight 10",
    ]
    for ladder in LADDERS.values():
        assert len(set(ladder)) == len(ladder)


def test_neurons_of_all_prompts_are_joined_at_their_own_scales() -> None:
    rungs = {3: Rung("complete", 0.0), 5: Rung("all", -0.5)}
    assert joint_edit(rungs, FOUND, KEEP) == CombinedEdit(
        (
            NeuronEdit(Neurons({"attn2.to_v": [1]}), 0.0),
            NeuronEdit(Neurons({"attn2.to_v": [2, 4, 9]}), -0.5),
        )
    )


def test_a_joint_edit_of_one_scale_is_one_edit() -> None:
    rungs = dict.fromkeys(FOUND, Rung("complete", -0.25))
    expected = NeuronEdit(Neurons({"attn2.to_v": [1, 2, 4]}), -0.25)
    assert joint_edit(rungs, FOUND, KEEP) == expected


def test_closed_forms_are_joined_at_their_own_weights_and_come_first() -> None:
    rungs = {3: Rung("complete", 0.0, 3.0), 5: Rung(weight=1.0)}
    assert joint_edit(rungs, FOUND, KEEP) == CombinedEdit(
        (
            ClosedFormEdit((Erased("a cat", 3.0), Erased("a bird", 1.0)), KEEP),
            NeuronEdit(Neurons({"attn2.to_v": [1, 2]}), 0.0),
        )
    )
    rungs = {3: Rung("complete", 0.0), 5: Rung(weight=1.0)}
    edit = joint_edit(rungs, FOUND, KEEP)
    assert isinstance(edit, CombinedEdit)
    assert edit.parts[0] == ClosedFormEdit((Erased("a bird", 1.0),), KEEP)


def test_a_prompt_reads_like_its_guide_or_like_the_empty_prompt() -> None:
    found = {**FOUND, 8: replace(findings("a tree", 1), guide=Guide("neighbour", "b"))}
    rungs = {
        3: Rung(weight=3.0, guided=True),
        5: Rung(weight=1.0),
        8: Rung("complete", 0.0, 10.0, guided=True),
    }
    erased = (Erased("a cat", 3.0, "a start"), Erased("a bird", 1.0), Erased("a tree", 10.0, "b"))
    assert joint_edit(rungs, found, KEEP) == CombinedEdit(
        (ClosedFormEdit(erased, KEEP), NeuronEdit(Neurons({"attn2.to_v": [1]}), 0.0))
    )


def test_nothing_to_edit_is_no_edit() -> None:
    assert joint_edit({0: Rung("complete")}, {0: findings("a cat")}, KEEP) is None


def test_only_prompts_that_copy_climb_and_none_beyond_the_top() -> None:
    closed, neurons = LADDERS["closed form"], LADDERS["neurons"]
    ladders = {3: closed, 5: neurons}
    rungs = {3: closed[0], 5: neurons[-1]}
    assert climb(rungs, ladders, [3]) == {3: closed[1], 5: neurons[-1]}
    assert climb(rungs, ladders, [5]) == rungs
    assert climb({3: closed[0], 5: neurons[0]}, ladders, [3, 5]) == {3: closed[1], 5: neurons[1]}
    assert rungs == {3: closed[0], 5: neurons[-1]}


def test_many_neurons_are_reread_before_anything_is_switched_off() -> None:
    few, many = (findings("a cat", *range(10, 10 + count)) for count in (16, 17))
    assert few.ladder("both") == LADDERS["both"]
    assert many.ladder("both") == SPREAD
    for name in ("neurons", "closed form"):
        assert few.ladder(name) == many.ladder(name) == LADDERS[name]
    assert SPREAD[:2] == LADDERS["closed form"][:2]
    assert [str(rung) for rung in SPREAD[2:]] == [
        "closed form of all neurons, reach 1",
        "closed form of all neurons, reach 1.5",
        "closed form of all neurons, reach 2",
        "closed form, weight 10",
        "complete neurons at 0 and closed form, weight 10",
        "complete neurons at -0.25 and closed form, weight 10",
        "complete neurons at -1 and closed form, weight 10",
    ]


def test_rungs_of_neurons_that_there_are_not_are_left_out() -> None:
    none = findings("a cat")  # but one, in other layers
    closed = tuple(Rung(weight=weight) for weight in (1.0, 3.0, 10.0))
    assert none.ladder("closed form") == LADDERS["closed form"][:2] + closed
    assert {rung.neurons for rung in none.ladder("neurons")} == {"all"}
    nowhere = Findings("a cat", dict.fromkeys(("complete", "initial", "all"), Neurons()))
    assert nowhere.ladder("neurons") == (Rung(),)
    assert str(Rung()) == "nothing"


def test_rungs_to_a_guide_that_there_is_not_are_left_out() -> None:
    for found in (findings("a cat", 1), findings("a cat", *range(10, 40))):
        alone = replace(found, guide=None)
        for name in LADDERS:
            left = [rung for rung in found.ladder(name) if not rung.guided]
            assert list(alone.ladder(name)) == left


@pytest.mark.parametrize("name", [TEXT_ENCODER, "fine-tuning"])
@pytest.mark.parametrize(
    ("guide", "climbed"),
    [(GUIDE, ["a start", "a start", ""]), (None, [""])],
)
def test_what_is_trained_goes_to_the_guide_and_to_the_empty_prompt_last(
    name: str, guide: Guide | None, climbed: list[str]
) -> None:
    found = {4: replace(findings("a cat", 1), guide=guide, trainable=True)}
    ladder = found[4].ladder(name)
    taught: list[Erased] = []

    def teach(part: Part, erased: tuple[Erased, ...]) -> Edit:
        assert part == ("text-encoder" if name == TEXT_ENCODER else "denoiser")
        taught.extend(erased)
        return NeuronEdit(Neurons({LAYER: [0]}))

    for rung in ladder:
        joint_edit({4: rung}, found, KEEP, teach)
    assert [(each.caption, each.guide) for each in taught] == [("a cat", text) for text in climbed]
    assert [each.weight for each in taught] == sorted(each.weight for each in taught)
    for lower, higher in pairwise(ladder):
        assert higher.includes(lower)
        assert not lower.includes(higher)
    assert all(
        f"“{text}”" in rung.named(guide) for rung, text in zip(ladder, climbed, strict=True) if text
    )


def test_denoisers_that_cannot_be_trained_have_no_such_rung() -> None:
    found = replace(findings("a cat", 1), guide=GUIDE)
    assert found.ladder("fine-tuning") == (Rung(),)
    pipe = make("Stable Diffusion")
    statistics = compute_statistics(Model(pipe), [f"word {n}" for n in range(8)])
    record = localization("a red cat", "VM", 0.9, Neurons(), theta=1.5)
    whole = Findings.of(Model(pipe), record, statistics, "default", GUIDE)
    assert [str(rung) for rung in whole.ladder("fine-tuning")] == [
        "fine-tuning to the guide, weight 1",
        "fine-tuning to the guide, weight 3",
        "fine-tuning, weight 3",
    ]
    half = Findings.of(Model(pipe.to(torch.float16)), record, statistics, "default", GUIDE)
    assert half.ladder("fine-tuning") == (Rung(),)


@pytest.mark.parametrize(
    ("name", "has"), [("Stable Diffusion", True), ("Stable Diffusion 3", False)]
)
def test_models_without_closed_forms_climb_rungs_of_neurons_alone(name: str, has: bool) -> None:
    model = Model(make(name))
    statistics = compute_statistics(model, [f"word {n}" for n in range(8)])
    layer = next(iter(model.value_layers))
    many = Neurons({path: range(4) for path in list(model.value_layers)[:5]})
    for neurons in (Neurons({layer: [3]}), many):
        record = localization("a red cat", "VM", 0.9, neurons, theta=1.5)
        found = Findings.of(model, record, statistics, "default", GUIDE)
        assert any(rung.weight for rung in found.ladder("both")) == has
        assert (found.ladder("both") == found.ladder("neurons")) == (not has)
        assert found.ladder("neurons")[0] == Rung("complete", 0.0)
        assert (found.ladder("closed form") == (Rung(),)) == (not has)


def test_reread_neurons_of_all_prompts_are_one_edit_between_closed_form_and_scales() -> None:
    found = {**FOUND, 8: findings("a tree", 1), 9: findings("a boat", 6)}
    rungs = {
        8: Rung("all", weight=10.0, reach=1.5),
        3: Rung("complete"),
        5: Rung("all", weight=3.0, reach=1.0),
        9: Rung(weight=3.0),
    }
    rereads = (
        Reread("a bird", Neurons({"attn2.to_v": [2, 4, 9]}), 3.0, 1.0),
        Reread("a tree", Neurons({"attn2.to_v": [1, 9]}), 10.0, 1.5),
    )
    assert joint_edit(rungs, found, KEEP) == CombinedEdit(
        (
            ClosedFormEdit((Erased("a boat", 3.0),), KEEP),
            ClosedFormNeuronEdit(rereads, KEEP),
            NeuronEdit(Neurons({"attn2.to_v": [1, 2]}), 0.0),
        )
    )


def test_rungs_say_what_they_do() -> None:
    assert str(Rung("complete", -0.25, 10.0)) == (
        "complete neurons at -0.25 and closed form, weight 10"
    )
    to_guide = Rung("complete", 0.0, 10.0, guided=True)
    assert to_guide.named(Guide("neighbour", "a dog")) == (
        "complete neurons at 0 and closed form to the neighbour “a dog”, weight 10"
    )
    assert str(to_guide) == "complete neurons at 0 and closed form to the guide, weight 10"
    assert Rung(weight=3.0).named(GUIDE) == "closed form, weight 3"


def test_wider_sets_come_from_z_scores(pipe: DiffusionPipeline) -> None:
    """Against a loop over the activations: theta - 1 in the searched layers, theta in all."""
    model = Model(pipe)
    statistics: Statistics = compute_statistics(model, [f"word {n}" for n in range(8)])
    record = localization("a red cat", "VM", 0.9, Neurons({LAYER: [3]}), theta=1.5)
    found = Findings.of(model, record, statistics, "default", None)
    searched, every = set(), set()
    for path, rows in activations(model, model.encode(["a red cat"])).items():
        z_scores = (rows[0].double() - statistics.mean[path]).abs() / statistics.std[path]
        for index in torch.nonzero(z_scores > 0.5).flatten().tolist():
            if not path.startswith("up_blocks"):
                searched.add((path, index))
        every |= {(path, index) for index in torch.nonzero(z_scores > 1.5).flatten().tolist()}
    assert set(found.neurons["initial"]) == searched
    assert set(found.neurons["all"]) == every
    assert found.neurons["complete"] == record.neurons
    assert any(path.startswith("up_blocks") for path, _ in every)


@pytest.mark.parametrize("ladder", [*LADDERS.values(), SPREAD])
def test_every_rung_of_a_ladder_makes_an_edit(ladder: tuple[Rung, ...]) -> None:
    def teach(part: Part, erased: tuple[Erased, ...]) -> Edit:
        assert (part, len(erased)) == ("denoiser", len(FOUND))
        return NeuronEdit(Neurons({LAYER: [0]}))

    edits = [joint_edit(dict.fromkeys(FOUND, rung), FOUND, KEEP, teach) for rung in ladder]
    assert None not in edits


def test_what_a_rung_includes() -> None:
    off, inverted = Rung("complete", 0.0), Rung("complete", -0.25)
    gentle, strong = Rung(weight=1.0), Rung(weight=10.0)
    near, far = (Rung("all", weight=10.0, reach=reach) for reach in (1.0, 2.0))
    both = Rung("complete", 0.0, 1.0)
    to_guide = Rung(weight=3.0, guided=True)
    for more, less in [
        (inverted, off),
        (Rung("initial", 0.0), off),
        (both, off),
        (both, gentle),
        (strong, gentle),
        (far, near),
        (strong, far),
        (strong, to_guide),
        (Rung(weight=10.0, guided=True), to_guide),
        (replace(to_guide, neurons="complete"), off),
    ]:
        assert more.includes(less)
        assert more.includes(more)
        assert not less.includes(more)
    for one, other in [
        (gentle, off),
        (far, off),
        (far, gentle),
        (gentle, near),
        (strong, both),
        (gentle, to_guide),
    ]:
        assert not one.includes(other)
    assert not Rung("initial", 0.0).includes(inverted)


def test_a_stronger_rung_keeps_what_helped() -> None:
    both = LADDERS["both"]
    climbed = [both[0]]
    while (following := stronger(climbed[-1], both)) != climbed[-1]:
        climbed.append(following)
    assert [str(rung) for rung in climbed] == [
        "complete neurons at 0",
        "complete neurons at 0 and closed form to the guide, weight 3",
        "complete neurons at 0 and closed form to the guide, weight 10",
        "complete neurons at 0 and closed form, weight 10",
        "complete neurons at -0.25 and closed form, weight 10",
        "complete neurons at -1 and closed form, weight 10",
    ]
    assert str(stronger(SPREAD[1], SPREAD)) == "closed form, weight 10"
    assert str(stronger(SPREAD[4], SPREAD)) == "closed form, weight 10"


@pytest.mark.parametrize(
    ("rung", "scales"),
    [
        (Rung("complete", 0.0), True),
        (Rung("all", -0.25, 10.0), True),
        (Rung(weight=10.0, guided=True), False),
        (Rung("all", weight=10.0, reach=1.0), False),
        (Rung(weight=10.0, trained="text-encoder"), False),
        (Rung(), False),
    ],
)
def test_random_neurons_control_scaled_ones_alone(rung: Rung, scales: bool) -> None:
    """The report of earlier runs reads it from the name of the rung."""
    assert rung.scales_neurons == scales
    assert bool(_SCALES_NEURONS.match(rung.named(Guide("start", "all neurons at sea")))) == scales
