import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from diffusers import DiffusionPipeline, EulerDiscreteScheduler
from hypothesis import given
from hypothesis import strategies as st

from architectures import make
from conftest import PROMPTS, make_pipeline
from unmemorize import (
    Model,
    NoiseSettings,
    RunError,
    Threshold,
    ThresholdError,
    calibrate_threshold,
)
from unmemorize.detection import (
    NoiseMagnitude,
    SeedSimilarity,
    Trace,
    default_detector,
    discoveries,
    make_probe,
    noise_differences,
    pairwise_similarity,
)
from unmemorize.detection._calibration import Calibration, PromptScores
from unmemorize.detection._conformal import conformal_quantile
from unmemorize.engines import Execution, Shard

SETTINGS = NoiseSettings(seeds=4)
SHORT = {"order": [0, 1], "stops": []}


def pairs(pipe: DiffusionPipeline) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    """Similarity of all pairs by prompt, (prompts, 6)."""
    model = Model(pipe)
    rows = []
    for text in PROMPTS:
        matrix = (
            pairwise_similarity(
                noise_differences(model, make_probe(model, model.encode([text]), SETTINGS))
            )
            .double()
            .numpy()
        )
        rows.append([matrix[i, j] for i in range(4) for j in range(i + 1, 4)])
    return np.array(rows)


def test_each_reduction_against_numpy(pipe: DiffusionPipeline) -> None:
    values = pairs(pipe)
    highest, means = values.max(1), values.mean(1)
    of_prompts = highest.mean() + 2 * highest.std(ddof=1)
    of_pairs = values.mean() + 2 * values.std(ddof=1)
    levels = {"conformal": highest.max(), "prompts": of_prompts, "pairs": of_pairs}
    for reduction, level in levels.items():
        calibration = Calibration(reduction=reduction, deviations=2)  # type: ignore[arg-type]
        threshold = calibrate_threshold(
            pipe, PROMPTS, detector="seed-similarity", settings=SETTINGS, calibration=calibration
        )
        assert threshold.detect.reduction == reduction
        assert threshold.detect.tau == pytest.approx(level, abs=1e-6)
        assert threshold.detect.scores == pytest.approx(tuple(highest), abs=1e-6)
        localize = threshold.localize
        expected = of_pairs if reduction == "pairs" else of_prompts
        assert localize.tau == pytest.approx(expected, abs=1e-6)
        assert localize.reduction == ("pairs" if reduction == "pairs" else "prompts")
        assert localize.tau_seeds == pytest.approx(means.mean() + 2 * means.std(ddof=1), abs=1e-6)
        assert localize.means == pytest.approx(tuple(means), abs=1e-6)
        assert (localize.deviations, threshold.kernel) == (2, 3)


def test_one_standard_deviation_by_default(pipe: DiffusionPipeline) -> None:
    highest = pairs(pipe).max(1)
    threshold = calibrate_threshold(pipe, PROMPTS, settings=SETTINGS)
    assert threshold.localize.tau == pytest.approx(highest.mean() + highest.std(ddof=1), abs=1e-6)


def test_a_detector_that_compares_no_seeds_is_calibrated_with_localization(
    pipe: DiffusionPipeline,
) -> None:
    by_magnitude = calibrate_threshold(pipe, PROMPTS, settings=SETTINGS, detector="noise-magnitude")
    by_similarity = calibrate_threshold(
        pipe, PROMPTS, settings=SETTINGS, detector="seed-similarity"
    )
    assert by_magnitude.localize == by_similarity.localize
    model = Model(pipe)
    magnitudes = [score.value for score in NoiseMagnitude().score(Trace(model, PROMPTS, SETTINGS))]
    assert by_magnitude.detect.scores == pytest.approx(magnitudes, rel=1e-5)
    assert by_magnitude.detect.tau == pytest.approx(max(magnitudes), rel=1e-5)
    assert by_magnitude.detect.cascade is None
    with pytest.raises(ThresholdError, match="'magnitude': nothing of this name"):
        calibrate_threshold(pipe, PROMPTS, detector="magnitude")
    over_pairs = calibrate_threshold(
        pipe,
        PROMPTS,
        settings=SETTINGS,
        detector="noise-magnitude",
        calibration=Calibration.published(),
    )
    assert over_pairs.detect.reduction == "prompts"
    expected = np.mean(magnitudes) + np.std(magnitudes, ddof=1)
    assert over_pairs.detect.tau == pytest.approx(expected, rel=1e-5)


