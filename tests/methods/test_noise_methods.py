"""Methods that change the initial noise."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from architectures import ddim
from conftest import make_pipeline
from drawings import a_drawing, drawn, predicted, texts
from unmemorize import Model
from unmemorize.methods import method_of
from unmemorize.methods._text_difference import relative_size, text_difference


def differences(pipe: Any, noise: Tensor, prompt: str, timestep: Tensor) -> Tensor:
    """What the text changes for one image."""
    with_text = predicted(pipe, noise, timestep, texts(pipe, [prompt]))
    return with_text - predicted(pipe, noise, timestep, texts(pipe, [""]))


def test_noise_is_moved_twice() -> None:
    pipe = make_pipeline()
    model = Model(pipe)
    drawing = a_drawing(model, steps=10)
    timestep = model.timesteps(10)[0]
    expected = []
    for row, prompt in enumerate(drawing.prompts):
        noise = drawing.noise[[row]]
        for _ in range(2):
            here = differences(pipe, noise, prompt, timestep)
            length = here.square().sum() ** 0.5
            # 50 for 4 x 64 x 64 numbers, a quarter of it for 4 x 16 x 16
            there = differences(pipe, noise + 12.5 * here / length, prompt, timestep)
            noise = noise - 1.4 * (there - here)
        expected.append(noise)
    method: Any = method_of("noise-batch=1.4")
    plan = method.plan(model, drawing)
    moved = torch.cat(expected)
    assert torch.allclose(plan.noise, moved, atol=1e-4)
    assert float((moved - drawing.noise).norm()) > 1e-3
    # what follows is the control, which draws the first of ten steps without text
    control: Any = method_of("delayed-guidance")
    after = drawn(model, control, replace(drawing, noise=moved))
    assert torch.allclose(drawn(model, method, drawing), after, atol=1e-3)


def test_noise_is_optimized_until_the_norm_is_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("unmemorize.methods._initial_noise._ITERATIONS", 4)
    pipe = make_pipeline()
    model = Model(pipe)
    drawing = a_drawing(model)
    timestep = model.timesteps(drawing.steps)[0]
    first = [
        float(differences(pipe, drawing.noise[[row]], prompt, timestep).norm())
        for row, prompt in enumerate(drawing.prompts)
    ]
    target = (first[0] + first[1]) / 2  # one image is done at once
    expected = []
    for row, prompt in enumerate(drawing.prompts):
        noise = drawing.noise[[row]].clone().requires_grad_()
        optimizer = torch.optim.AdamW([noise], lr=0.01)
        for _ in range(4):
            both = [
                pipe.unet(noise, timestep, encoder_hidden_states=texts(pipe, [text])).sample
                for text in (prompt, "")
            ]
            loss = (both[0] - both[1]).norm()
            if float(loss.detach()) <= target:
                break
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        expected.append(noise.detach())
    pipe.unet.zero_grad()
    method: Any = method_of(f"noise-sample={4 * target}")
    noise = method.plan(model, drawing).noise
    assert torch.allclose(noise, torch.cat(expected), atol=1e-4)
    moved = [float((noise - drawing.noise)[row].abs().max()) for row in (0, 1)]
    assert min(moved) == 0 < max(moved)
    assert all(value.grad is None for value in pipe.unet.parameters())


def test_differences_of_velocities_are_those_of_the_clean_image() -> None:
    pipe = make_pipeline(scheduler=ddim(prediction_type="v_prediction"))
    model = Model(pipe)
    noise, timestep = model.draw_latents(1, 3), torch.tensor(701)
    sigma = (1 - pipe.scheduler.alphas_cumprod[701]) ** 0.5
    expected = sigma * differences(pipe, noise, "a cat", timestep)
    found = text_difference(model, model.encode(["a cat"]), noise, timestep)
    assert torch.allclose(found, expected, atol=1e-5)
    assert relative_size(noise) == 0.25
