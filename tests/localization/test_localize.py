from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor

from conftest import PLANTED_PROMPT, PROMPTS, make_pipeline, one_number, plant_neuron
from unmemorize import (
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


@dataclass(frozen=True, eq=False)
class Planted:
    """A model with one planted neuron, and what localization needs."""

    model: Model
    statistics: Statistics
    threshold: Threshold

    @classmethod
    def at(cls, path: str, index: int) -> Planted:
        pipe = make_pipeline()
        plant_neuron(pipe, path, index)
        model = Model(pipe)
        statistics = compute_statistics(model, OTHERS)
        return cls(
            model, statistics, calibrate_threshold(model, PROMPTS, detector="seed-similarity")
        )

    def localize(
        self,
        prompt: str,
        settings: LocalizationSettings | None = None,
        threshold: Threshold | None = None,
    ) -> Localization:
        return localize(
            self.model,
            prompt,
            statistics=self.statistics,
            threshold=threshold or self.threshold,
            settings=settings,
        )


@cache
def planted_at(layer: int, index: int) -> Planted:
    return Planted.at(LAYERS[layer], index)


@pytest.fixture
def case() -> Planted:
    return planted_at(0, 3)


@pytest.mark.parametrize(
    ("layer", "index", "criterion"),
    [(0, 3, "unblocked"), (0, 3, "seeds"), (1, 11, "unblocked"), (1, 11, "seeds"), (2, 3, "seeds")],
)
def test_a_planted_neuron_is_found_exactly(layer: int, index: int, criterion: Criterion) -> None:
    case = planted_at(layer, index)
    settings = LocalizationSettings(
        noise=case.threshold.settings, criterion=criterion, refinement="bisect"
    )
    found = case.localize(PLANTED_PROMPT, settings)
    assert found.memorized
    assert found.neurons == Neurons({LAYERS[layer]: [index]})
    assert found.score is not None
    assert found.threshold is not None
    assert found.score < found.threshold
    assert found.z_scores[LAYERS[layer]][0] > 5


def test_unmemorized_prompts_get_no_neurons(
    case: Planted,
) -> None:
    strict = one_number(case.threshold, max(case.threshold.detect.scores) + 0.01)
    found = case.localize("c word", threshold=strict)
    assert not found.memorized
    assert (len(found.neurons), len(found.initial), found.score, found.evaluations) == (
        0,
        0,
        None,
        10,
    )


def test_detection_keeps_the_seeds_above_tau(
    case: Planted,
) -> None:
    found = detect(case.model, PLANTED_PROMPT, threshold=case.threshold, stop="never")
    assert found.memorized
    assert found.score > case.threshold.localize.tau
    strict = one_number(case.threshold, 1.0)
    nothing = detect(case.model, PLANTED_PROMPT, threshold=strict, stop="never")
    assert not nothing.memorized
    assert nothing.score == found.score


@cache
def differences(case: Planted, noise: NoiseSettings, off: Neurons) -> Tensor:
    """Return the noise differences of all seeds, by editing the weights themselves."""
    layers = case.model.value_layers
    saved = {path: layer.weight.detach().clone() for path, layer in layers.items()}
    for path, index in off:
        layers[path].weight.data[index] = 0
    probe = make_probe(case.model, case.model.encode([PLANTED_PROMPT]), noise)
    blocked = noise_differences(case.model, probe)
    for path, weight in saved.items():
        layers[path].weight.data.copy_(weight)
    return blocked


@cache
def calibrated(case: Planted, noise: NoiseSettings) -> Threshold:
    return calibrate_threshold(case.model, PROMPTS, detector="seed-similarity", settings=noise)


@pytest.mark.parametrize("protocol", ["published", "paper"])
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
    """A plain transcription of the method agrees, with scores from edited weights."""
    case = planted_at(0, 3)
    noise = NoiseSettings(seeds=3, protocol=protocol)  # type: ignore[arg-type]
    threshold = one_number(calibrated(case, noise), tau)
    settings = LocalizationSettings(
        noise=noise,
        criterion="unblocked",
        refinement="greedy",
        layers="down_blocks.0.*",
        theta=2.0,
        theta_step=0.5,
        **change,
    )
    found = case.localize(PLANTED_PROMPT, settings, threshold)
    statistics = case.statistics
    text = case.model.encode([PLANTED_PROMPT])
    activation = activations(case.model, text)[LAYERS[0]][0]
    z = ((activation.double() - statistics.mean[LAYERS[0]]) / statistics.std[LAYERS[0]]).abs()
    ranked = activation.argsort(descending=True).tolist()
    matrix = pairwise_similarity(differences(case, noise, Neurons()))
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
        blocked = differences(case, noise, Neurons({LAYERS[0]: off}))
        return similarity(differences(case, noise, Neurons()), blocked)[list(kept)].tolist()

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
    case: Planted,
) -> None:
    other = make_pipeline(seed=1)
    with pytest.raises(StatisticsError, match="another model"):
        localize(other, "x", statistics=case.statistics, threshold=case.threshold)
    with pytest.raises(ThresholdError, match="another model"):
        localize(other, "x", statistics=compute_statistics(other, OTHERS), threshold=case.threshold)
    with pytest.raises(ThresholdError, match="another model"):
        detect(other, "x", threshold=case.threshold)


