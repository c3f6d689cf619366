import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline

from conftest import PLANTED_PROMPT, PROMPTS
from unmemorize import Model, NoiseSettings, calibrate_threshold, detect
from unmemorize.detection import DETECTORS, Detector, Trace
from unmemorize.detection._noise_magnitude import NoiseMagnitude
from unmemorize.detection._seed_similarity import SeedSimilarity

SETTINGS = NoiseSettings(seeds=3, seed=5)
TEXTS = ["zebra quartz", "prompt one", "a b c"]


def norms(pipe: DiffusionPipeline, text: str) -> list[float]:
    """Norms of the difference that the text makes, with diffusers and plain loops alone."""
    generator = torch.Generator().manual_seed(5)
    latents = torch.randn((3, 4, 16, 16), generator=generator)
    outputs = []
    for prompt in (text, ""):
        states, _ = pipe.encode_prompt(prompt, "cpu", 1, False)
        with torch.no_grad():
            output = pipe.unet(latents, 961, encoder_hidden_states=states.expand(3, -1, -1)).sample
        outputs.append(output.double().numpy())
    differences = outputs[0] - outputs[1]
    return [float(np.sqrt((difference**2).sum())) for difference in differences]


def test_against_its_formula(pipe: DiffusionPipeline) -> None:
    scores = NoiseMagnitude().score(Trace(Model(pipe), TEXTS, SETTINGS))
    for score, text in zip(scores, TEXTS, strict=True):
        assert score.value == pytest.approx(np.mean(norms(pipe, text)), rel=1e-4)
        assert (score.samples, score.seeds, score.pairs) == (6, (0, 1, 2), ())


def test_the_batch_changes_nothing(pipe: DiffusionPipeline) -> None:
    values = [
        [
            score.value
            for score in NoiseMagnitude().score(Trace(Model(pipe), TEXTS, SETTINGS, batch=b))
        ]
        for b in (1, 4, 100)
    ]
    assert values[1] == pytest.approx(values[0], rel=1e-4)
    assert values[2] == pytest.approx(values[0], rel=1e-4)


@pytest.mark.parametrize("similarity_first", [True, False])
def test_detectors_share_a_trace(pipe: DiffusionPipeline, similarity_first: bool) -> None:
    sizes: list[int] = []
    trace = Trace(Model(pipe), TEXTS, SETTINGS)
    handle = pipe.unet.register_forward_pre_hook(
        lambda _module, inputs: sizes.append(len(inputs[0]))
    )
    detectors: list[Detector] = [SeedSimilarity(), NoiseMagnitude()]
    order = detectors if similarity_first else detectors[::-1]
    together = {detector.name: detector.score(trace) for detector in order}
    handle.remove()
    assert sum(sizes) == len(TEXTS) * 3 + 3  # the prediction without text once for each seed
    alone = NoiseMagnitude().score(Trace(Model(pipe), TEXTS, SETTINGS))
    assert [score.value for score in together["noise-magnitude"]] == pytest.approx(
        [score.value for score in alone], rel=1e-6
    )


def test_it_detects_and_is_found_by_name(planted: DiffusionPipeline) -> None:
    assert set(DETECTORS.names()) >= {"noise-magnitude", "seed-similarity"}
    threshold = calibrate_threshold(planted, PROMPTS, settings=SETTINGS, detector="noise-magnitude")
    record = detect(planted, PLANTED_PROMPT, threshold=threshold)
    assert (record.memorized, record.detector) == (True, "noise-magnitude")
    assert (record.seeds, record.memorized_seeds, record.mean) == (3, (), None)
    assert not detect(planted, PROMPTS[0], threshold=threshold).memorized