def test_the_default_detector_follows_the_model_and_the_rule(pipe: DiffusionPipeline) -> None:
    assert default_detector(pipe).name == "late-noise-magnitude"
    assert default_detector(pipe, NoiseSettings.published()).name == "seed-similarity"
    assert default_detector(pipe, calibration=Calibration.published()).name == "seed-similarity"
    assert default_detector(make("Flux")).name == "seed-similarity"
    threshold = calibrate_threshold(pipe, PROMPTS, settings=SETTINGS)
    assert threshold.detect.detector == "late-noise-magnitude"


@pytest.fixture(name="threshold", scope="module")
def threshold_fixture() -> Threshold:
    """A threshold of the model that `pipe` is."""
    return calibrate_threshold(make_pipeline(), PROMPTS, settings=SETTINGS)


def test_file_round_trip(threshold: Threshold, tmp_path: Path) -> None:
    threshold.save(tmp_path / "t.json")
    assert Threshold.load(tmp_path / "t.json") == threshold


def test_other_models_and_settings_are_refused(
    pipe: DiffusionPipeline, threshold: Threshold
) -> None:
    threshold.check(Model(pipe), SETTINGS)
    with pytest.raises(
        ThresholdError, match=r"calibrated with guidance=0\.0, but this run has guidance=7"
    ):
        threshold.check(Model(pipe), NoiseSettings(seeds=4, guidance=7))
    with pytest.raises(ThresholdError, match="another model"):
        threshold.check(Model(make_pipeline(seed=1)), SETTINGS)


def test_bad_calibrations_are_refused(pipe: DiffusionPipeline) -> None:
    with pytest.raises(ThresholdError, match="at least 2"):
        calibrate_threshold(pipe, PROMPTS[:1])
    with pytest.raises(ThresholdError, match=r"reduction='mean': .* Choose conformal or"):
        Calibration(reduction="mean")  # type: ignore[arg-type]
    with pytest.raises(ThresholdError, match="reduction=pairs bounds no rate"):
        Calibration(reduction="pairs", max_fpr=0.1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema": 1}, "not a threshold file"),
        ({"kernel": "high"}, "malformed"),
        ({"timestep": 1e999}, "not a valid"),
        ({"detect": {"tau": 1, "reduction": "given", "cascade": SHORT}}, "none over 4 seeds"),
        ({"localize": {"tau": 1}}, "malformed"),
        ({"settings": {"seeds": 1}}, "malformed"),
        ({"extra": 1}, "malformed"),
    ],
)
def test_malformed_files_are_refused(
    threshold: Threshold, tmp_path: Path, change: dict[str, object], message: str
) -> None:
    path = tmp_path / "t.json"
    threshold.save(path)
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ThresholdError, match=message):
        Threshold.load(path)


@given(st.integers(1, 200), st.sampled_from([0.5, 0.25, 0.2, 0.1, 0.05, 0.01]))
def test_the_conformal_quantile_bounds_the_rate_of_an_exchangeable_prompt(
    count: int, rate: float
) -> None:
    """Each of count + 1 exchangeable scores is the new one with the same probability.

    It must exceed tau in at most the given share of cases.
    """
    scores = np.random.default_rng(count).permutation(count + 1) / (count + 1)
    needed = int(np.ceil(round(1 / rate, 9))) - 1
    if count < needed:
        with pytest.raises(ThresholdError, match=f"it takes at least {needed}"):
            conformal_quantile(scores[:-1].tolist(), rate)
        return
    exceeding = [
        score > conformal_quantile(np.delete(scores, place).tolist(), rate)
        for place, score in enumerate(scores)
    ]
    assert np.mean(exceeding) <= rate + 1e-12
    largest_allowed = np.floor(round((count + 1) * rate, 9))
    assert sum(exceeding) == largest_allowed  # no looser than necessary


