"""The evaluator saves work and answers as if it did not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline
from torch import Tensor

from conftest import PLANTED_PROMPT, planted_pipeline
from edited_weights import SEEDS, Case, double
from unmemorize import Model, Neurons, NoiseSettings
from unmemorize.detection import (
    make_probe,
    pairwise_similarity,
    published_similarity,
    similarity,
)
from unmemorize.localization import Criterion, Evaluator, Limit
from unmemorize.localization._criteria import SeedsScoring, UnblockedScoring
from unmemorize.localization._early_exit import fewest_telling_seeds
from unmemorize.localization._effects import effects_of
from unmemorize.localization._meter import Meter
from unmemorize.localization._passes import Pass, Passes
from unmemorize.localization._records import Trial
from unmemorize.pipelines import Recording, select_value_layers


@pytest.fixture(scope="module")
def model() -> Model:
    return Model(planted_pipeline())


@pytest.fixture(scope="module")
def exact() -> Model:
    """In float64, where rounding of other batches cannot hide a wrong sample."""
    return Model(double(planted_pipeline()))


@pytest.mark.parametrize(
    ("criterion", "guidance", "scale"),
    [
        ("unblocked", 0.0, 0.0),
        ("unblocked", 3.0, 0.5),
        ("seeds", 0.0, 0.0),
        ("seeds", 3.0, -1.0),
    ],
)
def test_scores_are_those_of_whole_forwards(
    exact: Model, criterion: Criterion, guidance: float, scale: float
) -> None:
    case = Case(exact, criterion, guidance, scale)
    planted = Neurons({case.layers[0]: [3]})
    sets = [planted, *case.random_sets(6)]
    expected = [case.score(off) for off in sets]
    limit = Limit((min(expected) + max(expected)) / 2)
    assert min(expected) < limit.value - 1e-3
    answers = []
    for off, score in zip(sets, expected, strict=True):
        found = case.evaluator.below(off, limit)
        assert (found is None) == (score >= limit.value)
        assert found is None or found == pytest.approx(score, abs=1e-5)
        assert case.evaluator.score(off) == pytest.approx(score, abs=1e-5)
        answers.append(found is None)
    assert len(set(answers)) == 2
    assert case.meter.weighted < case.meter.evaluations
    samples = 2 if guidance else 1
    assert case.meter.evaluations % samples == 0


def test_scores_are_in_the_order_of_the_seeds(exact: Model) -> None:
    case = Case(exact, seeds=(5, 0, 3, 2))
    off = Neurons({case.layers[0]: [3], case.layers[1]: [1]})
    expected = case.scores(case.differences(off))
    assert len({round(score, 3) for score in expected}) > 1
    case.evaluator.below(Neurons({case.layers[2]: [1]}), Limit(1e-6))  # another seed goes first
    case.evaluator.below(off, Limit(1.1))
    assert case.evaluator.scores(off).tolist() == pytest.approx(expected, abs=1e-6)


def test_replaying_is_exact_to_the_last_bit(model: Model) -> None:
    case, whole = Case(model), Case(model)
    for path in case.layers:
        off = Neurons({path: [0, 1]})
        before = case.meter.weighted
        replayed = case.passes.run(off, range(SEEDS)).differences
        assert path == case.layers[0] or case.meter.weighted < before + SEEDS
        fresh = Passes(model, whole.probe, whole.layers, 0.0, whole.meter)
        assert torch.equal(replayed, fresh.run(off, range(SEEDS)).differences)


def test_a_pass_starts_from_the_recording_that_saves_most(model: Model) -> None:
    case = Case(model)
    first, last = case.layers[0], case.layers[-1]
    plan = model.replay_plan(case.layers, SEEDS)

    def share(off: Neurons, seeds: tuple[int, ...]) -> float:
        before = case.meter.weighted
        case.passes.run(off, seeds)
        return (case.meter.weighted - before) / len(seeds)

    both = Neurons({first: [1], last: [2]})
    assert share(both, (0, 2)) == pytest.approx(plan.cost(first))
    assert case.evaluator.below(Neurons({first: [1]}), Limit(1.1)) is not None
    assert share(both, (0, 2)) == pytest.approx(plan.cost(last))
    assert share(both, (0, 1)) == pytest.approx(plan.cost(first))  # seed 1 is not memorized
    assert share(Neurons({last: [2]}), (0, 2)) == pytest.approx(plan.cost(last))


def test_replayed_prefixes_stay_complete(exact: Model) -> None:
    """Modules inside a replayed module do not run, so their outputs are taken over."""
    case = Case(exact)
    off = Neurons()
    for path in reversed(case.layers):
        off = off | Neurons({path: [1]})
        assert case.evaluator.below(off, Limit(1.1)) == pytest.approx(case.score(off), abs=1e-6)
    first, *_, middle, last = case.layers
    for layers in ([first], [first, last], [first, middle]):  # each starts from the previous one
        off = Neurons({path: [2] for path in layers})
        assert case.evaluator.score(off) == pytest.approx(case.score(off), abs=1e-6)
    for path in case.layers:
        changed = off - Neurons({path: [1]}) | Neurons({path: [2]})
        assert case.evaluator.score(changed) == pytest.approx(case.score(changed), abs=1e-6)


def test_known_answers_cost_nothing(model: Model) -> None:
    case = Case(model)
    off = next(case.random_sets(1))
    for limit in (Limit(1e-6), Limit(1e-6), Limit(1.1), Limit(1.1)):
        case.evaluator.below(off, limit)
    spent = case.meter.evaluations
    assert case.evaluator.below(Neurons(), Limit(0.9)) is None
    assert case.evaluator.below(off, Limit(1.1)) == case.evaluator.score(off)
    assert case.meter.evaluations == spent
    assert [(trial.off, trial.below) for trial in case.evaluator.trials] == [
        (len(off), False),
        (len(off), True),
    ]


def test_a_score_too_high_for_one_limit_may_pass_another(model: Model) -> None:
    case = Case(model)
    off = next(case.random_sets(1))
    score = case.score(off)
    assert case.evaluator.below(off, Limit(score / 2)) is None
    (trial,) = case.evaluator.trials
    assert score / 2 <= trial.score <= score + 1e-5
    assert case.evaluator.below(off, Limit(score + 1e-3)) == pytest.approx(score, abs=1e-5)
    assert case.evaluator.trials[1] == Trial(len(off), case.evaluator.score(off), True)


def test_a_relative_limit_is_not_answered_from_absolute_scores(exact: Model) -> None:
    case = Case(exact)
    off = next(case.random_sets(1))
    reference = torch.tensor(case.scores(case.differences(off)))
    assert case.evaluator.below(off, Limit(1e-6)) is None
    assert case.evaluator.below(off, Limit(0.01, reference=reference)) is not None
    other = Neurons({case.layers[0]: [3]})
    distance = max(
        abs(score - full) / full
        for score, full in zip(
            case.scores(case.differences(other)), reference.tolist(), strict=True
        )
    )
    assert case.evaluator.below(other, Limit(distance - 1e-4, reference=reference)) is None
    assert case.evaluator.below(other, Limit(distance + 1e-4, reference=reference)) is not None


def test_a_failing_test_ends_early_and_the_telling_seed_goes_first(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    planted = Neurons({next(iter(model.value_layers)): [3]})
    every = Case(model, seeds=tuple(range(SEEDS)))
    scores = every.scores(every.differences(planted))
    rising = sorted(range(SEEDS), key=scores.__getitem__)
    case = Case(model, seeds=tuple(rising))
    ran: list[list[int]] = []
    run = case.passes.run

    def watched(off: Neurons, seeds: Sequence[int]) -> Pass:
        ran.append(list(seeds))
        return run(off, seeds)

    monkeypatch.setattr(case.passes, "run", watched)
    limit = Limit((scores[rising[-1]] + scores[rising[-2]]) / 2)
    assert case.evaluator.below(planted, limit) is None
    assert ran == [rising[:1], rising[1:5], rising[5:]]
    ran.clear()
    one, two = case.random_sets(2)
    assert case.evaluator.below(one, Limit(1e-6)) is None
    assert case.evaluator.below(two, Limit(1.1)) is not None
    assert ran == [rising[-1:], [rising[-1]], rising[:4], rising[4:5]]
    assert case.evaluator.below(planted, Limit(1.1)) is not None
    in_order = [scores[seed] for seed in rising]
    assert case.evaluator.scores(planted).tolist() == pytest.approx(in_order, abs=1e-4)


def test_pairs_end_early_when_the_first_seeds_tell(model: Model) -> None:
    case = Case(model, "seeds", seeds=tuple(range(SEEDS)))
    off = next(case.random_sets(1))
    assert case.score(off) > 0.5
    before = case.meter.evaluations
    assert case.evaluator.below(off, Limit(0.02)) is None
    assert case.meter.evaluations == before + fewest_telling_seeds(SEEDS, 0.02) == before + 2
    assert case.evaluator.trials[0].score <= case.score(off)
    assert case.evaluator.below(off, Limit(0.999)) == pytest.approx(case.score(off), abs=1e-5)


def test_as_many_more_seeds_run_as_would_be_enough_if_they_were_as_alike(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = Case(model, "seeds", seeds=tuple(range(SEEDS)))
    off = next(case.random_sets(1))
    alike = pairwise_similarity(case.differences(off)[:3], "fixed")
    of_three = float(alike.triu(1).sum()) / (SEEDS * (SEEDS - 1) / 2)
    limit = Limit(of_three + 0.01)  # three seeds could exceed it, but do not
    assert fewest_telling_seeds(SEEDS, limit.value) <= 3
    ran: list[int] = []
    run = case.passes.run

    def watched(off: Neurons, seeds: Sequence[int]) -> Pass:
        ran.extend(seeds)
        return run(off, seeds)

    monkeypatch.setattr(case.passes, "run", watched)
    assert case.evaluator.below(off, limit) is None
    assert ran == [0, 1, 2, 3]
    assert case.evaluator.known_below(off, limit) is False
    assert case.evaluator.known_below(off, Limit(0.999)) is None


@pytest.mark.parametrize("criterion", ["unblocked", "seeds"])
def test_published_scores_come_from_all_memorized_seeds_at_once(
    exact: Model, criterion: Criterion
) -> None:
    case = Case(exact, criterion, seeds=(5, 0, 3, 2))
    evaluator = Evaluator(case.passes, case.unblocked, case.seeds, criterion, "published")
    rows, columns = torch.triu_indices(4, 4, 1)
    planted = Neurons({case.layers[0]: [3]})
    for off in (planted, *(planted | others for others in case.random_sets(2))):
        blocked = case.differences(off)
        pairs = (blocked[rows], blocked[columns])
        if criterion == "unblocked":
            pairs = (case.differences(Neurons()), blocked)
        expected = published_similarity(*pairs)
        one_by_one = [
            float(published_similarity(a[None], b[None])) for a, b in zip(*pairs, strict=True)
        ]
        assert max(abs(expected.numpy() - one_by_one)) > 1e-4
        score = float(expected.max() if criterion == "unblocked" else expected.mean())
        before = case.meter.evaluations
        assert evaluator.below(off, Limit(score - 1e-4)) is None
        assert case.meter.evaluations == before + 4  # though one seed may already be too high
        assert evaluator.below(off, Limit(score + 1e-4)) == pytest.approx(score, abs=1e-5)
        assert evaluator.scores(off).tolist() == pytest.approx(expected.tolist(), abs=1e-5)
        assert case.meter.evaluations == before + 4
        (trial,) = evaluator.trials
        assert (trial.off, trial.below) == (len(off), False)
        assert trial.score == pytest.approx(score, abs=1e-5)
        evaluator.trials.clear()


def test_how_many_seeds_can_tell() -> None:
    assert [fewest_telling_seeds(4, limit) for limit in (0.1, 0.2, 0.49, 0.5, 0.9, 1.5)] == [
        2, 3, 3, 4, 4, 4,
    ]  # fmt: skip
    assert fewest_telling_seeds(2, 0.9) == 2


def test_limits() -> None:
    scores = torch.tensor([0.2, 0.5, 0.9])
    assert Limit(0.5).exceeded(scores).tolist() == [False, True, True]
    assert Limit(0.5, strict=False).exceeded(scores).tolist() == [False, False, True]
    relative = Limit(0.3, reference=torch.tensor([0.2, 0.25, 1.0]))
    assert relative.exceeded(scores).tolist() == [False, True, False]
    assert relative.exceeded(scores[1:], [1, 2]).tolist() == [True, False]
    above = Limit(0.5, reference=torch.tensor([0.1, 0.5, 0.55]))  # 1, 0 and .64 of the reference
    assert above.exceeded(scores).tolist() == [True, False, True]
    below = Limit(0.5, reference=torch.tensor([0.8, 1.1, 0.9]))
    assert below.exceeded(scores).tolist() == [True, True, False]


def test_criteria_reduce_scores_to_one_number() -> None:
    images = torch.rand((3, 1, 16, 16), generator=torch.Generator().manual_seed(0))
    blocked = Pass(Neurons(), images[:2], Recording((2, 0), {}))
    unblocked = UnblockedScoring(images)
    expected = [float(similarity(images[[a]], images[[b]])) for a, b in ((2, 0), (0, 1))]
    assert unblocked.scores(blocked).tolist() == pytest.approx(expected)
    scores = torch.tensor([0.3, 0.9, 0.6])
    assert unblocked.reduce(scores) == pytest.approx(0.9)
    assert SeedsScoring().reduce(scores) == pytest.approx(0.6)
    limits = [Limit(value) for value in (0.59, 0.61, 0.89, 0.91)]
    assert [unblocked.too_high(scores, limit) for limit in limits] == [True, True, True, False]
    assert [SeedsScoring().too_high(scores, limit) for limit in limits] == [
        True, False, False, False,
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("criterion", "guidance", "scale"),
    [("unblocked", 0.0, 0.0), ("seeds", 0.0, 0.0), ("unblocked", 3.0, 0.5)],
)
def test_effects_are_finite_differences(
    exact: Model, criterion: Criterion, guidance: float, scale: float
) -> None:
    case = Case(exact, criterion, guidance, scale)
    off = Neurons({case.layers[0]: [3, 5], case.layers[-1]: [2]})
    before = case.meter.evaluations, case.meter.weighted
    found = case.evaluator.effects(off)
    samples = len(case.seeds) * (2 if guidance else 1)
    assert case.meter.evaluations == before[0] + 2 * samples
    # at most the blocked pass is cheaper than a whole one; then a forward and a backward pass
    assert before[1] + 2 * samples < case.meter.weighted <= before[1] + 3 * samples
    assert set(found) == set(off)
    step = 1e-4  # the planted neuron writes so strongly that the score bends within a thousandth
    slopes = {}
    for neuron in off:
        moved = [
            float(np.mean(case.scores(case.differences(off, {neuron: scale + change}))))
            for change in (step, -step)
        ]
        slopes[neuron] = (1 - scale) * (moved[0] - moved[1]) / (2 * step)
        assert found[neuron] == pytest.approx(slopes[neuron], rel=0.05, abs=8e-3)
    assert max(map(abs, slopes.values())) > 0.05


@pytest.mark.parametrize("criterion", ["unblocked", "seeds"])
def test_effects_are_the_same_seed_by_seed(
    exact: Model, criterion: Criterion, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = Case(exact, criterion)
    off = Neurons({case.layers[0]: [3, 5], case.layers[-1]: [2]})
    together = case.evaluator.effects(off)
    monkeypatch.setattr("unmemorize.localization._effects._DIFFERENTIATED", 1)
    assert case.evaluator.effects(off) == pytest.approx(together, rel=1e-4, abs=1e-6)


@dataclass(frozen=True)
class FaintScoring(UnblockedScoring):
    """A score that changes by less with a latent value than float16 can hold."""

    share: float = 1.0

    def scores(self, blocked: Pass) -> Tensor:
        return self.share * super().scores(blocked)


def test_effects_do_not_vanish_in_float16(planted: DiffusionPipeline) -> None:
    model = Model(planted.to(torch.float16))
    layers = list(select_value_layers(model.value_layers))
    probe = make_probe(model, model.encode([PLANTED_PROMPT]), NoiseSettings(seeds=2))
    passes = Passes(model, probe, layers, 0.0, Meter())
    off = Neurons({layers[0]: [3, 5], layers[-1]: [2]})
    unblocked, blocked = passes.run(Neurons(), range(2)), passes.run(off, range(2))
    strong, faint = (
        effects_of(model, probe, blocked, FaintScoring(unblocked.differences, share=share), 0.0)
        for share in (1.0, 2.0**-20)
    )
    assert any(strong.values())
    assert faint == {neuron: effect * 2.0**-20 for neuron, effect in strong.items()}


def test_effects_need_no_gradients_of_weights(planted: DiffusionPipeline) -> None:
    planted.unet.requires_grad_()
    case = Case(Model(planted))
    off = next(case.random_sets(1))
    trained: list[bool] = []
    planted.unet.register_forward_pre_hook(
        lambda unet, _: trained.append(any(weight.requires_grad for weight in unet.parameters()))
    )
    assert set(case.evaluator.effects(off)) == set(off)
    assert trained == [True, False]  # the pass with the neurons off, then the one differentiated
    assert all(
        parameter.requires_grad and parameter.grad is None
        for parameter in planted.unet.parameters()
    )


def test_where_replaying_is_not_exact_it_is_off(
    planted: DiffusionPipeline, caplog: pytest.LogCaptureFixture
) -> None:
    """A hook that changes the output of a module would be applied twice."""
    planted.unet.conv_in.register_forward_hook(lambda _module, _inputs, output: output * 1.01)
    case = Case(Model(planted))
    assert "so the denoiser always runs whole" in caplog.text
    for off in case.random_sets(4):
        assert case.evaluator.score(off) == pytest.approx(case.score(off), abs=1e-5)
    assert case.meter.weighted == case.meter.evaluations
    assert (case.passes.prefixes.bytes, case.passes.prefixes.peak) == (0, 0)


def test_a_hook_that_comes_later_is_noticed(planted: DiffusionPipeline) -> None:
    model = Model(planted)
    Case(model)
    handle = planted.unet.conv_in.register_forward_hook(
        lambda _module, _inputs, output: output * 1.01
    )
    case = Case(model)
    off = next(case.random_sets(1))
    assert case.evaluator.score(off) == pytest.approx(case.score(off), abs=1e-5)
    assert case.meter.weighted == case.meter.evaluations
    handle.remove()
    again = Case(model)
    again.evaluator.score(off)
    assert again.meter.weighted < again.meter.evaluations


def test_recordings_for_one_set_only_where_two_are_too_many(
    planted: DiffusionPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = Case(Model(planted)).passes.prefixes.bytes
    monkeypatch.setattr("unmemorize.pipelines._replay.LARGEST", int(1.5 * size))
    case = Case(Model(planted), seeds=tuple(range(SEEDS)))
    for off in case.random_sets(3):
        assert case.evaluator.score(off) == pytest.approx(case.score(off), abs=1e-5)
    assert case.passes.prefixes.bytes == case.passes.prefixes.peak == size
    assert case.meter.weighted < case.meter.evaluations


def test_two_recordings_are_kept_where_they_fit(model: Model) -> None:
    case = Case(model, seeds=tuple(range(SEEDS)))
    size = case.passes.prefixes.bytes
    for off in case.random_sets(3):
        case.evaluator.score(off)
    assert case.passes.prefixes.bytes == case.passes.prefixes.peak == 2 * size


def test_too_large_recordings_are_not_made(
    planted: DiffusionPipeline, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("unmemorize.pipelines._replay.LARGEST", 1000)
    case = Case(Model(planted))
    assert "recorded outputs are too many" in caplog.text
    off = next(case.random_sets(1))
    assert case.evaluator.score(off) == pytest.approx(case.score(off), abs=1e-5)
    assert case.passes.prefixes.peak == 0
    assert case.unblocked.recording.outputs == {}


def test_differences_to_look_at(exact: Model) -> None:
    case = Case(exact, seeds=(5, 0, 3, 2))
    one, two = case.random_sets(2)
    case.evaluator.below(Neurons({case.layers[2]: [1]}), Limit(1e-6))
    case.evaluator.below(one, Limit(1.1))
    shown = case.evaluator.differences(one)
    assert shown.shape == (2, 3, 4, 16, 16)
    torch.testing.assert_close(shown[0], case.differences(Neurons())[:3], rtol=0, atol=1e-6)
    torch.testing.assert_close(shown[1], case.differences(one)[:3], rtol=0, atol=1e-6)
    case.evaluator.below(two, Limit(1.1))
    assert len(case.evaluator.differences(one)) == 1


def test_work_is_metered_by_stage() -> None:
    told: list[tuple[int, int | None]] = []
    meter = Meter(lambda *progress: told.append(progress))
    meter.add_forward(10, share=0.5)
    meter.end("detection")
    meter.add_forward(4, share=0.25)
    meter.add_backward(2)
    meter.end("selection")
    meter.end("refinement")
    assert told == [(10, None), (14, None)]
    assert (meter.evaluations, meter.weighted) == (14, 8.0)
    assert [spent.work for spent in meter.stages.values()] == [5.0, 3.0, 0.0]
    seconds = [spent.seconds for spent in meter.stages.values()]
    assert min(seconds) >= 0
    assert sum(seconds) <= meter.seconds


def test_a_screened_set_is_finished_and_not_run_again(model: Model) -> None:
    case = Case(model, "seeds", seeds=(0, 1, 2, 4, 5))
    off, other = case.random_sets(2)
    before = case.meter.evaluations
    screened = case.evaluator.seems_below(off, Limit(0.5))
    assert case.evaluator.seems_below(off, Limit(0.5)) == screened
    assert case.meter.evaluations == before + 3
    assert len(case.evaluator.trials) == 1
    low_or_high = Limit(0.0 if screened else 1.1)
    assert case.evaluator.seems_below(other, low_or_high) != screened
    assert case.meter.evaluations == before + 6
    expected = pytest.approx(case.score(off), abs=1e-5)
    assert case.evaluator.below(off, Limit(1.1)) == expected
    assert case.meter.evaluations == before + 8
    assert case.evaluator.seems_below(off, Limit(1.1))  # now it is known
    assert case.meter.evaluations == before + 8


def test_a_screen_adds_by_how_much_all_seeds_exceeded_the_first_ones_last_time(
    model: Model,
) -> None:
    case = Case(model, "seeds", seeds=(0, 1, 2, 4, 5))
    one, two = case.random_sets(2)

    def means(off: Neurons) -> tuple[float, float]:
        blocked = case.differences(off)
        few, all_ = (float(np.mean(case.scores(some))) for some in (blocked[:3], blocked))
        return few, all_

    def screened(off: Neurons) -> float:
        case.evaluator.seems_below(off, Limit(0.5))
        return case.evaluator.trials[-1].score

    few_of_none, all_of_none = means(Neurons())
    few_of_one, all_of_one = means(one)
    excess = all_of_none - few_of_none
    assert abs(excess) > 0.01
    assert screened(one) == pytest.approx(few_of_one + excess, abs=1e-5)
    case.evaluator.below(one, Limit(1.1))
    excess = all_of_one - few_of_one
    assert screened(two) == pytest.approx(means(two)[0] + excess, abs=1e-5)


def test_another_set_than_the_screened_one_runs_whole(model: Model) -> None:
    case = Case(model, "seeds")
    screened, other = case.random_sets(2)
    case.evaluator.seems_below(screened, Limit(0.9))
    assert case.evaluator.below(other, Limit(1.1)) == pytest.approx(case.score(other), abs=1e-5)
    assert case.evaluator.below(screened, Limit(1.1)) == pytest.approx(
        case.score(screened), abs=1e-5
    )


def test_a_screen_by_the_highest_score_is_exact(model: Model) -> None:
    case = Case(model, "unblocked")
    off = next(case.random_sets(1))
    score = case.score(off)
    assert case.evaluator.seems_below(off, Limit(score + 1e-3))
    assert not case.evaluator.seems_below(off, Limit(score - 1e-3))
