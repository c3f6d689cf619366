"""A guard over live pipelines: what it measures, what it does on an alarm, what it leaves."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import (
    DDIMScheduler,
    EulerDiscreteScheduler,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionPipeline,
)
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from architectures import make
from conftest import make_pipeline, with_perturbed_attention
from unmemorize import (
    Alarm,
    AlarmError,
    ClosedFormEdit,
    Erased,
    GenerationSettings,
    GuardThreshold,
    Model,
    ModelError,
    NeuronError,
    Neurons,
    ThresholdError,
    calibrate_guard,
    generate,
    guard,
    switched_off,
)
from unmemorize.guarding import _guard, noise_scores, probed_timestep
from unmemorize.pipelines import denoiser_call, run

TEXTS = ["a cat", "zebra quartz"]
STEPS = 2
LAYER = "up_blocks.1.attentions.0.transformer_blocks.0.attn2.to_v"

Images = NDArray[np.float64]


TIMESTEP = 281.0
"""The timestep of step 35 of 50."""


def threshold_of(
    model: Model, tau: float, shape: tuple[int, ...] = (4, 16, 16), timestep: float = TIMESTEP
) -> GuardThreshold:
    """A threshold for the tiny Stable Diffusion."""
    return GuardThreshold(
        tau=tau,
        max_fpr=0.01,
        timestep=timestep,
        shape=shape,
        fingerprint=model.fingerprint,
        prompts="",
    )


def draw(pipe: Any, texts: Sequence[str], **options: Any) -> Images:
    """Images of an ordinary call, (n, H, W, 3), one seed each."""
    generators = [torch.Generator().manual_seed(5 + row) for row in range(len(texts))]
    options = {"guidance_scale": 4.0, "generator": generators, **options}
    images: Images = pipe(
        list(texts), num_inference_steps=STEPS, output_type="np", **options
    ).images
    return images


def noise(row: int) -> Tensor:
    """The initial noise of a row of `draw`."""
    return torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(5 + row))


def denoiser_of(pipe: Any) -> Any:
    return getattr(pipe, "unet", None) or pipe.transformer


@contextmanager
def recorded(pipe: Any) -> Iterator[list[Tensor]]:
    """The outputs of the denoiser, as a hook of this test sees them."""
    outputs: list[Tensor] = []
    handle = denoiser_of(pipe).register_forward_hook(
        lambda *call: outputs.append(call[2][0].clone())
    )
    try:
        yield outputs
    finally:
        handle.remove()


@contextmanager
def received(pipe: Any) -> Iterator[list[tuple[Tensor, float]]]:
    """The samples and the timestep of each call of the denoiser."""
    calls: list[tuple[Tensor, float]] = []

    def note(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        call = denoiser_call(module, args, kwargs)
        calls.append((call.sample.clone(), call.received_time))

    handle = denoiser_of(pipe).register_forward_pre_hook(note, with_kwargs=True)
    try:
        yield calls
    finally:
        handle.remove()


def scores_of(model: Model, texts: Sequence[str], **options: Any) -> list[float]:
    """The scores of a call of `draw`, as a guard reports them."""
    alarms: list[Alarm] = []
    with guard(model, threshold_of(model, -1.0), on_alarm=alarms.append):
        draw(model.pipe, texts, **options)
    return [alarm.score for alarm in alarms]


@pytest.fixture
def model() -> Model:
    return Model(make_pipeline())


@pytest.fixture
def scores(model: Model) -> list[float]:
    scores = scores_of(model, TEXTS)
    assert scores[1] > scores[0] + 0.05
    return scores


def state_of(pipe: StableDiffusionPipeline) -> dict[str, Any]:
    """Everything of a pipeline that a guard touches."""
    return {
        "unet": pipe.unet,
        "scheduler": pipe.scheduler,
        "replaced": sorted(set(vars(pipe.scheduler)) & {"step"}),
        "config": dict(pipe.config),
        "processors": dict(pipe.unet.attn_processors),
        "hooks": [
            (len(module._forward_hooks), len(module._forward_pre_hooks))
            for module in pipe.unet.modules()
        ],
    }


# name -> shape, a later timestep as the denoiser receives it, factor of the change
ARCHITECTURES: Mapping[str, tuple[tuple[int, ...], float, Callable[[Any], float]]] = {
    "Stable Diffusion 2": (
        (4, 16, 16),
        TIMESTEP,
        lambda pipe: math.sqrt(1 - float(pipe.scheduler.alphas_cumprod[281])),
    ),
    "DeepFloyd IF": ((3, 16, 16), 280.0, lambda _: 1.0),
    "Stable Diffusion 3": ((4, 16, 16), 548.0, lambda _: 0.5480),
    "Qwen-Image": ((64, 16), 0.4062, lambda _: 0.4062),
    "HunyuanDiT": (
        (4, 16, 16),
        TIMESTEP,
        lambda pipe: math.sqrt(1 - float(pipe.scheduler.alphas_cumprod[281])),
    ),
}


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_score_of_an_image_is_a_norm_in_plain_numpy(name: str) -> None:
    shape, timestep, factor = ARCHITECTURES[name]
    model = Model(make(name))
    alarms: list[Alarm] = []
    threshold = threshold_of(model, -1.0, shape, timestep)
    with (
        recorded(model.pipe) as outputs,
        received(model.pipe) as inputs,
        guard(model, threshold, on_alarm=alarms.append) as watched,
    ):
        run(model.pipe, TEXTS, 4.0, num_inference_steps=STEPS)
    if name == "Qwen-Image":  # with text, then without: the call's own, then those of the guard
        own, probes = inputs[0], (2, 3)
        change = (outputs[2] - outputs[3]).double().numpy()
    else:
        own, probes = inputs[0], (1, 1)
        assert len(outputs[1]) == 4
        without, with_text = outputs[1][:2], outputs[1][2:]
        change = (with_text - without).double().numpy()[:, : shape[0]]
    for place in probes:
        assert inputs[place][1] == pytest.approx(timestep)
        assert inputs[place][1] < own[1]
        assert torch.equal(inputs[place][0], own[0])  # the same noise
    expected = factor(model.pipe) * np.sqrt((change.reshape(2, -1) ** 2).sum(1))
    assert [alarm.score for alarm in alarms] == pytest.approx(expected, rel=1e-4)
    assert min(expected) > 1e-3
    assert [(alarm.image, alarm.outcome) for alarm in alarms] == [(0, "reported"), (1, "reported")]
    assert (watched.images, watched.alarms) == (2, alarms)


def test_scores_depend_neither_on_other_images_nor_on_the_guidance(
    model: Model, scores: list[float]
) -> None:
    options = {"generator": torch.Generator().manual_seed(6), "guidance_scale": 1.5}
    assert scores_of(model, TEXTS[1:], **options) == pytest.approx(scores[1:], rel=1e-5)


def test_without_an_alarm_nothing_changes(model: Model, scores: list[float]) -> None:
    before, state = draw(model.pipe, TEXTS), state_of(model.pipe)
    with guard(model, threshold_of(model, scores[1])) as watched:  # not above
        assert np.array_equal(draw(model.pipe, TEXTS), before)
        assert np.array_equal(draw(model.pipe, TEXTS), before)
    assert (watched.images, watched.alarms) == (4, [])
    assert state_of(model.pipe) == state


def test_a_call_whose_images_all_raise_an_alarm_ends_in_its_first_step(
    model: Model, scores: list[float]
) -> None:
    state = state_of(model.pipe)
    with (
        pytest.raises(AlarmError, match=r"^2 of 2 images of a call look like copies.*on_alarm"),
        recorded(model.pipe) as calls,
        guard(model, threshold_of(model, 0.1)) as watched,
    ):
        draw(model.pipe, TEXTS)
    assert len(calls) == 2  # its first step, and the guard's look
    assert [alarm.outcome for alarm in watched.alarms] == ["stopped", "stopped"]
    assert [alarm.final_score for alarm in watched.alarms] == pytest.approx(scores)
    assert state_of(model.pipe) == state


def test_a_stopped_image_of_a_batch_is_blank_and_the_others_are_drawn(
    model: Model, scores: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    before, state = draw(model.pipe, TEXTS), state_of(model.pipe)
    with guard(model, threshold_of(model, scores[1] - 0.01)) as watched:
        after = draw(model.pipe, TEXTS)
        assert watched.alarms == [
            Alarm(
                image=1,
                score=watched.alarms[0].score,
                tau=scores[1] - 0.01,
                outcome="stopped",
                final_score=watched.alarms[0].score,
            )
        ]
        again = draw(model.pipe, TEXTS[:1])  # the next call is not that one
    blank = model.pipe.vae.decode(torch.zeros(1, 4, 16, 16)).sample
    expected = model.pipe.image_processor.postprocess(blank, output_type="np")[0]
    assert np.allclose(after[1], expected, atol=1e-6)
    assert np.allclose(after[0], before[0], atol=1e-5)
    assert np.allclose(again[0], before[0], atol=1e-5)
    assert "1 of 2 images of a call look like copies" in caplog.text
    assert "number [1]" in caplog.text
    assert state_of(model.pipe) == state


def signs(attempt: int, rows: int) -> Tensor:
    """The signs of an attempt, (rows, 4, 16, 16)."""
    generator = torch.Generator().manual_seed(attempt)
    return torch.randint(2, (rows, 4, 16, 16), generator=generator) * 2.0 - 1.0


def scheduler_of(kind: type) -> Any:
    options: dict[str, Any] = {"beta_schedule": "scaled_linear", "steps_offset": 1}
    if kind is EulerDiscreteScheduler:  # whose latents are noise times 14
        return kind(timestep_spacing="leading", **options)
    return kind(clip_sample=False, **options)


@pytest.mark.filterwarnings("ignore:__array_:DeprecationWarning")  # of NumPy, in diffusers
@pytest.mark.parametrize("kind", [DDIMScheduler, EulerDiscreteScheduler])
def test_a_redrawn_image_starts_from_the_noise_with_other_signs(model: Model, kind: type) -> None:
    pipe = model.pipe
    pipe.scheduler = scheduler_of(kind)
    model = Model(pipe)
    noises = torch.cat([noise(0), noise(1)])
    first = scores_of(model, TEXTS)
    flips = [torch.ones(4, 16, 16), signs(0, 2)[1]]
    flips += [flips[1] * signs(1, 2)[1], flips[1] * signs(1, 2)[1] * signs(2, 2)[1]]
    tried = [
        scores_of(model, TEXTS[1:], latents=noise(1) * flip, generator=None)[0] for flip in flips
    ]
    assert tried[0] == pytest.approx(first[1], rel=1e-4)
    needed = next(place for place in range(1, 4) if tried[place] < tried[0])
    tau = (tried[0] + tried[needed]) / 2
    assert min(tried[:needed]) > tau > first[0]
    state = state_of(pipe)
    with guard(model, threshold_of(model, tau), on_alarm="redraw") as watched:
        after = draw(pipe, TEXTS)
    redrawn = torch.stack([noises[0], noises[1] * flips[needed]])
    expected = draw(pipe, TEXTS, latents=redrawn, generator=None)
    assert np.allclose(after, expected, atol=1e-4)
    assert not np.allclose(after[1], draw(pipe, TEXTS)[1], atol=1e-2)
    (alarm,) = watched.alarms
    assert (alarm.image, alarm.outcome) == (1, "redrawn")
    assert (alarm.score, alarm.final_score) == pytest.approx((tried[0], tried[needed]), rel=1e-4)
    assert state_of(pipe) == state


def test_an_image_that_stays_above_the_level_is_stopped_after_the_redraws(
    model: Model, scores: list[float]
) -> None:
    with (
        recorded(model.pipe) as calls,
        pytest.raises(AlarmError),
        guard(model, threshold_of(model, 0.01), on_alarm="redraw", redraws=2) as watched,
    ):
        draw(model.pipe, TEXTS)
    assert len(calls) == 2 * 3
    assert [alarm.outcome for alarm in watched.alarms] == ["stopped", "stopped"]
    assert watched.alarms[0].final_score != pytest.approx(scores[0])


def test_neurons_are_off_for_the_image_until_its_call_ends(
    model: Model, scores: list[float]
) -> None:
    neurons = Neurons({path: range(width) for path, width in model.widths.items()})
    before, state = draw(model.pipe, TEXTS), state_of(model.pipe)
    with switched_off(model, neurons):
        off, scores_off = draw(model.pipe, TEXTS), scores_of(model, TEXTS)
    assert scores_off[1] < scores[0]
    tau = (scores[0] + scores[1]) / 2
    with guard(model, threshold_of(model, tau), on_alarm=neurons) as watched:
        after = draw(model.pipe, TEXTS)
        later = draw(model.pipe, TEXTS[:1])
    assert np.allclose(after[1], off[1], atol=1e-5)
    assert not np.allclose(after[1], before[1], atol=1e-4)
    assert np.allclose(after[0], before[0], atol=1e-5)
    assert np.allclose(later[0], before[0], atol=1e-5)
    (alarm,) = watched.alarms
    assert alarm.outcome == "edited"
    assert alarm.final_score == pytest.approx(scores_off[1], abs=1e-5)
    assert state_of(model.pipe) == state
    few = Neurons({LAYER: [0]})
    with pytest.raises(AlarmError), guard(model, threshold_of(model, 0.01), on_alarm=few):
        draw(model.pipe, TEXTS)
    assert state_of(model.pipe) == state


def test_an_edit_that_runs_the_pipeline_to_be_solved_is_solved_before_the_call(
    model: Model,
) -> None:
    edit = ClosedFormEdit((Erased(TEXTS[1]),), keep=(TEXTS[0],))
    with edit.applied(model, [True]):
        expected, changed = draw(model.pipe, TEXTS[1:]), scores_of(model, TEXTS[1:])[0]
    unchanged = scores_of(model, TEXTS[1:])[0]
    assert changed < unchanged
    fresh = Model(model.pipe)  # which has not solved it
    tau = (changed + unchanged) / 2
    with guard(fresh, threshold_of(fresh, tau), on_alarm=edit) as watched:
        after = draw(model.pipe, TEXTS[1:])
    assert [alarm.outcome for alarm in watched.alarms] == ["edited"]
    assert np.allclose(after, expected, atol=1e-5)


def test_a_function_hears_of_the_alarm_and_may_end_the_call(
    model: Model, scores: list[float]
) -> None:
    before, state = draw(model.pipe, TEXTS), state_of(model.pipe)
    heard: list[Alarm] = []
    with guard(model, threshold_of(model, scores[1] - 0.01), on_alarm=heard.append) as watched:
        assert np.array_equal(draw(model.pipe, TEXTS), before)
    assert heard == watched.alarms
    assert [alarm.image for alarm in heard] == [1]

    def refuse(alarm: Alarm) -> None:
        raise KeyError(alarm.image)

    with pytest.raises(KeyError), guard(model, threshold_of(model, 0.1), on_alarm=refuse):
        draw(model.pipe, TEXTS)
    assert state_of(model.pipe) == state


def test_a_call_after_a_stopped_one_is_judged_anew(model: Model, scores: list[float]) -> None:
    neurons = Neurons({LAYER: range(8)})
    before = draw(model.pipe, TEXTS[:1])
    with guard(model, threshold_of(model, scores[0] + 0.01), on_alarm=neurons) as watched:
        generator = torch.Generator().manual_seed(6)
        with pytest.raises(AlarmError):
            draw(model.pipe, TEXTS[1:], generator=generator)
        assert np.array_equal(draw(model.pipe, TEXTS[:1]), before)
    assert (watched.images, [alarm.outcome for alarm in watched.alarms]) == (2, ["stopped"])


def interrupt(*_: Any, **__: Any) -> Any:
    raise KeyboardInterrupt


def end_by_a_callback(pipe: Any, **options: Any) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(pipe, TEXTS, 4.0, callback_on_step_end=interrupt, **options)


def end_in_the_denoiser(pipe: Any, **options: Any) -> None:
    handle = denoiser_of(pipe).register_forward_pre_hook(interrupt)
    try:
        with pytest.raises(KeyboardInterrupt):
            run(pipe, TEXTS, 4.0, **options)
    finally:
        handle.remove()


def test_a_call_after_a_stopped_one_has_its_own_attention(model: Model) -> None:
    """Perturbed-attention guidance puts its processors back at the end of a call alone."""
    pipe = with_perturbed_attention(model.pipe)
    before = draw(pipe, TEXTS, pag_scale=0.0)
    ends = iter([True])

    def end_the_first(_: Alarm) -> None:
        if next(ends, False):
            raise KeyboardInterrupt

    with guard(pipe, threshold_of(Model(pipe), -1.0), on_alarm=end_the_first):
        with pytest.raises(KeyboardInterrupt):
            draw(pipe, TEXTS)
        assert np.array_equal(draw(pipe, TEXTS, pag_scale=0.0), before)


def test_a_call_after_a_stopped_one_is_judged_with_fewer_steps_too(model: Model) -> None:
    """Under leading spacing, fewer steps begin at a lower timestep."""
    assert model.pipe.scheduler.config.timestep_spacing == "leading"
    with guard(model, threshold_of(model, -1.0)) as watched:
        for count, steps in enumerate((10, 8, 5, 4, 5), start=1):
            with pytest.raises(AlarmError):
                run(model.pipe, TEXTS, 4.0, num_inference_steps=steps)
            assert watched.images == 2 * count


@pytest.mark.parametrize("name", ["Stable Diffusion", "Qwen-Image"])
@pytest.mark.parametrize(
    ("end", "judged"),
    [(end_by_a_callback, 2), (end_in_the_denoiser, 0)],
    ids=["callback", "inside"],
)
def test_a_call_after_an_interrupted_one_is_judged_with_fewer_steps_too(
    name: str, end: Callable[..., None], judged: int
) -> None:
    model = Model(make(name))
    timestep = probed_timestep(model)
    (score,) = noise_scores(model, TEXTS[:1], [0], timestep)
    start = {"latents": torch.randn(2, *score.shape, generator=torch.Generator().manual_seed(5))}
    threshold = threshold_of(model, -1.0, score.shape, timestep)
    with guard(model, threshold, on_alarm=lambda _: None) as watched:
        end(model.pipe, num_inference_steps=10, **start)
        assert watched.images == judged
        for count, steps in enumerate((5, 4, 4, 1, 1), start=1):
            run(model.pipe, TEXTS, 4.0, num_inference_steps=steps, **start)
            assert watched.images == judged + 2 * count


def test_a_pipeline_with_a_scheduler_of_its_own_is_watched(model: Model) -> None:
    """It shares the denoiser alone, so its calls leave the timesteps of the other scheduler."""
    own = {"scheduler": scheduler_of(DDIMScheduler), "requires_safety_checker": False}
    sharing = StableDiffusionPipeline(**{**model.pipe.components, **own})
    sharing.set_progress_bar_config(disable=True)
    for steps in (3, 1):
        model.pipe.scheduler.set_timesteps(steps)  # so both begin at the same one
        with guard(model, threshold_of(model, 9.0)) as watched:
            for images in (2, 4):
                run(sharing, TEXTS, 4.0, num_inference_steps=steps)
                assert watched.images == images
            with pytest.raises(ModelError, match="does not begin with pure noise"):
                run(sharing, TEXTS, 4.0, num_inference_steps=2)
            assert watched.images == 4


def test_generate_is_guarded_too(model: Model) -> None:
    settings = GenerationSettings(images=2, steps=STEPS, guidance=4.0)
    alarms: list[Alarm] = []
    with guard(model, threshold_of(model, -1.0), on_alarm=alarms.append) as watched:
        generate(model, TEXTS[0], settings=settings)
    assert (watched.images, [alarm.image for alarm in alarms]) == (2, [0, 1])


def test_a_compiled_denoiser_is_watched(model: Model, scores: list[float]) -> None:
    pipe = model.pipe
    pipe.unet._compiled_call_impl = pipe.unet.forward  # ignores hooks
    assert scores_of(Model(pipe), TEXTS) == scores
    assert pipe.unet._compiled_call_impl == pipe.unet.forward


NEGATIVE = ["ugly quartz", "blurry"]
GUIDED_TOGETHER = (
    "Stable Diffusion",
    "Stable Diffusion XL",
    "DeepFloyd IF",
    "PixArt",
    "Stable Diffusion 3",
    "HunyuanDiT",
    "Sana",
)


@pytest.mark.filterwarnings("ignore:__array_:DeprecationWarning")  # of NumPy, in diffusers
@pytest.mark.parametrize("name", GUIDED_TOGETHER)
def test_a_negative_prompt_changes_no_score(name: str) -> None:
    """The level belongs to the empty prompt, so the guard predicts with that one, too."""
    model = Model(make(name))
    timestep = probed_timestep(model)
    shape = noise_scores(model, TEXTS, [0, 1], timestep)[0].shape
    threshold = threshold_of(model, -1.0, shape, timestep)

    def scores(negative: dict[str, Any]) -> tuple[list[float], Tensor, list[int]]:
        """Scores, the call's own change of predictions, and the sizes of the batches."""
        generators = [torch.Generator().manual_seed(5 + row) for row in range(2)]
        alarms: list[Alarm] = []
        with recorded(model.pipe) as outputs, guard(model, threshold, on_alarm=alarms.append):
            options = {"num_inference_steps": STEPS, "generator": generators, **negative}
            run(model.pipe, TEXTS, 4.0, **options)
        halves = outputs[0][:, : shape[0]].double().chunk(2)
        change = (halves[1] - halves[0]).flatten(1).norm(dim=1)
        return [alarm.score for alarm in alarms], change, [len(output) for output in outputs]

    plain, plain_change, plain_sizes = scores({})
    negative, negative_change, negative_sizes = scores({"negative_prompt": NEGATIVE})
    assert negative == pytest.approx(plain, rel=1e-3)
    assert min(plain) > 1e-3
    # the call itself went by its negative prompt
    assert float((negative_change / plain_change - 1).abs().min()) > 1e-2
    assert (plain_sizes, negative_sizes) == ([4, 4, 4], [4, 4, 2, 4])


