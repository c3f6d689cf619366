from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch
from diffusers import DiffusionPipeline

from conftest import PLANTED_PROMPT, PROMPTS, make_pipeline, plant_neuron
from unmemorize import (
    Detection,
    Localization,
    LocalizationSettings,
    Model,
    ModelError,
    Neurons,
    NoiseSettings,
    RunError,
    Statistics,
    StatisticsError,
    Threshold,
    ThresholdError,
    calibrate_threshold,
    compute_statistics,
    detect,
    localize,
)
from unmemorize.detection import make_probe, noise_differences, pairwise_similarity, similarity
from unmemorize.localization import Criterion
from unmemorize.statistics import activations

LAYERS = list(Model(make_pipeline()).value_layers)
OTHERS = [*PROMPTS, *(f"{letter} word" for letter in "abcdefghijklmnopq")]


def planted(path: str, index: int) -> tuple[DiffusionPipeline, Statistics, Threshold]:
    pipe = make_pipeline()
    plant_neuron(pipe, path, index)
    return pipe, compute_statistics(pipe, OTHERS), calibrate_threshold(pipe, PROMPTS)


@pytest.fixture(scope="module")
def case() -> tuple[DiffusionPipeline, Statistics, Threshold]:
    return planted(LAYERS[0], 3)


@pytest.mark.parametrize(
    ("layer", "index", "criterion"),
    [(0, 3, "unblocked"), (0, 3, "seeds"), (1, 11, "unblocked"), (1, 11, "seeds"), (2, 3, "seeds")],
)
def test_a_planted_neuron_is_found_exactly(layer: int, index: int, criterion: Criterion) -> None:
    pipe, statistics, threshold = planted(LAYERS[layer], index)
    settings = LocalizationSettings(noise=threshold.settings, criterion=criterion)
    found = localize(
        pipe, PLANTED_PROMPT, statistics=statistics, threshold=threshold, settings=settings
    )
    assert found.memorized
    assert found.neurons == Neurons({LAYERS[layer]: [index]})
    assert found.score is not None
    assert found.threshold is not None
    assert found.score < found.threshold
    assert found.z_scores[LAYERS[layer]][0] > 5


def test_unmemorized_prompts_get_no_neurons(
    case: tuple[DiffusionPipeline, Statistics, Threshold],
) -> None:
    pipe, statistics, threshold = case
    strict = replace(threshold, tau=max(threshold.highest) + 0.01)
    found = localize(pipe, "c word", statistics=statistics, threshold=strict)
    assert not found.memorized
    assert (len(found.neurons), len(found.initial), found.score, found.evaluations) == (
        0,
        0,
        None,
        10,
    )


def test_detection_keeps_the_seeds_above_tau(
    case: tuple[DiffusionPipeline, Statistics, Threshold],
) -> None:
    pipe, _, threshold = case
    found = detect(pipe, PLANTED_PROMPT, threshold=threshold)
    assert found.memorized
    assert found.score > threshold.tau
    nothing = detect(pipe, PLANTED_PROMPT, threshold=replace(threshold, tau=1.0))
    assert not nothing.memorized
    assert nothing.score == found.score


def brute_force(
    pipe: DiffusionPipeline, prompt: str, kept: Sequence[int], off: Neurons, settings: NoiseSettings
) -> list[float]:
    """By editing the weights themselves: the similarity of each kept seed to its own unblocked noise difference."""
    model = Model(pipe)
    probe = make_probe(model, model.encode([prompt]), settings).keep(list(kept))
    unblocked = noise_differences(model, probe)
    saved = {path: layer.weight.detach().clone() for path, layer in model.value_layers.items()}
    for path, index in off:
        model.value_layers[path].weight.data[index] = 0
    blocked = noise_differences(model, probe)
    for path, weight in saved.items():
        model.value_layers[path].weight.data.copy_(weight)
    return [float(value) for value in similarity(unblocked, blocked)]


