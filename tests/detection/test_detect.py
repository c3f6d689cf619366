import json
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline

from conftest import PLANTED_PROMPT, PROMPTS
from unmemorize import (
    Detection,
    Model,
    NoiseSettings,
    Prompt,
    Threshold,
    ThresholdError,
    calibrate_threshold,
    detect,
)
from unmemorize.detection import (
    DetectionRun,
    Score,
    detect_all,
    detect_prompts,
    detection_of,
    make_probe,
    noise_differences,
    pairwise_similarity,
    published_similarity,
    read_detections,
)
from unmemorize.detection._calibration import Calibration
from unmemorize.detection._cascade import Cascade
from unmemorize.runs import open_run

GIVEN = [Prompt(text) for text in (*PROMPTS[:3], PLANTED_PROMPT, "c word")]


@pytest.fixture
def threshold(planted: DiffusionPipeline) -> Threshold:
    return calibrate_threshold(
        planted, PROMPTS, detector="seed-similarity", calibration=Calibration(deviations=3)
    )


def without_numbers(detections: list[Detection]) -> list[Detection]:
    return [replace(found, seconds=0.0, score=0.0, mean=None) for found in detections]


def numbers(detections: list[Detection]) -> list[float]:
    return [number for found in detections for number in (found.score, found.mean or 0.0)]


@pytest.mark.parametrize("guidance", [0.0, 3.0])
def test_batches_across_prompts_change_nothing(planted: DiffusionPipeline, guidance: float) -> None:
    noise = NoiseSettings(seeds=4, guidance=guidance)
    threshold = calibrate_threshold(planted, PROMPTS, detector="seed-similarity", settings=noise)
    # the level is the score of one of these prompts, and batches round differently
    level = replace(threshold.detect, tau=1.01 * threshold.detect.tau)
    threshold = replace(threshold, detect=level)
    alone = [detect(planted, prompt, threshold=threshold, stop="never") for prompt in GIVEN]
    for batch in (1, 7, 100):
        model = Model(planted)
        together = detect_prompts(model, GIVEN, threshold, noise, stop="never", batch=batch)
        assert without_numbers(together) == without_numbers(alone), batch
        assert numbers(together) == pytest.approx(numbers(alone), abs=1e-4), batch
        spent = {(found.evaluations, found.shared_evaluations) for found in together}
        assert spent == {(4, 4 if guidance else 0)}


def test_a_cascade_stops_where_few_seeds_tell(
    planted: DiffusionPipeline, threshold: Threshold
) -> None:
    sizes: list[int] = []
    handle = planted.unet.register_forward_pre_hook(
        lambda _module, inputs: sizes.append(len(inputs[0]))
    )
    cascade = Cascade(
        (7, 2, 0, 9, 1, 3, 4, 5, 6, 8),
        ((2, 0.9 * threshold.detect.tau), (4, 0.95 * threshold.detect.tau)),
    )
    far = replace(threshold, detect=replace(threshold.detect, cascade=cascade))
    found = detect_prompts(Model(planted), GIVEN, far, far.settings)
    handle.remove()
    memorized = found[3]
    assert (memorized.memorized, memorized.seeds, memorized.memorized_seeds) == (True, 2, (2, 7))
    assert [record.memorized for record in found] == [False, False, False, True, False]
    assert {record.seeds for record in found} <= {2, 4, 10}
    assert (
        sum(sizes)
        == sum(record.evaluations for record in found)
        == sum(record.seeds for record in found)
    )
    stopped = [record.seeds for record in found if not record.memorized]
    assert min(stopped) < 10, "no unmemorized prompt was stopped early"
    cleared = detect_prompts(Model(planted), GIVEN, far, far.settings, stop="cleared")
    whole = detect_prompts(Model(planted), GIVEN, far, far.settings, stop="never")
    assert [record.seeds for record in cleared] == [
        10 if record.memorized else record.seeds for record in found
    ]
    assert cleared[3].score == pytest.approx(whole[3].score, abs=1e-4)
    assert {record.seeds for record in whole} == {10}
    assert memorized.score <= whole[3].score
    for record, other in zip(found, whole, strict=True):
        if record.seeds == 10:
            assert record.score == pytest.approx(other.score, abs=1e-4)
            assert record.memorized_seeds == other.memorized_seeds