def test_a_call_with_a_negative_prompt_is_drawn_as_ever_and_can_be_stopped(
    model: Model, scores: list[float]
) -> None:
    before = draw(model.pipe, TEXTS, negative_prompt=NEGATIVE)
    assert not np.allclose(before, draw(model.pipe, TEXTS), atol=1e-3)
    state = state_of(model.pipe)
    with guard(model, threshold_of(model, scores[1] + 0.01)) as watched:
        assert np.array_equal(draw(model.pipe, TEXTS, negative_prompt=NEGATIVE), before)
    assert (watched.images, watched.alarms) == (2, [])
    tau = scores[1] - 0.01
    with guard(model, threshold_of(model, tau), on_alarm="redraw", redraws=1) as watched:
        draw(model.pipe, TEXTS, negative_prompt=NEGATIVE)
    flipped = noise(1) * signs(0, 2)[1]
    redrawn = scores_of(model, TEXTS[1:], latents=flipped, generator=None)
    (alarm,) = watched.alarms
    assert alarm.image == 1
    assert (alarm.score, alarm.final_score) == pytest.approx((scores[1], redrawn[0]), rel=1e-4)
    assert state_of(model.pipe) == state


UNGUIDED = "no prediction for the empty prompt.*guidance is off, or it guides by two calls"


