"""Each detector against its formula, written out with diffusers, numpy and loops."""

from functools import partial
from typing import Any, cast

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DiffusionPipeline

from conftest import make_pipeline
from traced import (
    GUIDANCE,
    SEED,
    counted,
    guided_run,
    noise,
    norm,
    outputs,
    probabilities,
    variance,
)
from unmemorize import Model, ModelError, NoiseSettings, ThresholdError, memorized_region
from unmemorize.detection import (
    Anisotropy,
    AttentionEntropy,
    BrightEnding,
    ConsecutiveDifference,
    Curvature,
    Detector,
    HessianDifference,
    LateNoiseMagnitude,
    LayerEntropy,
    Moment,
    NoiseMagnitude,
    Score,
    ScoreDifference,
    Sharpness,
    Trace,
    WhiteBox,
    watched_by,
)
from unmemorize.detection._region_maps import random_signs

TEXT, SETTINGS = "zebra quartz", NoiseSettings(seeds=2, seed=SEED)
FIRST = 981
RUN: dict[str, Any] = {"steps": 4, "guidance": GUIDANCE}

ALL: list[Detector] = [
    Anisotropy(seeds=2),
    AttentionEntropy(last=2, **RUN),
    BrightEnding(**RUN),
    ConsecutiveDifference(seeds=2, **RUN),
    Curvature(vectors=2, **RUN),
    HessianDifference(),
    LateNoiseMagnitude(seeds=2),
    LayerEntropy(seeds=2),
    NoiseMagnitude(seeds=2, first=3, **RUN),
    ScoreDifference(**RUN),
    Sharpness(),
    WhiteBox(seeds=2),
]


PUBLISHED: dict[type[Any], dict[str, Any]] = {
    Anisotropy: {"seeds": 4, "late": -3, "weights": (1.0, 1.0)},
    AttentionEntropy: {"seeds": 1, "last": 10, "guidance": 7.5},
    BrightEnding: {"seeds": 1, "guidance": 7.5},
    ConsecutiveDifference: {"seeds": 4, "step": 0, "guidance": 7.5},
    Curvature: {"seeds": 1, "vectors": 16, "guidance": 7.5},
    HessianDifference: {"seeds": 1},
    LateNoiseMagnitude: {"seeds": 2, "step": 35},
    LayerEntropy: {"seeds": 4, "layer": 3},
    NoiseMagnitude: {"seeds": 4, "first": 1, "guidance": 7.5},
    ScoreDifference: {"seeds": 1, "guidance": 7.5},
    Sharpness: {"seeds": 1},
    WhiteBox: {"seeds": 4, "guidance": 7.5},
}
"""What detectors look at by default, all of them along runs of 50 steps. Step 35 is ours."""


@pytest.mark.parametrize("detector", PUBLISHED, ids=lambda detector: detector.name)
def test_defaults_are_those_of_the_papers(detector: type[Any]) -> None:
    made, expected = detector(), {"steps": 50, **PUBLISHED[detector]}
    assert {name: getattr(made, name) for name in expected} == expected


def scored(pipe: DiffusionPipeline, detector: Detector) -> Score:
    (score,) = detector.score(Trace(Model(pipe), [TEXT], SETTINGS))
    return score


@torch.no_grad()
def at_first(pipe: DiffusionPipeline, text: str, timestep: int = FIRST) -> np.ndarray:
    array: np.ndarray = outputs(pipe, text, noise(2), timestep).double().numpy()
    return array


@pytest.mark.parametrize("step", [0, 1])
def test_dsm(pipe: DiffusionPipeline, step: int) -> None:
    run = guided_run(pipe, TEXT, 4)
    change = run[step + 1].with_text - run[step].with_text
    detector = ConsecutiveDifference(seeds=2, step=step, **RUN)
    expected = np.mean([norm(row) ** 2 for row in change])
    assert scored(pipe, detector).value == pytest.approx(expected, rel=1e-3)


def test_white_box(pipe: DiffusionPipeline) -> None:
    without = at_first(pipe, "")
    guided = without + 7.5 * (at_first(pipe, TEXT) - without)
    noisy = variance(pipe, FIRST)
    expected = noisy / (1 - noisy) * np.mean(guided**2)
    assert scored(pipe, WhiteBox(seeds=2)).value == pytest.approx(expected, rel=1e-4)