def test_a_bounded_rate_of_false_positives(pipe: DiffusionPipeline, tmp_path: Path) -> None:
    threshold = calibrate_threshold(
        pipe, PROMPTS, settings=SETTINGS, calibration=Calibration(max_fpr=0.2)
    )
    assert threshold.detect.tau == sorted(threshold.detect.scores)[5]
    assert (threshold.detect.reduction, threshold.detect.max_fpr) == ("conformal", 0.2)
    threshold.save(tmp_path / "t.json")
    assert Threshold.load(tmp_path / "t.json") == threshold
    seen: list[int] = []
    with pytest.raises(
        ThresholdError,
        match=r"6 prompts are too few for a false positive rate of 0\.01: it takes at least 99",
    ):
        calibrate_threshold(
            pipe,
            PROMPTS,
            settings=SETTINGS,
            calibration=Calibration(max_fpr=0.01),
            execution=Execution(progress=lambda done, _total: seen.append(done)),
        )
    assert seen == []
    with pytest.raises(ThresholdError, match="a rate lies between"):
        calibrate_threshold(pipe, PROMPTS, settings=SETTINGS, calibration=Calibration(max_fpr=1.5))


@pytest.mark.parametrize(
    ("count", "rate", "place"), [(2, 0.334, 2), (6, 0.143, 6), (98, 0.0102, 98), (99, 0.01, 99)]
)
def test_few_prompts_bound_the_smallest_rate_that_they_can(
    pipe: DiffusionPipeline, count: int, rate: float, place: int
) -> None:
    """Without a rate; a rate that is asked for and cannot be had is refused instead."""
    scores = [PromptScores(value=i / 200, pairs=(i / 200,)) for i in range(count)]
    settings, texts = NoiseSettings(seeds=2), [str(i) for i in range(count)]
    level = Calibration().threshold(Model(pipe), SeedSimilarity(), settings, texts, scores).detect
    assert (level.max_fpr, level.tau) == (rate, (place - 1) / 200)


def test_a_threshold_from_elsewhere(pipe: DiffusionPipeline, tmp_path: Path) -> None:
    threshold = Threshold.given(pipe, 0.428)
    published = NoiseSettings(protocol="published", similarity="published")
    assert threshold.settings == NoiseSettings.published() == published
    threshold.check(Model(pipe), published)
    assert threshold.localize.of_criterion("unblocked") == threshold.detect.tau == 0.428
    with pytest.raises(ThresholdError, match='no value for the criterion "seeds"'):
        threshold.localize.of_criterion("seeds")
    threshold.save(tmp_path / "t.json")
    assert Threshold.load(tmp_path / "t.json") == threshold
    with pytest.raises(ThresholdError, match="tau=42"):
        Threshold.given(pipe, 42)


def test_a_scheduler_that_spaces_its_steps_otherwise_is_refused(pipe: DiffusionPipeline) -> None:
    threshold = calibrate_threshold(pipe, PROMPTS)
    assert threshold.timestep == 961
    pipe.scheduler = EulerDiscreteScheduler.from_config(pipe.scheduler.config)
    threshold.check(Model(pipe), threshold.settings)
    pipe.scheduler = EulerDiscreteScheduler.from_config(
        pipe.scheduler.config, timestep_spacing="trailing"
    )
    with pytest.raises(
        ThresholdError, match=r"calibrated at timestep 961, but the scheduler of .* leads to 979"
    ):
        threshold.check(Model(pipe), threshold.settings)


@pytest.mark.parametrize("version", [1, 2])
def test_files_of_earlier_schemas_are_refused(
    threshold: Threshold, tmp_path: Path, version: int
) -> None:
    """Their similarity was that of an installed library."""
    path = tmp_path / "t.json"
    threshold.save(path)
    schema = f"unmemorize.threshold/{version}"
    path.write_text(json.dumps({**json.loads(path.read_text()), "schema": schema}))
    with pytest.raises(ThresholdError, match=r"installed torchmetrics.*: unmemorize threshold"):
        Threshold.load(path)