@pytest.mark.parametrize("protocol", ["upstream", "paper"])
@pytest.mark.parametrize(
    ("tau", "change"),
    [
        (0.2, {}),
        (0.4, {}),
        (0.4, {"use_theta": False}),
        (0.2, {"use_theta": False, "top_k": 2}),
        (0.2, {"use_top_k": False}),
        (0.4, {"top_k": 3}),
        (0.4, {"initial_threshold": 0.6}),
        (0.4, {"refinement_threshold": 0.9}),
        (0.4, {"seed_threshold": 0.5}),
        (0.4, {"relative_threshold": 0.2}),
        (0.2, {"relative_threshold": 0.5}),
    ],
)
def test_selection_and_refinement_against_brute_force(
    protocol: str, tau: float, change: dict[str, Any]
) -> None:
    """Sets of neurons are scored by editing weights; the method, done on these scores by a plain transcription, agrees."""
    pipe = make_pipeline()
    plant_neuron(pipe, LAYERS[0], 3)
    noise = NoiseSettings(seeds=3, protocol=protocol)  # type: ignore[arg-type]
    statistics = compute_statistics(pipe, OTHERS)
    threshold = replace(calibrate_threshold(pipe, PROMPTS, settings=noise), tau=tau)
    settings = LocalizationSettings(
        noise=noise,
        refinement="greedy",
        layers="down_blocks.0.*",
        theta=2.0,
        theta_step=0.5,
        **change,
    )
    found = localize(
        pipe, PLANTED_PROMPT, statistics=statistics, threshold=threshold, settings=settings
    )
    model = Model(pipe)
    text = model.encode([PLANTED_PROMPT])
    activation = activations(model, text)[LAYERS[0]][0]
    z = ((activation.double() - statistics.mean[LAYERS[0]]) / statistics.std[LAYERS[0]]).abs()
    ranked = activation.argsort(descending=True).tolist()
    matrix = pairwise_similarity(noise_differences(model, make_probe(model, text, noise)))
    filtering = change.get("seed_threshold", tau)
    kept = tuple(
        seed
        for seed in range(3)
        if max(float(matrix[seed, other]) for other in range(3) if other != seed) > filtering
    )
    assert found.detection is not None
    assert found.detection.memorized_seeds == kept
    assert kept

    @cache
    def seedwise(off: frozenset[int]) -> list[float]:
        return brute_force(pipe, PLANTED_PROMPT, kept, Neurons({LAYERS[0]: off}), noise)

    def score(off: frozenset[int]) -> float:
        return max(seedwise(off))

    thetas = [2.0, 1.5] if protocol == "published" else [2.0, 1.5, 1.0]
    if not settings.use_theta:
        thetas = [
            2.0 - 0.5 * step for step in range(len(z) + (protocol == "paper") - settings.top_k)
        ]
    for step, theta in enumerate(thetas):
        by_theta = (
            [index for index in range(len(z)) if z[index] > theta] if settings.use_theta else []
        )
        by_rank = ranked[: settings.top_k + step] if settings.use_top_k else []
        initial = frozenset([*by_theta, *by_rank])
        if score(initial) <= change.get("initial_threshold", tau):
            break
    floor = score(initial) > change.get("initial_threshold", tau)
    assert (found.theta_exhausted, found.theta, found.top_k) == (
        floor,
        theta,
        settings.top_k + step,
    )
    assert set(found.initial) == {(LAYERS[0], index) for index in initial}
    limit = score(initial) if floor else change.get("refinement_threshold", tau)

    def passes(off: frozenset[int]) -> bool:
        if settings.relative_threshold is None:
            return score(off) < limit
        changes = [
            abs(ours - full) / abs(full)
            for ours, full in zip(seedwise(off), seedwise(initial), strict=True)
        ]
        return max(changes) < settings.relative_threshold

    left = frozenset(initial)
    if left and passes(frozenset()):
        left = frozenset()
    else:
        copies = by_theta + by_rank
        if protocol == "paper":
            copies = [
                index for place, index in enumerate(copies) if index not in copies[place + 1 :]
            ]
        for index in list(copies):
            twin = copies.count(index) > 1
            trial = left if twin else left - {index}
            if passes(trial):
                copies.remove(index)
                left = trial
    assert set(found.neurons) == {(LAYERS[0], index) for index in left}
    assert found.score == pytest.approx(score(left), abs=1e-4)