def cosines(pipe: DiffusionPipeline) -> list[float]:
    """Of the prediction without text and its change, pixel by pixel, at the third step from last"""
    without, with_text = at_first(pipe, "", 41), at_first(pipe, TEXT, 41)
    values = []
    for seed in range(2):
        for row in range(16):
            for column in range(16):
                one = without[seed, :, row, column]
                other = with_text[seed, :, row, column] - one
                values.append(float(one @ other) / (norm(one) * norm(other)))
    return values


def test_anisotropy(pipe: DiffusionPipeline) -> None:
    change = at_first(pipe, TEXT) - at_first(pipe, "")
    parts = (np.mean([norm(row) for row in change]), np.mean(cosines(pipe)))
    score = scored(pipe, Anisotropy(seeds=2, weights=(1.0, 2.0)))
    assert score.parts == pytest.approx(parts, rel=1e-3)
    assert score.value == pytest.approx(parts[0] + 2 * parts[1], rel=1e-3)


def test_anisotropy_adds_up_standard_deviations() -> None:
    parts = [(1.0, 10.0), (2.0, 30.0), (3.0, 20.0)]
    fitted = Anisotropy().fitted(parts)
    assert (fitted.means, fitted.deviations) == ((2.0, 20.0), (1.0, 10.0))
    assert fitted.weigh((5.0, 0.0)) == pytest.approx(3.0 - 2.0)
    assert Anisotropy(weights=(2.0, 1.0)).fitted(parts).weigh((5.0, 0.0)) == pytest.approx(4.0)


def entropy(shares: np.ndarray) -> float:
    return -sum(float(share * np.log(share)) for share in shares if share > 0)


@pytest.mark.parametrize(("layer", "path"), [(1, "down_blocks.1"), (99, "up_blocks.1")])
def test_layer_entropy(pipe: DiffusionPipeline, layer: int, path: str) -> None:
    slow = make_pipeline()
    with probabilities(slow) as seen:
        at_first(slow, TEXT)
    rows = next(value for name, value in reversed(seen.items()) if name.startswith(path))
    expected = np.mean([entropy(row.mean(0)) for row in rows])
    assert scored(pipe, LayerEntropy(seeds=2, layer=layer)).value == pytest.approx(
        expected, rel=1e-5
    )


def attention_along(text: str, steps: int) -> list[dict[str, np.ndarray]]:
    """Attention with text at each step of a guided run, for one seed."""
    slow, records = make_pipeline(), []
    run = guided_run(make_pipeline(), text, steps, seeds=1)
    with probabilities(slow) as seen, torch.no_grad():
        for step in run:
            outputs(slow, text, torch.from_numpy(step.sample).float(), step.timestep)
            records.append({name: value[0] for name, value in seen.items()})
    return records


END = 12  # after the begin token and one token for each of the 11 letters


def test_attention_entropy(pipe: DiffusionPipeline) -> None:
    shares = [
        np.mean([layer.mean(0) for layer in step.values()], axis=0)
        for step in attention_along(TEXT, 4)
    ]
    grown = np.mean([entropy(share[END:]) for share in shares[2:]]) - entropy(shares[0][END:])
    expected = np.mean([entropy(share) for share in shares[2:]]) + grown
    assert scored(pipe, AttentionEntropy(last=2, **RUN)).value == pytest.approx(expected, rel=1e-4)


def test_bright_ending(pipe: DiffusionPipeline) -> None:
    last = attention_along(TEXT, 4)[-1]
    columns = [layer[:, END] for name, layer in last.items() if "down_blocks.0" in name]
    mask = np.mean(columns, axis=0).reshape(16, 16)
    run = guided_run(pipe, TEXT, 4, seeds=1)
    expected = np.mean([norm(step.change[0] * mask) / mask.mean() for step in run])
    detector = BrightEnding(**RUN)
    assert scored(pipe, detector).value == pytest.approx(expected, rel=1e-3)
    region = memorized_region(pipe, TEXT, detector=detector, settings=SETTINGS)
    np.testing.assert_allclose(region, mask, rtol=1e-3)


