"""The evaluator saves work and answers as if it did not."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline
from torch import Tensor, nn

from conftest import PLANTED_PROMPT
from unmemorize import LocalizationSettings, Model, Neurons, NoiseSettings, switched_off
from unmemorize.detection import (
    Probe,
    make_probe,
    noise_differences,
    pairs_of,
    pairwise_similarity,
    similarity,
)
from unmemorize.localization import Criterion, Evaluator, Limit, plan_for
from unmemorize.localization._prefixes import Prefixes, Work
from unmemorize.localization._replay import recording, replaying

SEEDS = 6


def double(pipe: DiffusionPipeline) -> DiffusionPipeline:
    for module in (pipe.unet, pipe.vae, pipe.text_encoder):
        module.double()
    return pipe


class Case:
    """An evaluator, and the same answers by whole forwards."""

    def __init__(
        self,
        pipe: DiffusionPipeline,
        criterion: Criterion,
        guidance: float = 0.0,
        kept: tuple[int, ...] = (0, 2, 3, 5),
    ) -> None:
        noise = NoiseSettings(seeds=SEEDS, guidance=guidance)
        self.pipe, self.model, self.memorized_seeds, self.guidance, self.criterion = (
            pipe,
            Model(pipe),
            list(kept),
            guidance,
            criterion,
        )
        self.settings = LocalizationSettings(noise=noise, criterion=criterion)
        self.layers = [path for path in self.model.value_layers if not path.startswith("up")]
        self.probe: Probe = make_probe(self.model, self.model.encode([PLANTED_PROMPT]), noise)
        self.work = Work()
        self.prefixes = Prefixes(self.model, self.layers, self.work)
        seeds = list(range(SEEDS))
        self.unblocked, recorded = self.prefixes.differences(self.probe, seeds, Neurons(), guidance)
        self.prefixes.keep("unblocked", [recorded])
        self.prefixes.verify(self.probe, seeds, self.unblocked, guidance)
        self.evaluator = Evaluator(
            self.model, self.probe, self.unblocked, kept, self.settings, self.prefixes, self.work
        )

    def scores(self, off: Neurons) -> Tensor:
        with switched_off(self.pipe, off):
            blocked = noise_differences(self.model, self.probe, self.guidance)[self.memorized_seeds]
        return (
            pairs_of(pairwise_similarity(blocked))
            if self.criterion == "seeds"
            else similarity(self.unblocked[self.memorized_seeds], blocked)
        )

    def score(self, off: Neurons) -> float:
        return float(
            self.scores(off).mean() if self.criterion == "seeds" else self.scores(off).max()
        )

    def random_sets(self, count: int) -> Iterator[Neurons]:
        rng = np.random.default_rng(0)
        for _ in range(count):
            chosen = rng.choice(self.layers, rng.integers(1, 4), replace=False)
            yield Neurons(
                {
                    path: rng.choice(self.model.widths[path], 3, replace=False).tolist()
                    for path in chosen
                }
            )


@pytest.mark.parametrize("criterion", ["unblocked", "seeds"])
@pytest.mark.parametrize("guidance", [0.0, 2.0])
def test_scores_are_those_of_whole_forwards(
    planted: DiffusionPipeline, criterion: Criterion, guidance: float
) -> None:
    """In float64, where rounding of other batches cannot hide a wrong sample."""
    case = Case(double(planted), criterion, guidance)
    limit = Limit(0.97 if criterion == "unblocked" else 0.5)
    answers = []
    for off in case.random_sets(12):
        expected = case.score(off)
        found = case.evaluator.below(off, limit)
        assert (found is None) == (expected >= limit.value)
        assert found is None or found == pytest.approx(expected, abs=1e-6)
        assert case.evaluator.score(off) == pytest.approx(expected, abs=1e-6)
        answers.append(found is None)
    assert case.work.weighted < case.work.evaluations
    assert len(set(answers)) == 2 or criterion == "seeds"


def test_replaying_is_exact_to_the_last_bit(planted: DiffusionPipeline) -> None:
    case = Case(planted, "unblocked", memorized_seeds=tuple(range(SEEDS)))
    for path in case.layers:
        off = Neurons({path: [0, 1]})
        with switched_off(planted, off):
            expected = noise_differences(case.model, case.probe)
            found, _ = case.prefixes.differences(case.probe, list(range(SEEDS)), off, 0.0)
        assert torch.equal(found, expected)


def test_later_layers_cost_less(planted: DiffusionPipeline) -> None:
    case = Case(planted, "unblocked")
    plan = plan_for(planted.unet, case.layers, lambda: pytest.fail("the plan is made once"))
    costs = [plan.cost(layer) for layer in case.layers]
    assert costs == sorted(costs, reverse=True)
    assert costs[0] < plan.cost(None) == 1.0
    assert costs[-1] < 0.8
    assert (
        sum(
            share
            for name, share in plan.share.items()
            if name.count(".") == 1 and name.startswith(("down", "up"))
        )
        <= 1.0
    )


def test_known_answers_cost_nothing(planted: DiffusionPipeline) -> None:
    case = Case(planted, "unblocked")
    off = next(case.random_sets(1))
    for limit in (Limit(1e-6), Limit(1e-6), Limit(1.1), Limit(1.1)):
        case.evaluator.below(off, limit)
    spent = case.work.evaluations
    assert case.evaluator.below(Neurons(), Limit(0.9)) is None
    assert case.evaluator.below(off, Limit(1.1)) == case.evaluator.score(off)
    assert case.work.evaluations == spent


def test_a_failing_test_ends_early_and_the_telling_seed_goes_first(
    planted: DiffusionPipeline,
) -> None:
    case = Case(planted, "unblocked")
    sets = list(case.random_sets(3))
    before = case.work.evaluations
    for off in sets:
        assert case.evaluator.below(off, Limit(1e-6)) is None
    assert case.work.evaluations == before + len(sets)


def test_limits() -> None:
    scores = torch.tensor([0.2, 0.5, 0.9])
    assert Limit(0.5).exceeded(scores).tolist() == [False, True, True]
    assert Limit(0.5, strict=False).exceeded(scores).tolist() == [False, False, True]
    relative = Limit(0.3, reference=torch.tensor([0.2, 0.25, 1.0]))
    assert relative.exceeded(scores).tolist() == [False, True, False]
    assert relative.exceeded(scores[1:], [1, 2]).tolist() == [True, False]


@pytest.mark.parametrize("criterion", ["unblocked", "seeds"])
def test_effects_are_finite_differences(planted: DiffusionPipeline, criterion: Criterion) -> None:
    case = Case(double(planted), criterion)
    off = Neurons({case.layers[0]: [3, 5], case.layers[-1]: [2]})
    found = case.evaluator.effects(off)
    assert set(found) == set(off)
    step = 1e-4  # the planted neuron writes so strongly that the score bends within a thousandth
    for neuron in off:
        rest = off - Neurons.of([neuron])
        moved = []
        for scale in (step, -step):
            with (
                switched_off(planted, rest),
                switched_off(planted, Neurons.of([neuron]), scale=scale),
            ):
                blocked = noise_differences(case.model, case.probe)[case.memorized_seeds].double()
            scores = (
                pairs_of(pairwise_similarity(blocked))
                if criterion == "seeds"
                else similarity(case.unblocked[case.memorized_seeds], blocked)
            )
            moved.append(float(scores.double().mean()))
        slope = (moved[0] - moved[1]) / (2 * step)
        assert found[neuron] == pytest.approx(slope, rel=0.05, abs=8e-3)


def test_where_replaying_is_not_exact_it_is_off(
    planted: DiffusionPipeline, caplog: pytest.LogCaptureFixture
) -> None:
    """A hook that changes the output of a module would be applied twice."""
    handle = planted.unet.conv_in.register_forward_hook(
        lambda _module, _inputs, output: output * 1.01
    )
    case = Case(planted, "unblocked")
    assert "so the denoiser always runs whole" in caplog.text
    for off in case.random_sets(4):
        assert case.evaluator.score(off) == pytest.approx(case.score(off), abs=1e-5)
    assert case.work.weighted == case.work.evaluations
    handle.remove()


def test_a_hook_that_comes_later_is_noticed(planted: DiffusionPipeline) -> None:
    first = Case(planted, "unblocked")
    assert first.work.weighted == first.work.evaluations
    handle = planted.unet.conv_in.register_forward_hook(
        lambda _module, _inputs, output: output * 1.01
    )
    case = Case(planted, "unblocked")
    off = next(case.random_sets(1))
    assert case.evaluator.score(off) == pytest.approx(case.score(off), abs=1e-5)
    assert case.work.weighted == case.work.evaluations
    handle.remove()
    again = Case(planted, "unblocked")
    again.evaluator.score(off)
    assert again.work.weighted < again.work.evaluations


def test_effects_need_no_gradients_of_weights(planted: DiffusionPipeline) -> None:
    planted.unet.requires_grad_()
    case = Case(planted, "unblocked")
    off = next(case.random_sets(1))
    assert set(case.evaluator.effects(off)) == set(off)
    assert all(
        parameter.requires_grad and parameter.grad is None
        for parameter in planted.unet.parameters()
    )


def test_recordings_for_one_set_only_where_two_are_too_many(
    planted: DiffusionPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = Case(planted, "unblocked").prefixes.bytes
    monkeypatch.setattr("unmemorize.localization._prefixes.LARGEST", int(1.5 * size))
    case = Case(planted, "unblocked", memorized_seeds=tuple(range(SEEDS)))
    for off in case.random_sets(3):
        assert case.evaluator.score(off) == pytest.approx(case.score(off), abs=1e-5)
    assert case.prefixes.bytes == size
    assert case.work.weighted < case.work.evaluations


def test_too_large_recordings_are_dropped(
    planted: DiffusionPipeline, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("unmemorize.localization._prefixes.LARGEST", 1000)
    case = Case(planted, "unblocked")
    assert "recorded outputs are too many" in caplog.text
    assert case.prefixes.bytes == 0
    off = next(case.random_sets(1))
    assert case.evaluator.score(off) == pytest.approx(case.score(off), abs=1e-5)


class Parts(nn.Module):
    """Modules that return what diffusers' blocks return, and one that does not."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.pair, self.odd, self.last = nn.Linear(2, 2), Pair(), Odd(), nn.Linear(2, 2)

    def forward(self, value: Tensor) -> Tensor:
        left, (right, _) = self.pair(self.first(value))
        found: Tensor = self.last(left + right + self.odd(value)["x"])
        return found