def test_another_protocol_is_refused(case: Planted) -> None:
    settings = LocalizationSettings(noise=NoiseSettings(protocol="paper"))
    with pytest.raises(ThresholdError, match="protocol=published, but this run has protocol=paper"):
        case.localize("x", settings)


def test_record_round_trip(case: Planted) -> None:
    found = case.localize(PLANTED_PROMPT)
    assert Localization.from_json(found.to_json()) == found
    with pytest.raises(RunError, match="malformed localization"):
        Localization.from_json({"detection": found.to_json()["detection"]})
    with pytest.raises(RunError, match="malformed localization"):
        Localization.from_json({**found.to_json(), "detection": {"prompt": "x"}})


def test_work_is_counted(case: Planted) -> None:
    """What is done once per model, for the first prompt, is no prompt's work."""
    model = Model(case.model.pipe)
    forwards: list[int] = []
    handle = model.denoiser.register_forward_pre_hook(
        lambda _module, inputs: forwards.append(len(inputs[0]))
    )
    told: list[tuple[int, int | None]] = []
    records = []
    for _ in range(2):
        forwards.clear()
        told.clear()
        records.append(
            localize(
                model,
                PLANTED_PROMPT,
                statistics=case.statistics,
                threshold=case.threshold,
                settings=LocalizationSettings(refinement="bisect", theta=2.0),
                progress=lambda *progress: told.append(progress),
            )
        )
    handle.remove()
    first, second = records
    assert second.evaluations == sum(forwards)
    assert second.work is not None
    assert 0.3 * sum(forwards) < second.work < sum(forwards)
    assert (first.evaluations, first.work) == (second.evaluations, second.work)
    assert list(second.spent) == ["detection", "criterion", "selection", "refinement"]
    assert sum(spent.work for spent in second.spent.values()) == pytest.approx(second.work)
    assert second.spent["detection"].work == 10
    assert told[-1] == (second.evaluations, None)
    assert first.recorded_bytes == second.recorded_bytes > 0


def test_seeds_are_filtered_by_their_own_threshold(case: Planted) -> None:
    noise = case.threshold.settings
    highest = (
        pairwise_similarity(differences(case, noise, Neurons())) - 2 * torch.eye(noise.seeds)
    ).amax(1)
    middle = float(highest.sort().values[-4:-2].mean())
    expected = tuple(seed for seed in range(noise.seeds) if highest[seed] > middle)
    assert 0 < len(expected) < noise.seeds
    assert middle != pytest.approx(case.threshold.localize.tau)
    settings = LocalizationSettings(criterion="unblocked", seed_threshold=middle)
    found = case.localize(PLANTED_PROMPT, settings)
    assert found.detection is not None
    assert found.detection.memorized_seeds == expected
    assert found.detection.tau == middle
    assert (found.seeds, found.seeds_unfiltered) == (expected, False)
    assert found.tau == case.threshold.localize.tau
    nothing = case.localize(PLANTED_PROMPT, LocalizationSettings(seed_threshold=0.9999))
    assert (nothing.memorized, nothing.initial) == (False, Neurons())