def test_a_cascade_loses_no_calibration_prompt(planted: DiffusionPipeline) -> None:
    # a tau at the mean calls about half of the prompts memorized
    middle = Calibration(reduction="prompts", deviations=0)
    loose = calibrate_threshold(planted, PROMPTS, detector="seed-similarity", calibration=middle)
    called = [score > loose.detect.tau for score in loose.detect.scores]
    assert 0 < sum(called) < len(called)
    found = [detect(planted, text, threshold=loose) for text in PROMPTS]
    later = slice(max(1, len(PROMPTS) // 5), None)  # the first ones choose the order of seeds
    assert [record.memorized for record in found][later] == called[later]
    assert sum(record.seeds for record in found) < 10 * len(found)


def test_all_seeds_are_looked_at_where_the_threshold_has_no_cascade(
    planted: DiffusionPipeline, threshold: Threshold
) -> None:
    without = replace(threshold, detect=replace(threshold.detect, cascade=None))
    assert detect(planted, "x", threshold=without).seeds == 10


def test_published_values_compare_the_seeds_of_one_prompt_in_one_call(
    planted: DiffusionPipeline,
) -> None:
    model, settings = Model(planted), NoiseSettings.published()
    calibrated = calibrate_threshold(
        model,
        PROMPTS,
        detector="seed-similarity",
        settings=settings,
        calibration=Calibration.published(),
    )
    rows, columns = torch.triu_indices(10, 10, 1)
    expected = []
    for text in PROMPTS:
        images = noise_differences(model, make_probe(model, model.encode([text]), settings))
        expected.append(published_similarity(images[rows], images[columns]))
    pairs = torch.stack(expected).double()
    assert (
        calibrated.detect.tau
        == calibrated.localize.tau
        == pytest.approx(float(pairs.mean() + pairs.std()), abs=1e-5)
    )
    assert calibrated.detect.scores == pytest.approx(pairs.amax(1).tolist(), abs=1e-5)
    assert (calibrated.detect.reduction, calibrated.settings, calibrated.detect.cascade) == (
        "pairs",
        settings,
        None,
    )
    prompts = [Prompt(text) for text in PROMPTS]
    found = detect_prompts(model, prompts, calibrated, settings, batch=7)
    assert [record.score for record in found] == pytest.approx(pairs.amax(1).tolist(), abs=1e-5)
    assert [record.similarity for record in found] == ["published"] * 6
    fixed = calibrate_threshold(model, PROMPTS, detector="seed-similarity")
    assert abs(fixed.detect.scores[0] - calibrated.detect.scores[0]) > 1e-3


def test_published_values_have_no_cascade(planted: DiffusionPipeline, threshold: Threshold) -> None:
    published = Threshold.given(planted, 0.428)
    assert detect(planted, "x", threshold=published).seeds == 10
    assert threshold.detect.cascade is not None
    with pytest.raises(ThresholdError, match="similarity=published: it has no cascade"):
        replace(published, detect=replace(published.detect, cascade=threshold.detect.cascade))


def test_thresholds_of_the_two_similarities_are_not_exchanged(
    planted: DiffusionPipeline, threshold: Threshold
) -> None:
    with pytest.raises(ThresholdError, match="similarity=fixed, but this run has similarity=publ"):
        detect(planted, "x", threshold=threshold, settings=NoiseSettings.published())
    with pytest.raises(ThresholdError, match="similarity=published, but this run has similarity=f"):
        detect(planted, "x", threshold=Threshold.given(planted, 0.4), settings=NoiseSettings())


def test_the_record_of_a_prompt(planted: DiffusionPipeline, threshold: Threshold) -> None:
    prompt = Prompt(PLANTED_PROMPT, "VM", group="zebras")
    record = detect(planted, prompt, threshold=threshold, stop="never")
    model = Model(planted)
    probe = make_probe(model, model.encode([PLANTED_PROMPT]), threshold.settings)
    matrix = pairwise_similarity(noise_differences(model, probe)).double().numpy()
    np.fill_diagonal(matrix, -1.0)
    above = (matrix.max(1) > threshold.detect.tau).nonzero()[0]
    assert (record.prompt, record.group) == (PLANTED_PROMPT, "zebras")
    assert record.memorized
    assert record.memorized_seeds == tuple(above.tolist())
    assert len(above) > 0
    assert record.score == pytest.approx(matrix.max(), abs=1e-6)
    assert record.mean == pytest.approx(matrix[np.triu_indices(10, 1)].mean(), abs=1e-6)
    assert (record.detector, record.tau) == ("seed-similarity", threshold.detect.tau)


def test_seeds_above_tau_are_named_by_their_numbers() -> None:
    """Only the similarity of seeds 5 and 2 is above tau, and they are looked at in that order."""
    score = Score(value=0.9, samples=3, seeds=(5, 7, 2), pairs=(0.1, 0.9, 0.2))
    record = detection_of(Prompt("x"), score, 0.5, 1.0)
    assert record.memorized_seeds == (2, 5)
    at_tau = detection_of(Prompt("x"), score, 0.9, 1.0)
    assert (at_tau.memorized, at_tau.memorized_seeds) == (False, ())


def test_detections_of_a_run_say_what_is_memorized(
    planted: DiffusionPipeline, threshold: Threshold, tmp_path: Path
) -> None:
    model = Model(planted)
    run = open_run(tmp_path / "run", model, GIVEN, DetectionRun.of(threshold))
    detect_all(run, model, threshold, batch=7)
    lines = (tmp_path / "run" / "detections.jsonl").read_text().splitlines()
    assert [json.loads(line)["memorized"] for line in lines] == [False, False, False, True, False]
    assert [record.memorized for _, _, record in read_detections(run)] == [
        False,
        False,
        False,
        True,
        False,
    ]


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_derivatives_are_taken_whatever_the_caller_has_switched_off(
    pipe: DiffusionPipeline, mode: Callable[[], AbstractContextManager[None]]
) -> None:
    settings = NoiseSettings(seeds=2)
    threshold = calibrate_threshold(
        pipe, PROMPTS[:2], detector="hessian-difference", settings=settings
    )
    expected = detect(pipe, "a cat", threshold=threshold)
    with mode():
        found = detect(pipe, "a cat", threshold=threshold)
    assert found.score == pytest.approx(expected.score, rel=1e-6)
