import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from diffusers import DiffusionPipeline, EulerDiscreteScheduler
from hypothesis import given
from hypothesis import strategies as st

from conftest import PROMPTS, make_pipeline
from unmemorize import (
    Model,
    NoiseSettings,
    RunError,
    Threshold,
    ThresholdError,
    calibrate_threshold,
    detect,
)
from unmemorize.detection import make_probe, noise_differences, pairwise_similarity
from unmemorize.detection._calibration import Calibration
from unmemorize.detection._conformal import conformal_quantile
from unmemorize.engines import Execution, Shard

SETTINGS = NoiseSettings(seeds=4)


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


def test_both_reductions_against_numpy(pipe: DiffusionPipeline) -> None:
    values = pairs(pipe)
    over_pairs = calibrate_threshold(pipe, PROMPTS, settings=SETTINGS)
    assert over_pairs.tau == pytest.approx(values.mean() + values.std(ddof=1), abs=1e-6)
    over_prompts = calibrate_threshold(
        pipe,
        PROMPTS,
        settings=SETTINGS,
        calibration=Calibration(reduction="prompts", deviations=2),
    )
    highest = values.max(1)
    assert over_prompts.tau == pytest.approx(highest.mean() + 2 * highest.std(ddof=1), abs=1e-6)
    assert over_prompts.highest == pytest.approx(tuple(highest), abs=1e-6)
    means = values.mean(1)
    assert over_pairs.tau_seeds == pytest.approx(means.mean() + 2 * means.std(ddof=1), abs=1e-6)
    assert (over_pairs.kernel, over_pairs.reduction, over_prompts.reduction) == (
        3,
        "pairs",
        "prompts",
    )


def test_file_round_trip(pipe: DiffusionPipeline, tmp_path: Path) -> None:
    threshold = calibrate_threshold(pipe, PROMPTS, settings=SETTINGS)
    threshold.save(tmp_path / "t.json")
    assert Threshold.load(tmp_path / "t.json") == threshold


def test_other_models_and_settings_are_refused(pipe: DiffusionPipeline) -> None:
    threshold = calibrate_threshold(pipe, PROMPTS, settings=SETTINGS)
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
    with pytest.raises(ThresholdError, match="reduction 'mean'"):
        Calibration(reduction="mean")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema": 1}, "not a threshold file"),
        ({"tau": "high"}, "malformed"),
        ({"tau": 1e999}, "not a valid"),
        ({"cascade": {"order": [0, 1], "stops": []}}, "none over 4 seeds"),
        ({"settings": {"seeds": 1}}, "malformed"),
        ({"extra": 1}, "malformed"),
    ],
)
def test_malformed_files_are_refused(
    pipe: DiffusionPipeline, tmp_path: Path, change: dict[str, object], message: str
) -> None:
    path = tmp_path / "t.json"
    calibrate_threshold(pipe, PROMPTS, settings=SETTINGS).save(path)
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
    assert threshold.tau == sorted(threshold.highest)[5]
    assert (threshold.reduction, threshold.max_fpr, threshold.deviations) == ("conformal", 0.2, 0.0)
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


def test_a_threshold_from_elsewhere(pipe: DiffusionPipeline, tmp_path: Path) -> None:
    threshold = Threshold.given(pipe, 0.428)
    published = NoiseSettings(protocol="published", similarity="published")
    assert threshold.settings == NoiseSettings.published() == published
    threshold.check(Model(pipe), published)
    assert threshold.of_criterion("unblocked") == 0.428
    with pytest.raises(ThresholdError, match='no value for the criterion "seeds"'):
        threshold.of_criterion("seeds")
    threshold.save(tmp_path / "t.json")
    assert Threshold.load(tmp_path / "t.json") == threshold
    with pytest.raises(ThresholdError, match="tau=42"):
        Threshold.given(pipe, 42)
    with pytest.raises(ThresholdError, match="no standard deviation to move by"):
        threshold.shifted(1)


def test_shifting_by_standard_deviations(pipe: DiffusionPipeline) -> None:
    one = calibrate_threshold(pipe, PROMPTS, settings=SETTINGS)
    three = calibrate_threshold(
        pipe, PROMPTS, settings=SETTINGS, calibration=Calibration(deviations=3)
    )
    assert one.shifted(2).tau == pytest.approx(three.tau)
    assert one.shifted(2).deviations == 3
    assert one.tau_seeds is not None
    assert one.shifted(-1).tau_seeds == pytest.approx(one.tau_seeds - np.std(one.means, ddof=1))


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