@pytest.mark.parametrize("together", [False, True])
def test_a_call_without_guidance_is_refused(model: Model, together: bool) -> None:
    """Two images from the same noise look like halves of guidance, but the pipeline has none."""
    state = state_of(model.pipe)
    start = {"latents": noise(0).repeat(2, 1, 1, 1), "generator": None} if together else {}
    with (
        pytest.raises(ModelError, match=UNGUIDED),
        guard(model, threshold_of(model, 9.0)) as watched,
    ):
        draw(model.pipe, TEXTS, guidance_scale=1.0, **start)
    assert (watched.images, state_of(model.pipe)) == (0, state)


@pytest.mark.parametrize("steps", [1, STEPS])
def test_where_guidance_takes_two_calls_its_absence_shows_later(steps: int) -> None:
    model = Model(make("Qwen-Image"))
    unguarded = threshold_of(model, 9.0, (64, 16), 0.5)
    with pytest.raises(ModelError, match=UNGUIDED), guard(model, unguarded):
        run(model.pipe, TEXTS, 1.0, num_inference_steps=steps)
    with guard(model, unguarded) as watched:
        run(model.pipe, TEXTS, 3.0, num_inference_steps=steps)
    assert watched.images == 2
    with pytest.raises(ModelError, match=UNGUIDED), guard(model, unguarded):
        run(model.pipe, TEXTS, 3.0, num_inference_steps=steps, negative_prompt=NEGATIVE)


