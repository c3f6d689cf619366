import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline

from conftest import PLANTED_PROMPT, PROMPTS
from traced import GUIDANCE, counted, guided_run, noise, norm, outputs
from unmemorize import Model, NoiseSettings, calibrate_threshold, detect
from unmemorize.detection import (
    DETECTORS,
    Detector,
    LateNoiseMagnitude,
    Moment,
    NoiseMagnitude,
    SeedSimilarity,
    Trace,
)

SETTINGS = NoiseSettings(seeds=3, seed=5)
TEXTS = ["zebra quartz", "prompt one", "a b c"]


@torch.no_grad()
def norms(pipe: DiffusionPipeline, text: str, timestep: int) -> list[float]:
    with_text, without = (
        outputs(pipe, prompt, noise(3), timestep).double().numpy() for prompt in (text, "")
    )
    return [norm(difference) for difference in with_text - without]


@pytest.mark.parametrize(
    ("detector", "timestep"),
    [
        (NoiseMagnitude(seeds=3), 981),
        (LateNoiseMagnitude(seeds=3), 281),
        (LateNoiseMagnitude(seeds=3, step=10), 781),
        (LateNoiseMagnitude(seeds=3, step=1, steps=10), 801),
    ],
)
def test_against_its_formula(pipe: DiffusionPipeline, detector: Detector, timestep: int) -> None:
    scores = detector.score(Trace(Model(pipe), TEXTS, SETTINGS))
    for score, text in zip(scores, TEXTS, strict=True):
        assert score.value == pytest.approx(np.mean(norms(pipe, text, timestep)), rel=1e-4)
        assert (score.samples, score.shared, score.seeds, score.pairs) == (3, 3, (0, 1, 2), ())


def test_the_mean_over_steps_is_that_along_a_guided_run(pipe: DiffusionPipeline) -> None:
    values = [[norm(row) for row in step.change] for step in guided_run(pipe, TEXTS[0], 5)]
    for first in (1, 3, 5):
        detector = NoiseMagnitude(seeds=2, first=first, steps=5, guidance=GUIDANCE)
        (score,) = detector.score(Trace(Model(pipe), TEXTS[:1], SETTINGS))
        assert score.value == pytest.approx(np.mean(values[:first]), rel=1e-4)
        assert (score.samples, score.shared) == (2 * (2 * first - 1), 2)


@pytest.mark.parametrize("similarity_first", [True, False])
def test_detectors_share_a_trace(pipe: DiffusionPipeline, similarity_first: bool) -> None:
    detectors: list[Detector] = [SeedSimilarity(), LateNoiseMagnitude(seeds=3, step=1)]
    order = detectors if similarity_first else detectors[::-1]
    trace = Trace(Model(pipe), TEXTS, SETTINGS)
    sizes = counted(pipe)
    together = {detector.name: detector.score(trace) for detector in order}
    assert sum(sizes) == len(TEXTS) * 3 + 3  # the prediction without text once for each seed
    alone = LateNoiseMagnitude(seeds=3, step=1).score(Trace(Model(pipe), TEXTS, SETTINGS))
    assert [score.value for score in together["late-noise-magnitude"]] == pytest.approx(
        [score.value for score in alone], rel=1e-6
    )


def test_predictions_without_text_are_made_once_for_a_model(
    pipe: DiffusionPipeline,
) -> None:
    model, detector, sizes = Model(pipe), LateNoiseMagnitude(seeds=3), counted(pipe)

    def spent(settings: NoiseSettings = SETTINGS) -> int:
        sizes.clear()
        detector.score(Trace(model, TEXTS[1:2], settings))
        return sum(sizes)

    assert [spent(), spent()] == [6, 3]
    assert spent(NoiseSettings(seeds=3, seed=6)) == 6
    with torch.no_grad():
        pipe.unet.conv_out.weight.mul_(1.5)
    assert [spent(), spent()] == [6, 3]
    pipe.unet.mid_block.register_forward_pre_hook(lambda *_: None)
    assert spent() == 6
    (changed,) = detector.score(Trace(model, TEXTS[1:2], SETTINGS))
    assert changed.value == pytest.approx(np.mean(norms(pipe, TEXTS[1], 281)), rel=1e-4)


def test_more_seeds_keep_the_first_ones(pipe: DiffusionPipeline) -> None:
    trace = Trace(Model(pipe), TEXTS[:1], NoiseSettings(seeds=2, seed=5))
    few = trace.samples(2, Moment(0))
    assert torch.equal(trace.samples(7, Moment(0))[:, :2], few)


def test_it_detects_and_is_found_by_name(planted: DiffusionPipeline) -> None:
    assert set(DETECTORS.names()) >= {"noise-magnitude", "seed-similarity"}
    threshold = calibrate_threshold(planted, PROMPTS, settings=SETTINGS, detector="noise-magnitude")
    record = detect(planted, PLANTED_PROMPT, threshold=threshold)
    assert (record.memorized, record.detector) == (True, "noise-magnitude")
    assert (record.seeds, record.memorized_seeds, record.mean) == (4, (), None)
    assert (record.evaluations, record.shared_evaluations) == (4, 4)
    assert not detect(planted, PROMPTS[0], threshold=threshold).memorized