def test_each_criterion_has_its_own_threshold(case: Planted) -> None:
    thresholds = one_number(case.threshold, 0.4, 0.45)
    for criterion, tau in (("unblocked", 0.4), ("seeds", 0.45)):
        settings = LocalizationSettings(criterion=criterion)  # type: ignore[arg-type]
        found = case.localize(PLANTED_PROMPT, settings, thresholds)
        assert (found.tau, found.threshold) == (tau, tau)
        assert found.detection is not None
        assert found.detection.tau == 0.4  # seeds are filtered alike under both criteria
        settings = replace(
            settings, refinement="bisect", initial_threshold=0.5, refinement_threshold=0.6
        )
        found = case.localize(PLANTED_PROMPT, settings, thresholds)
        assert (found.tau, found.threshold) == (0.5, 0.6)
    settings = LocalizationSettings(refinement="bisect", relative_threshold=0.25)
    assert case.localize(PLANTED_PROMPT, settings, thresholds).threshold == 0.25


def test_a_floor_is_noticed_and_the_other_criterion_taken(case: Planted) -> None:
    """The floor is the highest similarity of a seed to itself with every searched neuron off."""
    noise = case.threshold.settings
    searched = LAYERS[:1]
    everything = Neurons({path: range(case.model.widths[path]) for path in searched})
    all_off = float(
        similarity(differences(case, noise, Neurons()), differences(case, noise, everything)).max()
    )
    layers = LocalizationSettings(layers="down_blocks.0.*")
    for tau, floor, criterion in (
        (all_off - 0.001, True, "seeds"),
        (all_off + 0.001, False, "unblocked"),
    ):
        threshold = one_number(case.threshold, tau, 0.2)
        chosen = case.localize(PLANTED_PROMPT, replace(layers, seed_threshold=0.1), threshold)
        assert (chosen.floor, chosen.criterion) == (floor, criterion)
        assert chosen.tau == (0.2 if floor else tau)
        given = replace(layers, seed_threshold=0.1, criterion=criterion)  # type: ignore[arg-type]
        named = case.localize(PLANTED_PROMPT, given, threshold)
        assert (named.floor, named.criterion) == (None, criterion)
        assert (named.initial, named.neurons) == (chosen.initial, chosen.neurons)
        assert len(named.trials["selection"]) == len(chosen.trials["selection"])
        assert "criterion" not in named.spent
        assert 0 < chosen.spent["criterion"].work <= 10
    unblocked = case.localize("c word", layers, one_number(case.threshold, 0.999))
    assert (unblocked.memorized, unblocked.floor, unblocked.criterion) == (False, None, "unblocked")


@pytest.mark.parametrize("name", ["initial_threshold", "refinement_threshold"])
def test_a_threshold_in_the_settings_belongs_to_the_papers_criterion(
    case: Planted, name: str
) -> None:
    thresholds: dict[str, Any] = {name: 0.3}
    settings = LocalizationSettings(refinement="bisect", **thresholds)
    found = case.localize(PLANTED_PROMPT, settings, one_number(case.threshold, 0.1))
    assert (found.floor, found.criterion) == (None, "unblocked")


def test_a_given_tau_has_no_other_criterion_to_take(case: Planted) -> None:
    given = Threshold.given(case.model, 0.01, case.threshold.settings)
    found = case.localize(PLANTED_PROMPT, threshold=given)
    assert (found.floor, found.criterion, found.theta_exhausted) == (None, "unblocked", True)
    with pytest.raises(ThresholdError, match='no value for the criterion "seeds"'):
        case.localize(PLANTED_PROMPT, LocalizationSettings(criterion="seeds"), given)


def test_detection_calls_a_prompt_and_localization_filters_its_seeds(case: Planted) -> None:
    noise = case.threshold.settings
    matrix = pairwise_similarity(differences(case, noise, Neurons()))
    highest = (matrix - 2 * torch.eye(noise.seeds)).amax(1)
    middle = float(highest.sort().values[-4:-2].mean())
    above = tuple(seed for seed in range(noise.seeds) if highest[seed] > middle)
    called = replace(
        one_number(case.threshold, middle),
        detect=replace(case.threshold.detect, tau=float(highest.max()) - 1e-4),
    )
    found = case.localize(PLANTED_PROMPT, threshold=called)
    assert found.detection is not None
    assert len(found.detection.memorized_seeds) < len(above) < noise.seeds
    assert (found.memorized, found.seeds, found.seeds_unfiltered) == (True, above, False)
    not_called = replace(called, detect=replace(called.detect, tau=float(highest.max()) + 1e-4))
    assert not case.localize(PLANTED_PROMPT, threshold=not_called).memorized
    no_seed = replace(called, localize=replace(called.localize, tau=0.999))
    found = case.localize(PLANTED_PROMPT, threshold=no_seed)
    assert (found.memorized, found.seeds_unfiltered) == (True, True)
    assert found.seeds == tuple(range(noise.seeds))
    assert Localization.from_json(found.to_json()) == found