def test_a_model_with_distilled_guidance_is_refused() -> None:
    model = Model(make("Flux"))
    with (
        pytest.raises(ModelError, match="FluxPipeline: it computes no prediction without text"),
        guard(model, threshold_of(model, 1.0)),
    ):
        pass


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"shape": (4, 8, 8)}, r"shape \(4, 8, 8\), but this call has \(4, 16, 16\)"),
        ({"fingerprint": "v2-0"}, "belongs to another model"),
    ],
)
def test_another_size_or_model_is_refused(
    model: Model, change: dict[str, Any], problem: str
) -> None:
    threshold, state = replace(threshold_of(model, 9.0), **change), state_of(model.pipe)
    with pytest.raises(ThresholdError, match=problem), guard(model, threshold):
        draw(model.pipe, TEXTS)
    assert state_of(model.pipe) == state


@pytest.mark.filterwarnings("ignore:__array_:DeprecationWarning")  # of NumPy, in diffusers
def test_a_score_depends_neither_on_the_sampler_nor_on_its_steps(model: Model) -> None:
    pipe = model.pipe
    scores = scores_of(model, TEXTS)

    def with_steps(steps: int) -> list[float]:
        alarms: list[Alarm] = []
        latents = torch.cat([noise(0), noise(1)])
        with guard(model, threshold_of(model, -1.0), on_alarm=alarms.append):
            pipe(TEXTS, latents=latents, num_inference_steps=steps, output_type="latent")
        return [alarm.score for alarm in alarms]

    assert with_steps(7) == pytest.approx(scores, rel=1e-4)
    pipe.scheduler = scheduler_of(EulerDiscreteScheduler)
    assert with_steps(5) == pytest.approx(scores, rel=1e-4)