def test_files_that_do_not_name_their_similarity_are_refused(
    pipe: DiffusionPipeline, tmp_path: Path
) -> None:
    """Those of the first edition belong to the similarity of an installed library."""
    path = tmp_path / "t.json"
    calibrate_threshold(pipe, PROMPTS, settings=SETTINGS).save(path)
    content = json.loads(path.read_text())
    del content["settings"]["similarity"]
    path.write_text(json.dumps(content))
    with pytest.raises(ThresholdError, match="does not say which similarity it belongs to"):
        Threshold.load(path)
    path.write_text(json.dumps({**content, "schema": "unmemorize.threshold/1"}))
    with pytest.raises(ThresholdError, match="Make it with: unmemorize threshold"):
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
            settings=SETTINGS,
            folder=tmp_path / "run",
            execution=Execution(progress=stop),
        )
    before = len(calls)
    resumed = calibrate_threshold(model, PROMPTS, settings=SETTINGS, folder=tmp_path / "run")
    assert len(calls) - before == len(PROMPTS) - 3
    handle.remove()
    assert resumed == calibrate_threshold(model, PROMPTS, settings=SETTINGS)


def test_a_calibration_is_of_all_its_prompts(pipe: DiffusionPipeline, tmp_path: Path) -> None:
    with pytest.raises(ThresholdError, match="a shard of them is not enough"):
        calibrate_threshold(pipe, PROMPTS, execution=Execution(shard=Shard(1, 2)))
    calibrate_threshold(pipe, PROMPTS, settings=SETTINGS, folder=tmp_path / "run")
    with pytest.raises(
        RunError, match=r"noise.seeds = 4, now it is 3\. .* or delete .*run to start"
    ):
        calibrate_threshold(pipe, PROMPTS, settings=NoiseSettings(seeds=3), folder=tmp_path / "run")


def test_a_threshold_of_another_detector_localizes_nothing(pipe: DiffusionPipeline) -> None:
    threshold = calibrate_threshold(pipe, PROMPTS, settings=SETTINGS, detector="noise-magnitude")
    assert (threshold.tau_seeds, threshold.means, threshold.cascade) == (None, (), None)
    with pytest.raises(ThresholdError, match="says nothing about similarities"):
        threshold.of_criterion("unblocked")
    with pytest.raises(ThresholdError, match="says nothing about when a cascade"):
        detect(pipe, "x", threshold=threshold, cascade=True)
    with pytest.raises(ThresholdError, match="'magnitude': nothing of this name"):
        calibrate_threshold(pipe, PROMPTS, detector="magnitude")


@pytest.mark.parametrize("rate", [0.0, 1.0, -0.1])
def test_a_rate_lies_strictly_between_0_and_1(rate: float) -> None:
    with pytest.raises(ThresholdError, match="a rate lies between"):
        conformal_quantile([0.1, 0.2, 0.3], rate)


@pytest.mark.parametrize("tau", [0.0, 1.0, 1.5])
def test_a_given_tau_is_a_similarity(pipe: DiffusionPipeline, tau: float) -> None:
    with pytest.raises(ThresholdError, match=r"The paper's .* is 0\.428"):
        Threshold.given(pipe, tau)


def test_what_a_given_threshold_says_of_itself(pipe: DiffusionPipeline) -> None:
    given = Threshold.given(pipe, 0.3, SETTINGS)
    assert (given.mean, given.std, given.deviations, given.prompts) == (0.3, 0.0, 0.0, "")
    assert (given.reduction, given.kernel, given.tau_seeds) == ("given", 3, None)
    assert (given.highest, given.means, given.cascade) == ((), (), None)


def test_only_means_and_deviations_can_be_shifted(pipe: DiffusionPipeline) -> None:
    over_prompts = Calibration(reduction="prompts")
    threshold = calibrate_threshold(pipe, PROMPTS, settings=SETTINGS, calibration=over_prompts)
    assert threshold.cascade is not None
    shifted = threshold.shifted(1)
    assert shifted.tau == pytest.approx(threshold.tau + threshold.std)
    assert shifted.cascade is None
    bound = Calibration(max_fpr=0.2)
    conformal = calibrate_threshold(pipe, PROMPTS, settings=SETTINGS, calibration=bound)
    with pytest.raises(ThresholdError, match="a conformal threshold has no standard deviation"):
        conformal.shifted(1)


@pytest.mark.parametrize("name", ["tau", "mean", "std", "tau_seeds"])
def test_the_number_that_is_not_finite_is_named(pipe: DiffusionPipeline, name: str) -> None:
    threshold = calibrate_threshold(pipe, PROMPTS, settings=SETTINGS)
    changes: dict[str, Any] = {name: float("nan")}
    with pytest.raises(ThresholdError, match=rf"^{name}=nan: must be a finite number"):
        replace(threshold, **changes)