def test_another_detector_calls_a_prompt(case: Planted) -> None:
    threshold = calibrate_threshold(case.model, PROMPTS, detector="noise-magnitude")
    assert threshold.localize == case.threshold.localize
    called = detect(case.model, PLANTED_PROMPT, threshold=threshold)
    low = replace(threshold, detect=replace(threshold.detect, tau=called.score - 0.01))
    found = case.localize(PLANTED_PROMPT, threshold=low)
    assert found.detection is not None
    assert (found.detection.detector, found.memorized) == ("noise-magnitude", True)
    assert found.detection.score == pytest.approx(called.score, rel=1e-5)
    by_similarity = case.localize(PLANTED_PROMPT)
    assert (found.seeds, found.neurons) == (by_similarity.seeds, by_similarity.neurons)
    assert found.spent["detection"].work == 10 + called.evaluations
    high = replace(threshold, detect=replace(threshold.detect, tau=called.score + 0.01))
    assert not case.localize(PLANTED_PROMPT, threshold=high).memorized


@pytest.mark.parametrize("detector", ["late-noise-magnitude", "seed-similarity"])
def test_a_prompt_is_encoded_once(
    case: Planted, monkeypatch: pytest.MonkeyPatch, detector: str
) -> None:
    threshold = calibrate_threshold(case.model, PROMPTS[:3], detector=detector)
    threshold = replace(threshold, detect=replace(threshold.detect, tau=0.0))
    encoded: list[str] = []
    encode = Model.encode

    def counting(model: Model, texts: Sequence[str]) -> Any:
        encoded.extend(texts)
        return encode(model, texts)

    monkeypatch.setattr(Model, "encode", counting)
    found = case.localize(PLANTED_PROMPT, threshold=threshold)
    assert (found.memorized, found.detection and found.detection.detector) == (True, detector)
    assert encoded.count(PLANTED_PROMPT) == 1


def test_the_scale_reaches_the_model(case: Planted) -> None:
    """Neurons that are switched off by a factor of 1 change nothing, so nothing helps."""
    settings = LocalizationSettings(criterion="unblocked", scale=1.0, theta=2.0, theta_floor=1.75)
    found = case.localize(PLANTED_PROMPT, settings)
    assert found.theta_exhausted
    assert found.initial_score == pytest.approx(1.0, abs=1e-5)
    off = case.localize(PLANTED_PROMPT, replace(settings, scale=0.0))
    assert off.initial == found.initial
    assert off.initial_score is not None
    assert off.initial_score < 0.9


def test_only_the_chosen_layers_are_searched(case: Planted) -> None:
    for layers, prefixes in (("default", ("down", "mid")), ("up_blocks.*", ("up",))):
        settings = LocalizationSettings(layers=layers, use_theta=False, top_k=1)
        found = case.localize(PLANTED_PROMPT, settings)
        assert found.initial
        assert all(path.startswith(prefixes) for path in found.initial.layers)


def test_nothing_is_left_in_the_pipeline(case: Planted) -> None:
    model = case.model
    latents, text = model.draw_latents(1, 0), model.encode(["x"])
    before = model.predict(latents, torch.tensor(3), text)
    case.localize(PLANTED_PROMPT)
    assert torch.equal(model.predict(latents, torch.tensor(3), text), before)


def test_layers_that_do_not_run_are_named() -> None:
    case = Planted.at(LAYERS[0], 3)
    case.model.pipe.fuse_qkv_projections()
    with pytest.raises(ModelError, match="unfuse_qkv_projections"):
        case.localize(PLANTED_PROMPT)


def test_without_a_backward_pass_z_scores_rank(
    case: Planted,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fails(*_: object) -> None:
        raise RuntimeError("out of memory")

    monkeypatch.setattr("unmemorize.localization._evaluator.Evaluator.effects", fails)
    monkeypatch.setattr("unmemorize.localization._bisection._FEW", (0,))
    settings = LocalizationSettings(refinement="bisect", theta=2.0)
    found = case.localize(PLANTED_PROMPT, settings)
    assert "no backward pass (out of memory)" in caplog.text
    assert found.minimal
    assert len(found.neurons) >= 1
