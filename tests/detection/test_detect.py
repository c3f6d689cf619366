from dataclasses import replace

import pytest
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
from unmemorize.detection import detect_prompts
from unmemorize.detection._cascade import Cascade

GIVEN = [Prompt(text) for text in (*PROMPTS[:3], PLANTED_PROMPT, "c word")]


@pytest.fixture
def threshold(planted: DiffusionPipeline) -> Threshold:
    return calibrate_threshold(planted, PROMPTS, deviations=3)


def without_time(detections: list[Detection]) -> list[Detection]:
    return [
        replace(found, seconds=0.0, score=round(found.score, 4), mean=round(found.mean, 4))
        for found in detections
    ]


@pytest.mark.parametrize("batch", [1, 7, 100])
@pytest.mark.parametrize("guidance", [0.0, 3.0])
def test_batches_across_prompts_change_nothing(
    planted: DiffusionPipeline, batch: int, guidance: float
) -> None:
    noise = NoiseSettings(seeds=4, guidance=guidance)
    threshold = calibrate_threshold(planted, PROMPTS, settings=noise)
    alone = [detect(planted, prompt, threshold=threshold) for prompt in GIVEN]
    together = detect_prompts(Model(planted), GIVEN, threshold, noise, batch=batch)
    assert without_time(together) == without_time(alone)
    assert [found.evaluations for found in together] == [4 * noise.samples] * len(GIVEN)


def test_a_cascade_stops_where_few_seeds_tell(
    planted: DiffusionPipeline, threshold: Threshold
) -> None:
    sizes: list[int] = []
    handle = planted.unet.register_forward_pre_hook(
        lambda _module, inputs: sizes.append(len(inputs[0]))
    )
    cascade = Cascade(
        (7, 2, 0, 9, 1, 3, 4, 5, 6, 8), ((2, 0.9 * threshold.tau), (4, 0.95 * threshold.tau))
    )
    far = replace(threshold, cascade=cascade)
    found = detect_prompts(Model(planted), GIVEN, far, far.settings, cascade=True)
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
    whole = detect_prompts(Model(planted), GIVEN, far, far.settings)
    assert {record.seeds for record in whole} == {10}
    assert memorized.score <= whole[3].score
    for record, other in zip(found, whole, strict=True):
        if record.seeds == 10:
            assert record.score == pytest.approx(other.score, abs=1e-4)
            assert record.memorized_seeds == other.memorized_seeds


def test_a_cascade_loses_no_calibration_prompt(planted: DiffusionPipeline) -> None:
    loose = calibrate_threshold(
        planted, PROMPTS, reduction="prompts", deviations=0
    )  # about half of them are called memorized
    called = [score > loose.tau for score in loose.highest]
    assert 0 < sum(called) < len(called)
    found = [detect(planted, text, threshold=loose, cascade=True) for text in PROMPTS]
    assert [record.memorized for record in found] == called
    assert sum(record.seeds for record in found) < 10 * len(found)
    assert loose.shifted(1).cascade is None


def test_a_cascade_needs_a_calibration(planted: DiffusionPipeline, threshold: Threshold) -> None:
    with pytest.raises(ThresholdError, match="says nothing about when a cascade may stop"):
        detect(planted, "x", threshold=threshold.shifted(1), cascade=True)