def test_a_call_that_begins_with_an_image_is_refused(model: Model) -> None:
    sharing = StableDiffusionImg2ImgPipeline(**model.pipe.components, requires_safety_checker=False)
    image = Image.new("RGB", (32, 32))
    with (
        pytest.raises(ModelError, match=r"begins at timestep 1, but the first one .* is 501"),
        guard(model, threshold_of(model, 9.0)) as watched,
    ):
        sharing("a cat", image=image, strength=0.5, num_inference_steps=STEPS)
    assert watched.images == 0


def test_one_guard_at_a_time_watches_a_pipeline(
    model: Model, scores: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    threshold, state = threshold_of(model, scores[1]), state_of(model.pipe)
    components = {**model.pipe.components, "requires_safety_checker": False}
    sharing = Model(StableDiffusionPipeline(**components))
    watched_already = "a guard already watches this pipeline"
    monkeypatch.setattr(_guard, "default_guard_threshold", pytest.fail)  # it would be calibrated
    with guard(model, threshold) as watched:
        for other in (model, Model(model.pipe), sharing):
            with pytest.raises(ModelError, match=watched_already), guard(other):
                pass
            with pytest.raises(ModelError, match=watched_already):
                calibrate_guard(other, TEXTS)
            with pytest.raises(ModelError, match=watched_already):
                noise_scores(other, TEXTS, [0, 1], TIMESTEP)
        draw(model.pipe, TEXTS)  # the guard that is there is none the worse
        assert watched.images == 2
    assert state_of(model.pipe) == state
    with guard(model, threshold) as watched:
        draw(model.pipe, TEXTS)
    assert watched.images == 2


def test_an_unknown_action_or_neuron_is_refused_before_the_call(model: Model) -> None:
    threshold = threshold_of(model, 9.0)
    action: Any = "warn"
    with (
        pytest.raises(ModelError, match="on_alarm='warn'"),
        guard(model, threshold, on_alarm=action),
    ):
        pass
    with pytest.raises(NeuronError), guard(model, threshold, on_alarm=Neurons({LAYER: [99]})):
        pass
    assert state_of(model.pipe)["hooks"] == state_of(make_pipeline())["hooks"]


def test_a_prediction_that_is_not_finite_is_refused(model: Model) -> None:
    threshold = threshold_of(model, 9.0)
    model.pipe.unet.conv_out.register_forward_hook(lambda *call: call[2] * float("nan"))
    with pytest.raises(ModelError, match="NaN or infinity"), guard(model, threshold):
        draw(model.pipe, TEXTS)