def products(
    pipe: DiffusionPipeline, text: str, vector: torch.Tensor, timestep: int = FIRST
) -> np.ndarray:
    """The Jacobian times a vector, by finite differences in float64."""
    latents, width = noise(1).double(), 1e-5
    with torch.no_grad():
        above, below = (
            outputs(pipe, text, latents + side * width * vector, timestep) for side in (1, -1)
        )
    array: np.ndarray = ((above - below) / (2 * width)).numpy()
    return array


def test_sharpness(pipe: DiffusionPipeline) -> None:
    exact = make_pipeline()
    exact.unet.double()
    latents = noise(1).double()
    with torch.no_grad():
        change = outputs(exact, TEXT, latents, FIRST) - outputs(exact, "", latents, FIRST)
    difference = products(exact, TEXT, change) - products(exact, "", change)
    expected = norm(difference) / variance(pipe, FIRST)
    assert scored(pipe, Sharpness()).value == pytest.approx(expected, rel=1e-3)


def gradient(pipe: DiffusionPipeline, text: str, timestep: int = FIRST) -> np.ndarray:
    latents = noise(1).requires_grad_()
    (outputs(pipe, text, latents, timestep) ** 2).sum().mul(0.5).backward()
    assert latents.grad is not None
    array: np.ndarray = latents.grad.double().numpy()
    return array


def test_hessian_difference(pipe: DiffusionPipeline) -> None:
    expected = norm(gradient(pipe, TEXT) - gradient(pipe, "")) ** 2
    assert scored(pipe, HessianDifference()).value == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("prediction", ["v_prediction", "sample"])
def test_first_steps_without_signal(prediction: str) -> None:
    """There the noise is the sample, and only the clean image, -v or the output, is predicted."""
    pipe, exact = make_pipeline(), make_pipeline()
    for each in (pipe, exact):
        each.scheduler = DDIMScheduler(
            rescale_betas_zero_snr=True, timestep_spacing="trailing", prediction_type=prediction
        )
    exact.unet.double()
    latents, timestep = noise(1).double(), 999
    with torch.no_grad():
        change = outputs(exact, TEXT, latents, timestep) - outputs(exact, "", latents, timestep)
    difference = products(exact, TEXT, change, timestep) - products(exact, "", change, timestep)
    assert scored(pipe, Sharpness()).value == pytest.approx(norm(difference), rel=1e-3)
    expected = norm(gradient(pipe, TEXT, timestep) - gradient(pipe, "", timestep)) ** 2
    assert expected > 0
    assert scored(pipe, HessianDifference()).value == pytest.approx(expected, rel=1e-3)


def test_score_difference(pipe: DiffusionPipeline) -> None:
    last = guided_run(pipe, TEXT, 4, seeds=1)[-1]
    expected = (last.change[0] ** 2).sum(0) / variance(pipe, last.timestep)
    detector = ScoreDifference(**RUN)
    assert scored(pipe, detector).value == pytest.approx(expected.mean(), rel=1e-3)
    region = memorized_region(pipe, TEXT, detector=detector, settings=SETTINGS)
    np.testing.assert_allclose(region, expected, rtol=2e-3, atol=1e-6)


def test_curvature(pipe: DiffusionPipeline) -> None:
    last = guided_run(pipe, TEXT, 4, seeds=1)[-1]
    signs = random_signs((4, 16, 16), 3, SEED)
    assert set(signs.flatten().tolist()) == {-1.0, 1.0}
    diagonal = np.zeros((4, 16, 16))
    for vector in signs:
        sample = torch.from_numpy(last.sample).float().requires_grad_()
        change = outputs(pipe, TEXT, sample, last.timestep) - outputs(
            pipe, "", sample, last.timestep
        )
        (-change * vector).sum().backward()
        assert sample.grad is not None
        diagonal += (vector * sample.grad[0]).numpy() / 3
    expected = np.maximum(-diagonal.sum(0), 0)
    assert expected.max() > 0
    score = scored(pipe, Curvature(vectors=3, **RUN))
    assert score.value == pytest.approx(expected.mean(), rel=1e-3)
    assert score.samples == 2 * 4 - 1 + 2 * 3


@pytest.mark.parametrize("detector", ALL, ids=lambda detector: detector.name)
def test_a_batch_changes_nothing(pipe: DiffusionPipeline, detector: Detector) -> None:
    model, texts = Model(pipe), ["prompt one", TEXT, "a b c"]
    together = detector.score(Trace(model, texts, SETTINGS, watched=watched_by(detector)))
    alone = scored(make_pipeline(), detector)
    small = detector.score(Trace(Model(make_pipeline()), texts, SETTINGS, batch=1))
    assert together[1].value == pytest.approx(alone.value, rel=5e-4)
    assert small[1].value == pytest.approx(alone.value, rel=5e-4)
    assert together[0].value != pytest.approx(alone.value, rel=5e-4)