def test_a_killed_calibration_resumes(pipe: DiffusionPipeline, tmp_path: Path) -> None:
    calls: list[int] = []
    handle = pipe.unet.register_forward_pre_hook(lambda *_: calls.append(1))
    model = Model(pipe)

    def stop(done: int, _total: int | None) -> None:
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        calibrate_threshold(
            model,
            PROMPTS,
            detector="seed-similarity",
            settings=SETTINGS,
            folder=tmp_path / "run",
            execution=Execution(progress=stop),
        )
    before = len(calls)
    resumed = calibrate_threshold(
        model, PROMPTS, detector="seed-similarity", settings=SETTINGS, folder=tmp_path / "run"
    )
    assert len(calls) - before == len(PROMPTS) - 3
    handle.remove()
    assert resumed == calibrate_threshold(
        model, PROMPTS, detector="seed-similarity", settings=SETTINGS
    )


def test_a_calibration_is_of_all_its_prompts(pipe: DiffusionPipeline, tmp_path: Path) -> None:
    with pytest.raises(ThresholdError, match="a shard of them is not enough"):
        calibrate_threshold(pipe, PROMPTS, execution=Execution(shard=Shard(1, 2)))
    calibrate_threshold(
        pipe, PROMPTS, detector="seed-similarity", settings=SETTINGS, folder=tmp_path / "run"
    )
    with pytest.raises(
        RunError, match=r"noise.seeds = 4, now it is 3\. .* or delete .*run to start"
    ):
        calibrate_threshold(
            pipe,
            PROMPTS,
            detector="seed-similarity",
            settings=NoiseSettings(seeds=3),
            folder=tmp_path / "run",
        )


@pytest.mark.parametrize("rate", [0.0, 1.0, -0.1])
def test_a_rate_lies_strictly_between_0_and_1(rate: float) -> None:
    with pytest.raises(ThresholdError, match="a rate lies between"):
        conformal_quantile([0.1, 0.2, 0.3], rate)


def test_scores_that_are_no_numbers_make_no_level() -> None:
    """NaN has no place in an order, and once left the level to chance."""
    for scores in ([math.nan, 0.1, 0.2, 0.3], [0.3, 0.1, math.nan, 0.2]):
        with pytest.raises(ThresholdError, match="1 of 4 calibration scores are NaN"):
            conformal_quantile(scores, 0.25)
        with pytest.raises(ThresholdError, match="1 of 4 calibration scores are NaN"):
            discoveries([0.5], scores, 0.5)
    assert conformal_quantile([math.inf, 0.1, 0.2], 0.5) == 0.2


@pytest.mark.parametrize("tau", [0.0, 1.0, 1.5])
def test_a_given_tau_is_a_similarity(pipe: DiffusionPipeline, tau: float) -> None:
    with pytest.raises(ThresholdError, match=r"The paper's .* is 0\.428"):
        Threshold.given(pipe, tau)


def test_what_a_given_threshold_says_of_itself(pipe: DiffusionPipeline) -> None:
    given = Threshold.given(pipe, 0.3, SETTINGS)
    localize = given.localize
    assert (localize.mean, localize.std, localize.deviations) == (0.3, 0.0, 0.0)
    assert (localize.reduction, localize.tau_seeds, localize.means) == ("given", None, ())
    assert (given.detect.reduction, given.detect.max_fpr, given.detect.scores) == (
        "given",
        None,
        (),
    )
    assert (given.detect.cascade, given.kernel, given.prompts) == (None, 3, "")


@pytest.mark.parametrize("name", ["tau", "mean", "std", "tau_seeds"])
def test_the_number_that_is_not_finite_is_named(pipe: DiffusionPipeline, name: str) -> None:
    threshold = Threshold.given(pipe, 0.3, SETTINGS)
    changes: dict[str, Any] = {name: float("nan")}
    with pytest.raises(ThresholdError, match=rf"^{name}=nan: not a finite number"):
        replace(threshold.localize, **changes)
    with pytest.raises(ThresholdError, match=r"^tau=inf: not a finite number"):
        replace(threshold.detect, tau=float("inf"))
