"""Complete refinement against plain loops over single neurons, and each of its fallbacks."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import Tensor

import architectures
from conftest import PLANTED_PROMPT, PROMPTS, planted_pipeline
from edited_weights import Case, double
from unmemorize import (
    Localization,
    LocalizationSettings,
    Model,
    Neurons,
    NoiseSettings,
    Statistics,
    Threshold,
    compute_statistics,
    localize,
    switched_off,
    testbed,
)
from unmemorize.detection import make_probe, noise_differences
from unmemorize.localization import Limit
from unmemorize.localization._complete import refine_completely
from unmemorize.localization._group_tests import measure_by_halving
from unmemorize.localization._prediction_changes import PredictionChanges
from unmemorize.localization._selection import LayerCandidates, Selection
from unmemorize.pipelines import select_value_layers

OTHERS = [*PROMPTS, *(f"{letter} word" for letter in "abcdefghijkl")]


@pytest.fixture(scope="module")
def exact() -> Model:
    return Model(double(planted_pipeline()))


def norm(change: Tensor) -> float:
    """The 2-norm of each seed's change, averaged over the seeds."""
    return float(np.mean([np.linalg.norm(seed.double().numpy()) for seed in change]))


@pytest.mark.parametrize(("guidance", "scale"), [(0.0, 0.0), (3.0, 0.5)])
def test_changes_are_those_of_edited_weights(exact: Model, guidance: float, scale: float) -> None:
    case = Case(exact, guidance=guidance, scale=scale)
    off = Neurons({case.layers[0]: [3, 5], case.layers[-1]: [2]})
    other = off - Neurons({case.layers[0]: [5]})
    expected = norm(case.differences(off)[:2] - case.differences(other)[:2])
    assert case.evaluator.changes.measure(off, other) == pytest.approx(expected, rel=1e-4)
    assert expected > 0.01


@pytest.mark.parametrize(("guidance", "scale"), [(0.0, 0.0), (3.0, 0.5)])
def test_estimates_are_norms_of_slopes(exact: Model, guidance: float, scale: float) -> None:
    """Finite differences of edited weights give the slope that the estimate is of."""
    case = Case(exact, guidance=guidance, scale=scale)
    off = Neurons({case.layers[0]: [3, 5], case.layers[1]: [2]})
    before = case.meter.evaluations, case.meter.weighted
    estimates = case.evaluator.changes.estimate(off, projections=100)
    samples = 2 * (2 if guidance else 1)
    assert case.meter.evaluations == before[0] + samples
    assert case.meter.weighted == before[1] + samples * (1 + 100)
    assert {path: len(values) for path, values in estimates.items()} == {
        path: exact.widths[path] for path in case.layers
    }
    step = 1e-3  # noise differences are float32
    for path, index in [*off, (case.layers[0], 1), (case.layers[1], 4)]:
        start = scale if (path, index) in set(off) else 1.0
        together = off | Neurons({path: [index]})
        high, low = (
            case.differences(together, {(path, index): start + change})[:2]
            for change in (step, -step)
        )
        slope = (1 - scale) * (high - low).double() / (2 * step)
        mean_square = float(slope.flatten(1).pow(2).sum(1).mean()) ** 0.5
        assert float(estimates[path][index]) == pytest.approx(mean_square, rel=0.3)