DERIVATIVES = ("curvature", "hessian-difference", "sharpness")
FORWARD = [each for each in ALL if each.name not in DERIVATIVES]


@pytest.mark.parametrize("detector", FORWARD, ids=lambda detector: detector.name)
def test_samples_are_counted(pipe: DiffusionPipeline, detector: Detector) -> None:
    model = Model(pipe)
    trace = Trace(model, [TEXT], SETTINGS, watched=watched_by(detector))
    sizes = counted(pipe)
    (score,) = detector.score(trace)
    assert sum(sizes) == score.samples + score.shared
    again = Trace(model, ["a b c"], SETTINGS, watched=watched_by(detector))
    sizes.clear()
    detector.score(again)
    assert sum(sizes) == score.samples


def test_all_detectors_cost_as_much_as_the_dearest(pipe: DiffusionPipeline) -> None:
    detectors: list[Detector] = [
        NoiseMagnitude(seeds=1, first=4, **RUN),
        ScoreDifference(**RUN),
        ConsecutiveDifference(seeds=1, **RUN),
        AttentionEntropy(last=2, **RUN),
        BrightEnding(**RUN),
    ]
    trace = Trace(Model(pipe), [TEXT], SETTINGS, watched=watched_by(*detectors))
    sizes = counted(pipe)
    for detector in detectors:
        detector.score(trace)
    assert sum(sizes) == 2 * 4


@pytest.mark.parametrize("detector", ALL, ids=lambda detector: detector.name)
def test_nothing_is_left_on_the_pipeline(pipe: DiffusionPipeline, detector: Detector) -> None:
    def state() -> list[object]:
        modules = [
            (name, vars(module).keys(), len(module._forward_hooks), len(module._forward_pre_hooks))
            for name, module in pipe.unet.named_modules()
        ]
        weights = [weight.requires_grad for weight in pipe.unet.parameters()]
        return [modules, weights, pipe.unet.attn_processors, pipe.scheduler]

    before = state()
    scored(pipe, detector)
    assert state() == before


@pytest.mark.parametrize("detector", [HessianDifference(), Curvature(vectors=1, **RUN)])
def test_derivatives_that_overflow_are_refused(pipe: DiffusionPipeline, detector: Detector) -> None:
    """As in half precision, where the predictions themselves are finite."""
    pipe.unet.conv_in.register_full_backward_hook(lambda *call: (call[1][0] * torch.inf,))
    with pytest.raises(ModelError, match=r"a score is (nan|inf).*--dtype float32"):
        scored(pipe, detector)


def test_there_is_no_region_without_maps(pipe: DiffusionPipeline) -> None:
    with pytest.raises(ThresholdError, match="Use one of bright-ending, curvature"):
        memorized_region(pipe, TEXT, detector="dsm")


def test_attention_that_torch_does_not_compute_is_refused(pipe: DiffusionPipeline) -> None:
    pipe.enable_attention_slicing()
    with pytest.raises(ModelError, match="shows no attention probabilities"):
        scored(pipe, LayerEntropy())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Moment(50), "step 50 of 50"),
        (lambda: Moment(0, steps=0), "step 0 of 0"),
        (lambda: NoiseMagnitude(first=51), "step 50 of 50"),
        (lambda: NoiseMagnitude(first=0), "there is none"),
        (lambda: ConsecutiveDifference(step=49), "step 50 of 50"),
        (lambda: ConsecutiveDifference(step=-1), "step=-1: steps are counted from 0"),
        (lambda: LayerEntropy(layer=-1), "layer=-1: layers are counted from 0"),
        (lambda: AttentionEntropy(last=0), "there is none"),
        (lambda: Curvature(vectors=0), "vectors=0"),
        *((partial(cast(Any, type(each)), seeds=0), "seeds=0") for each in ALL),
    ],
)
def test_impossible_settings_are_refused(make: object, message: str) -> None:
    assert callable(make)
    with pytest.raises(ThresholdError, match=message):
        make()