class Pair(nn.Module):
    def forward(self, value: Tensor) -> tuple[Tensor, tuple[Tensor, None]]:
        return value + 1, (value * 2, None)


class Odd(nn.Module):
    def forward(self, value: Tensor) -> dict[str, Tensor]:
        return {"x": value}


def test_only_plain_outputs_are_replayed() -> None:
    parts = Parts()
    plan = plan_for(parts, ["last"], lambda: parts(torch.ones(1, 2)))
    assert plan.before["last"] == ("first", "pair")
    with recording(parts, plan.recorded) as outputs:
        expected = parts(torch.ones(3, 2))
    with replaying(parts, outputs):
        assert torch.equal(parts(torch.ones(3, 2)), expected)


@pytest.mark.parametrize("own", [False, True])
def test_forwards_are_put_back_after_an_exception(own: bool) -> None:
    parts = Parts()
    if own:  # as accelerate replaces the forward of an instance
        original: Callable[..., Any] = parts.first.forward
        parts.first.forward = lambda value: original(value) * 3  # type: ignore[method-assign, assignment]
    before = parts(torch.ones(3, 2))
    saved = dict(vars(parts.first))

    def interrupted() -> None:
        with replaying(parts, {"first": torch.zeros(3, 2)}):
            assert torch.equal(parts.first(torch.ones(3, 2)), torch.zeros(3, 2))
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        interrupted()
    assert vars(parts.first) == saved
    assert torch.equal(parts(torch.ones(3, 2)), before)