def test_estimates_are_made_seed_by_seed(exact: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    case = Case(exact)
    together = case.evaluator.changes.estimate(Neurons(), projections=100)
    monkeypatch.setattr("unmemorize.localization._effects._DIFFERENTIATED", 1)
    single = case.evaluator.changes.estimate(Neurons(), projections=100)
    for path in case.layers:
        torch.testing.assert_close(single[path], together[path], rtol=0.5, atol=1e-4)


def test_one_memorized_seed_is_enough(exact: Model) -> None:
    case = Case(exact)
    changes = PredictionChanges(case.passes, [2])
    planted = Neurons({case.layers[0]: [3]})
    expected = case.differences(planted)[1:2] - case.differences(Neurons())[1:2]  # seeds 0, 2, ...
    assert changes.measure(Neurons(), planted) == pytest.approx(norm(expected), rel=1e-4)
    before = case.meter.evaluations
    changes.estimate(Neurons(), projections=2)
    assert case.meter.evaluations == before + 1


def brute_force(
    model: Model, record: Localization, noise: NoiseSettings, only: set[Any] | None = None
) -> dict[Any, float]:
    """The larger change by each searched neuron alone, by whole forwards in plain loops."""
    assert record.detection is not None
    probe = make_probe(model, model.encode([record.prompt]), noise)
    probe = probe.of_seeds(record.detection.memorized_seeds[:2])

    def differences(off: Neurons) -> Tensor:
        with switched_off(model, off):
            return noise_differences(model, probe)

    all_on, all_off = differences(Neurons()), differences(record.initial)
    changes = {}
    for path in select_value_layers(model.value_layers, "default"):
        for index in range(model.widths[path]):
            if only is not None and (path, index) not in only:
                continue
            single = Neurons({path: [index]})
            changes[path, index] = norm(differences(single) - all_on)
            if (path, index) in set(record.initial):
                alone_on = norm(differences(record.initial - single) - all_off)
                changes[path, index] = max(changes[path, index], alone_on)
    return changes


def check_against(record: Localization, changes: dict[Any, float], doubtful: float) -> None:
    """Each candidate is on its side of the noise level, unless it is near the level."""
    ordinary = [change for neuron, change in changes.items() if neuron not in set(record.initial)]
    level = float(np.quantile(ordinary, 0.95))
    assert record.effects is not None
    assert record.effects.measured_by == "backward"
    assert record.effects.level == pytest.approx(level, rel=0.5)
    sure = {neuron for neuron in record.initial if changes[neuron] > doubtful * level}
    possible = {neuron for neuron in record.initial if changes[neuron] > level / doubtful}
    assert sure
    assert sure <= set(record.neurons) <= possible
    for path, indices in record.neurons.layers.items():
        changes_of_layer = record.effects.changes[path]
        assert len(changes_of_layer) == len(indices)
        assert min(changes_of_layer) > record.effects.level


@pytest.fixture(scope="module")
def tiny() -> tuple[Model, Statistics, Threshold]:
    model = Model(planted_pipeline())
    noise = NoiseSettings(seeds=4)
    return model, compute_statistics(model, OTHERS), Threshold.given(model, 0.4, noise)


def localized(tiny: tuple[Model, Statistics, Threshold], **change: Any) -> Localization:
    model, statistics, threshold = tiny
    noise = change.pop("noise", threshold.settings)
    settings = LocalizationSettings(noise=noise, theta=2.0, **change)
    threshold = replace(threshold, settings=noise)
    return localize(
        model, PLANTED_PROMPT, statistics=statistics, threshold=threshold, settings=settings
    )


def test_on_a_tiny_model_the_set_is_that_of_plain_loops(
    tiny: tuple[Model, Statistics, Threshold],
) -> None:
    record = localized(tiny)
    assert len(record.initial) > 8
    check_against(record, brute_force(tiny[0], record, tiny[2].settings), doubtful=2.5)
    assert (record.refinement, record.minimal) == ("complete", None)
    assert Localization.from_json(record.to_json()) == record


def test_on_the_bundled_model_a_candidate_that_does_nothing_is_dropped(
    bundled: Any, bundled_statistics: Statistics, bundled_threshold: Threshold
) -> None:
    model = Model.of(bundled)
    prompt = "chelsea the ginger tabby stares"
    (entry,) = [entry for entry in testbed.planted() if entry.prompt.text.startswith(prompt)]
    settings = LocalizationSettings(noise=bundled_threshold.settings, criterion="seeds")
    record = localize(
        model,
        entry.prompt,
        statistics=bundled_statistics,
        threshold=bundled_threshold,
        settings=settings,
    )
    assert record.neurons == entry.neurons
    assert len(record.initial) > len(record.neurons)
    assert record.effects is not None
    changes = brute_force(model, record, settings.noise, set(record.initial))
    for path, index in record.initial - record.neurons:
        assert changes[path, index] < record.effects.level
    for path, indices in record.neurons.layers.items():
        for index, change in zip(indices, record.effects.changes[path], strict=True):
            assert record.effects.level < change < 3 * changes[path, index]


def fails(*_: object) -> None:
    raise RuntimeError("out of memory\nat some place")


def overflows(changes: PredictionChanges, *_: object) -> dict[str, Tensor]:
    return {path: torch.full((width,), torch.inf) for path, width in changes.widths.items()}


@pytest.mark.parametrize(
    ("estimate", "message"),
    [(fails, "no backward pass (out of memory);"), (overflows, "overflows")],
)
def test_without_a_backward_pass_groups_are_measured(
    tiny: tuple[Model, Statistics, Threshold],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    estimate: Any,
    message: str,
) -> None:
    monkeypatch.setattr(PredictionChanges, "estimate", estimate)
    record = localized(tiny)
    assert message in caplog.text
    assert record.effects is not None
    assert record.effects.measured_by == "forward"
    assert record.effects.level > 0
    model = tiny[0]
    assert (next(iter(model.value_layers)), 3) in set(record.neurons)
    changes = brute_force(model, record, tiny[2].settings)
    for path, indices in record.neurons.layers.items():
        for index, change in zip(indices, record.effects.changes[path], strict=True):
            assert record.effects.level < change <= changes[path, index] + 1e-4


def test_groups_find_the_same_as_single_tests_where_changes_add_up() -> None:
    rng = np.random.default_rng(0)
    for size in (1, 2, 3, 7, 64):
        changes = {("layer", index): float(rng.exponential() ** 3) for index in range(size)}
        asked: list[int] = []

        def joint(group: Any, changes: Any = changes, asked: list[int] = asked) -> float:
            asked.append(len(group))
            return float(sum(changes[neuron] for neuron in group))

        for level in (0.0, 0.5, 2.0, 20.0):
            found = measure_by_halving(list(changes), joint, level)
            assert set(found) == set(changes)
            kept = {neuron for neuron, change in found.items() if change > level}
            assert kept == {neuron for neuron, change in changes.items() if change > level}
    asked.clear()
    measure_by_halving(list(changes), lambda group: 0.0 * joint(group), 1.0)
    assert asked == [64]


class NoChanges:
    """An evaluator that may be asked for nothing."""


@pytest.mark.parametrize("candidates", [(), (4,)])
def test_up_to_one_candidate_needs_no_test(candidates: tuple[int, ...]) -> None:
    selection = Selection({"layer": LayerCandidates(candidates, ())}, 0.2, 5.0, 0, False)
    found = refine_completely(cast(Any, NoChanges()), selection, Limit(0.4), cast(Any, None))
    assert found.neurons == Neurons({"layer": candidates})
    assert (found.score, found.minimal, found.effects) == (0.2, None, None)


def test_a_single_candidate_is_tested_if_theta_is_exhausted(exact: Model) -> None:
    case = Case(exact)
    candidates = {case.layers[-1]: LayerCandidates((2,), ())}
    selection = Selection(candidates, 0.9, 1.25, 15, True)
    found = refine_completely(case.evaluator, selection, Limit(0.9), cast(Any, None))
    assert found.effects is not None
    planted = Selection({case.layers[0]: LayerCandidates((3,), ())}, 0.9, 1.25, 15, True)
    found = refine_completely(case.evaluator, planted, Limit(0.9), cast(Any, None))
    assert found.neurons == Neurons({case.layers[0]: [3]})


@pytest.mark.parametrize(
    "change",
    [
        {"noise": NoiseSettings(seeds=4, similarity="published")},
        {"noise": NoiseSettings(seeds=4, guidance=3.0)},
        {"scale": 0.5},
        {"scale": -1.0},
        {"layers": "all"},
    ],
)
def test_the_planted_neuron_is_kept(
    tiny: tuple[Model, Statistics, Threshold], change: dict[str, Any]
) -> None:
    record = localized(tiny, **change)
    assert record.effects is not None
    assert record.effects.measured_by == "backward"
    assert (next(iter(tiny[0].value_layers)), 3) in set(record.neurons)


def test_neurons_that_stay_on_do_nothing(tiny: tuple[Model, Statistics, Threshold]) -> None:
    record = localized(tiny, scale=1.0)
    assert record.memorized
    assert record.initial
    assert record.neurons == Neurons()
    assert record.why_empty.startswith(f"none of the {len(record.initial)} candidates changes")


@pytest.mark.parametrize("name", ["PixArt", "Stable Diffusion 3", "Flux"])
def test_other_denoisers_have_a_backward_pass(name: str) -> None:
    model = Model(architectures.make(name))
    noise = NoiseSettings(seeds=2)
    record = localize(
        model,
        "a b",
        statistics=compute_statistics(model, ["a", "b", "c d"]),
        threshold=Threshold.given(model, 1e-6, noise),
        settings=LocalizationSettings(noise=noise, layers="all", use_theta=False, top_k=2),
    )
    assert record.theta_exhausted
    assert record.effects is not None
    assert record.effects.measured_by == "backward"
    assert record.effects.level >= 0
    assert len(record.neurons) < len(record.initial)
