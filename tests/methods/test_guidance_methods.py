"""Guidance schedules beside loops of DDIM that follow their formulas."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from diffusers import AutoPipelineForText2Image, DiffusionPipeline
from torch import Tensor

from conftest import make_pipeline, with_perturbed_attention
from drawings import GUIDANCE, PROMPTS, a_drawing, by_hand, drawn, predicted, texts
from unmemorize import MitigationError, Model
from unmemorize.methods import method_of
from unmemorize.methods._dynamic_guidance import transition_of

STEPS = 10


class Halves:
    """Predictions with and without text, for each step what the text changes."""

    def __init__(self, pipe: Any) -> None:
        self.pipe, self.text, self.empty = pipe, texts(pipe, PROMPTS), texts(pipe, ["", ""])
        self.pulls: list[Tensor] = []

    def __call__(self, latents: Tensor, timestep: Tensor) -> tuple[Tensor, Tensor]:
        without = predicted(self.pipe, latents, timestep, self.empty)
        difference = predicted(self.pipe, latents, timestep, self.text) - without
        squares = difference.square().sum((1, 2, 3))
        self.pulls.append(squares.sqrt())
        return without, difference


def expected(pipe: Any, scale: Callable[[int, int], float], steps: int = STEPS) -> Tensor:
    """Latents of a loop with guidance scale(step, timestep)."""
    halves, model = Halves(pipe), Model(pipe)

    def guided(latents: Tensor, timestep: Tensor, step: int) -> Tensor:
        without, difference = halves(latents, timestep)
        return without + scale(step, int(timestep)) * difference

    return by_hand(pipe, a_drawing(model, steps=steps).noise, steps, guided)


SCHEDULES: dict[str, Callable[[int, int], float]] = {
    "static-guidance": lambda _, time: 0.0 if time > 500 else GUIDANCE,
    "static-guidance=800": lambda _, time: 0.0 if time > 800 else GUIDANCE,
    "opposite-guidance": lambda _, time: -2.0 if time > 650 else GUIDANCE,
    "opposite-guidance=5": lambda _, time: -5.0 if time > 650 else GUIDANCE,
    "delayed-guidance": lambda step, _: 0.0 if step < 1 else GUIDANCE,
    "delayed-guidance=20": lambda step, _: 0.0 if step < 4 else GUIDANCE,
}


@pytest.mark.parametrize("name", SCHEDULES)
def test_fixed_schedules(name: str, pipe: DiffusionPipeline) -> None:
    model = Model(pipe)
    latents = drawn(model, method_of(name), a_drawing(model, steps=STEPS))  # type: ignore[arg-type]
    assert torch.allclose(latents, expected(pipe, SCHEDULES[name]), atol=1e-3)
    ordinary = expected(pipe, lambda *_: GUIDANCE)
    assert not torch.allclose(latents, ordinary, atol=1e-2)


@pytest.mark.parametrize("strength", [0.0, 1.0])
@pytest.mark.parametrize("seed", [0, 1])
def test_dynamic_guidance_starts_after_the_first_minimum(strength: float, seed: int) -> None:
    pipe = make_pipeline(seed)
    pipe.unet.conv_out.weight.data *= 3  # longer ways, along which the pull of the text varies
    model, halves = Model(pipe), Halves(pipe)
    started = [False, False]

    def guided(latents: Tensor, timestep: Tensor, step: int) -> Tensor:
        without, difference = halves(latents, timestep)
        pulls = halves.pulls
        if step > 1:
            for image in range(2):
                if pulls[-1][image] > pulls[-2][image] and pulls[-2][image] < pulls[-3][image]:
                    started[image] = True
        scales = torch.tensor([GUIDANCE if each else 1 - strength for each in started])
        return without + scales.view(2, 1, 1, 1) * difference

    drawing = a_drawing(model, steps=STEPS)
    method: Any = method_of(f"dynamic-guidance={strength}")
    assert torch.allclose(
        drawn(model, method, drawing), by_hand(pipe, drawing.noise, STEPS, guided), atol=1e-3
    )


def test_opposite_dynamic_guidance_takes_the_transition_of_an_unguided_pass(
    pipe: DiffusionPipeline,
) -> None:
    model, halves = Model(pipe), Halves(pipe)
    drawing = a_drawing(model, steps=STEPS)
    by_hand(pipe, drawing.noise, STEPS, lambda latents, time, _: halves(latents, time)[0])
    transitions = [transition_of([float(row[image]) for row in halves.pulls]) for image in (0, 1)]

    def guided(latents: Tensor, timestep: Tensor, step: int) -> Tensor:
        without, difference = halves(latents, timestep)
        scales = torch.tensor([-2.0 if step < each else GUIDANCE for each in transitions])
        return without + scales.view(2, 1, 1, 1) * difference

    method: Any = method_of("opposite-dynamic")
    latents = drawn(model, method, drawing)
    assert torch.allclose(latents, by_hand(pipe, drawing.noise, STEPS, guided), atol=1e-3)


@pytest.mark.parametrize(
    ("pulls", "step"),
    [
        ([5, 4, 3, 4, 5], 2),
        ([5, 4, 5, 3, 4], 3),  # the minimum at step 1 does not count
        ([5, 4, 5, 6, 7], 5),
        ([5, 4, 3, 2, 1], 5),
        ([1, 1, 1, 1], 5),
    ],
)
def test_transitions(pulls: list[float], step: int) -> None:
    assert transition_of(pulls) == step


def test_pulls_of_velocities_are_those_of_the_clean_image() -> None:
    model = Model(make_pipeline(scheduler=v_scheduler()))
    difference = torch.full((1, 4, 16, 16), 2.0)
    signal = float(model.pipe.scheduler.alphas_cumprod[901])
    size = (1 - signal) ** 0.5 * 2.0 * 32  # 32 = sqrt(4 * 16 * 16)
    found = model.noise_level(torch.tensor(901.0)).apart(difference)
    assert float(found[0]) == pytest.approx(size, rel=1e-5)


@pytest.mark.parametrize(
    "name",
    ["static-guidance", "delayed-guidance", "dynamic-guidance", "noise-batch", "guard"],
)
def test_perturbed_attention_is_refused_with_a_way_out(name: str, pipe: DiffusionPipeline) -> None:
    perturbed = with_perturbed_attention(pipe)
    method: Any = method_of(name)
    drawing = a_drawing(Model(perturbed), steps=2)
    with pytest.raises(MitigationError, match=r"PAG.*third prediction.*enable_pag=False"):
        drawn(Model(perturbed), method, drawing)
    with pytest.raises(MitigationError, match=r"PAG.*third prediction.*enable_pag=False"):
        method.check(Model(perturbed))
    plain = AutoPipelineForText2Image.from_pipe(perturbed, enable_pag=False)
    assert torch.isfinite(drawn(Model(plain), method, drawing)).all()


def v_scheduler() -> Any:
    from architectures import ddim

    return ddim(prediction_type="v_prediction")