def test_another_models_statistics_or_threshold_are_refused(
    case: tuple[DiffusionPipeline, Statistics, Threshold],
) -> None:
    _, statistics, threshold = case
    other = make_pipeline(seed=1)
    with pytest.raises(StatisticsError, match="another model"):
        localize(other, "x", statistics=statistics, threshold=threshold)
    with pytest.raises(ThresholdError, match="another model"):
        detect(other, "x", threshold=threshold)


def test_another_protocol_is_refused(case: tuple[DiffusionPipeline, Statistics, Threshold]) -> None:
    pipe, statistics, threshold = case
    settings = LocalizationSettings(noise=NoiseSettings(protocol="paper"))
    with pytest.raises(ThresholdError, match="protocol=upstream, but this run has protocol=paper"):
        localize(pipe, "x", statistics=statistics, threshold=threshold, settings=settings)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"criterion": "mine"}, "unknown"),
        ({"theta_step": 0}, "must fall"),
        ({"theta": 0.5}, "must fall"),
        ({"top_k": -1}, "k counts neurons"),
        ({"use_theta": False, "use_top_k": False}, "neither theta nor top-k"),
        ({"seed_threshold": 2.0}, "seed_threshold=2.0: must lie between 0 and 1"),
        ({"relative_threshold": 0.2, "criterion": "seeds"}, "seed by seed"),
        ({"relative_threshold": 0.2, "refinement_threshold": 0.2}, "one of the two thresholds"),
    ],
)
def test_bad_settings_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        LocalizationSettings(**change)


def test_record_round_trip(case: tuple[DiffusionPipeline, Statistics, Threshold]) -> None:
    pipe, statistics, threshold = case
    found = localize(pipe, PLANTED_PROMPT, statistics=statistics, threshold=threshold)
    assert Localization.from_json(found.to_json()) == found
    with pytest.raises(RunError, match="malformed localization"):
        Localization.from_json({"detection": found.to_json()["detection"]})
    with pytest.raises(RunError, match="malformed detection"):
        Detection.from_json({"prompt": "x"})


def test_work_is_counted(case: tuple[DiffusionPipeline, Statistics, Threshold]) -> None:
    pipe, statistics, threshold = case
    forwards: list[int] = []
    handle = pipe.unet.register_forward_pre_hook(
        lambda _module, inputs: forwards.append(len(inputs[0]))
    )
    localize(
        pipe, "c word", statistics=statistics, threshold=replace(threshold, tau=0.01)
    )  # what is done once per model
    forwards.clear()
    found = localize(pipe, PLANTED_PROMPT, statistics=statistics, threshold=threshold)
    handle.remove()
    assert found.evaluations == sum(forwards)
    assert found.work is not None
    assert 0.3 * found.evaluations < found.work < found.evaluations


def test_nothing_is_left_in_the_pipeline(
    case: tuple[DiffusionPipeline, Statistics, Threshold],
) -> None:
    pipe, statistics, threshold = case
    model = Model(pipe)
    before = model.predict(model.draw_latents(1, 0), torch.tensor(3), model.encode(["x"]))
    localize(pipe, PLANTED_PROMPT, statistics=statistics, threshold=threshold)
    assert torch.equal(
        model.predict(model.draw_latents(1, 0), torch.tensor(3), model.encode(["x"])), before
    )


def test_layers_that_do_not_run_are_named() -> None:
    pipe, statistics, threshold = planted(LAYERS[0], 3)
    pipe.fuse_qkv_projections()
    with pytest.raises(ModelError, match="unfuse_qkv_projections"):
        localize(pipe, PLANTED_PROMPT, statistics=statistics, threshold=threshold)


def test_without_a_backward_pass_z_scores_rank(
    case: tuple[DiffusionPipeline, Statistics, Threshold],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fails(*_: object) -> None:
        raise RuntimeError("out of memory")

    pipe, statistics, threshold = case
    monkeypatch.setattr("unmemorize.localization._evaluator.Evaluator.effects", fails)
    monkeypatch.setattr("unmemorize.localization._bisection._FEW", (0,))
    found = localize(
        pipe,
        PLANTED_PROMPT,
        statistics=statistics,
        threshold=threshold,
        settings=LocalizationSettings(theta=2.0),
    )
    assert "no backward pass (out of memory)" in caplog.text
    assert found.minimal
    assert len(found.neurons) >= 1
