"""Methods that change the prompt or its embedding."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline
from torch import Tensor

from conftest import make_pipeline, with_perturbed_attention
from drawings import PROMPTS, a_drawing, drawn, predicted, texts
from traced import counted
from unmemorize import GenerationSettings, MitigationError, Model
from unmemorize.generation import Drawing, drawn_latents, generate_each
from unmemorize.methods import method_of
from unmemorize.methods._embedding import optimized
from unmemorize.methods._embeddings import with_texts
from unmemorize.methods._repad import repadded


def read_by(model: Model, method: Any, drawing: Drawing) -> Tensor:
    """Text embeddings that the denoiser reads, without and with text, (2 B, tokens, features)."""
    seen: list[Tensor] = []

    def note(_module: Any, _args: Any, arguments: dict[str, Any]) -> None:
        seen.append(arguments["encoder_hidden_states"].clone())

    plan = method.plan(model, drawing)
    with plan.context:
        handle = model.denoiser.register_forward_pre_hook(note, with_kwargs=True)
        try:
            drawn_latents(model, drawing)
        finally:
            handle.remove()
    assert all(torch.equal(seen[0], other) for other in seen)
    return seen[0]


@pytest.mark.parametrize("count", [1, 4, 10])
def test_random_tokens(count: int, bundled: DiffusionPipeline) -> None:
    model = Model(bundled)
    method: Any = method_of(f"random-tokens={count}")
    prompt = "two foxes jump over a wall"
    texts_of_seeds = [method.rewritten(model, prompt, seed) for seed in range(30)]
    positions = set()
    for text in texts_of_seeds:
        words = text.split()
        assert len(words) == len(prompt.split()) + count
        remaining = iter(words)
        assert all(word in remaining for word in prompt.split())  # in their order
        positions.add(words.index("two"))
        assert "<|" not in text
    assert len(set(texts_of_seeds)) == 30
    assert {0, 1} <= positions
    assert texts_of_seeds[3] == method.rewritten(model, prompt, 3)
    assert type(method)(count, seed=1).rewritten(model, prompt, 3) != texts_of_seeds[3]
    assert method_of("random-tokens=0").rewritten(model, prompt, 3) == prompt  # type: ignore[attr-defined]


def wen(pipe: Any, noise: Tensor, prompt: str, target: float) -> tuple[Tensor, list[float]]:
    """Wen's loop for one image, with the start token put back after each step."""
    pipe.scheduler.set_timesteps(4)
    timestep = pipe.scheduler.timesteps[0]
    embedding = texts(pipe, [prompt]).clone()
    start = embedding[:, :1].clone()
    embedding.requires_grad_()
    optimizer = torch.optim.AdamW([embedding], lr=0.05)
    losses = []
    for _ in range(10):
        with_text = pipe.unet(noise, timestep, encoder_hidden_states=embedding).sample
        loss = (with_text - predicted(pipe, noise, timestep, texts(pipe, [""]))).norm()
        losses.append(float(loss.detach()))
        if losses[-1] <= target:
            break
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            embedding[:, :1] = start
    return embedding.detach(), losses


@pytest.mark.parametrize("share", [0.0, 0.95])
def test_embeddings_are_optimized_image_by_image(share: float) -> None:
    pipe = make_pipeline()
    model = Model(pipe)
    drawing = a_drawing(model, ("a cat", "zebra", "a cat"))
    first = [
        wen(pipe, drawing.noise[[row]], prompt, 1e9)[1][0]
        for row, prompt in enumerate(drawing.prompts)
    ]
    target = share * min(first)
    by_loop = [
        wen(pipe, drawing.noise[[row]], prompt, target)
        for row, prompt in enumerate(drawing.prompts)
    ]
    text = model.encode(drawing.prompts)
    timestep = model.timesteps(drawing.steps)[0]
    sizes = counted(pipe)
    found = optimized(model, text, drawing.noise, timestep, target)
    # with text and without, and no pass beyond those that lead to a step or end the search
    assert sum(sizes) == 2 * sum(len(losses) for _, losses in by_loop)
    for row, (embedding, losses) in enumerate(by_loop):
        assert torch.allclose(found[row], embedding[0], atol=2e-3)
        assert len(losses) == 10 or losses[-1] <= target
    assert any(1 < len(losses) < 10 for _, losses in by_loop) == bool(share)
    assert torch.equal(found[:, 0], text.text[:, 0])
    assert not torch.allclose(found[0], found[2], atol=1e-3)
    assert all(value.grad is None for value in pipe.unet.parameters())
    scaled: Any = method_of(f"embedding={4 * target}")  # a latent has a quarter of SD's norm
    read = read_by(model, scaled, drawing)
    assert torch.allclose(read[3:], found, atol=1e-5)
    assert torch.allclose(read[:3], texts(pipe, [""] * 3), atol=1e-6)


def test_embeddings_reach_their_own_rows_only(pipe: DiffusionPipeline) -> None:
    model = Model(pipe)
    drawing = a_drawing(model, ("a cat",))
    drawing = Drawing(("a cat",), drawing.noise, (False, True), 4, 3.0)
    seen = []
    handle = model.denoiser.register_forward_hook(
        lambda _module, _args, arguments, _output: seen.append(arguments["encoder_hidden_states"]),
        with_kwargs=True,
    )
    text = torch.cat([texts(pipe, ["", ""]), texts(pipe, ["a dog", "a cat"])])
    with with_texts(model, drawing, torch.zeros(1, 16, 16)):
        pipe.unet(torch.zeros(4, 4, 16, 16), 300, encoder_hidden_states=text)
    handle.remove()
    expected = text.clone()
    expected[3] = 0
    assert torch.equal(seen[0], expected)


@pytest.mark.parametrize(("share", "zeros"), [(0.3, (3, 3)), (0.7, (7, 6)), (1.0, (10, 9))])
def test_pads(share: float, zeros: tuple[int, int], pipe: DiffusionPipeline) -> None:
    """16 tokens: "a cat" has 4 letters, start and end, so 10 pads; "zebra" has 9."""
    model = Model(pipe)
    method: Any = method_of(f"pads={share}")
    expected = texts(pipe, PROMPTS).clone()
    for row, (length, count) in enumerate(zip((6, 7), zeros, strict=True)):
        expected[row, length : length + count] = 0
    read = read_by(model, method, a_drawing(model))
    assert torch.allclose(read[2:], expected, atol=1e-6)
    assert torch.allclose(read[:2], texts(pipe, ["", ""]), atol=1e-6)


@pytest.mark.parametrize("strength", [0.0, 0.5, 1.0])
def test_other_pads(strength: float, bundled: DiffusionPipeline) -> None:
    model = Model(bundled)
    tokenizer, encoder = bundled.tokenizer, bundled.text_encoder
    prompt = "a cat"
    ids = tokenizer(prompt).input_ids
    pads = [tokenizer.get_vocab()["!"]] * (24 - len(ids))
    expected = encoder(torch.tensor([ids + pads]))[0].detach()
    assert torch.allclose(repadded(model, (prompt,)), expected, atol=1e-5)
    expected[0, len(ids) - 1] *= 1 - strength
    method: Any = method_of(f"repad={strength}")
    read = read_by(model, method, a_drawing(model, (prompt,), steps=1))
    assert torch.allclose(read[1:], expected, atol=1e-5)
    assert bundled.tokenizer is tokenizer
    assert tokenizer.pad_token == "<|endoftext|>"


def test_other_pads_need_their_token(pipe: DiffusionPipeline) -> None:
    method: Any = method_of("repad")
    with pytest.raises(MitigationError, match="has no token '!'"):
        drawn(Model(pipe), method, a_drawing(Model(pipe)))


def test_pads_of_another_kind_are_refused(pipe: DiffusionPipeline) -> None:
    pipe.tokenizer.pad_token = "a</w>"
    method: Any = method_of("pads")
    with pytest.raises(MitigationError, match="pads with 'a</w>'"):
        method.check(Model(pipe))


@pytest.mark.parametrize("name", ["pads", "embedding=0.5", "attention", "attenuation"])
def test_perturbed_attention_has_the_texts_of_each_image(name: str) -> None:
    """The batch is without text, with it, and with it once more; alone, nothing can be mixed up."""
    model = Model(with_perturbed_attention(make_pipeline()))
    prompts, method = ["a cat", "zebra", "a cat", "b"], method_of(name)
    edits: list[Any] = [method, method, None, method]
    settings = GenerationSettings(images=2, steps=2, guidance=5.0, batch=8)
    together = generate_each(model, prompts, edits, settings=settings)
    plain = generate_each(model, prompts, [None] * 4, settings=settings)
    for prompt, edit, images, others in zip(prompts, edits, together, plain, strict=True):
        alone = [
            generate_each(
                model,
                [prompt],
                [edit],
                settings=GenerationSettings(images=1, steps=2, guidance=5.0, batch=1),
                noise=[noise[None]],
            )[0][0]
            for noise in model.draw_latents(2, settings.seed)
        ]
        for image, expected, other in zip(images, alone, others, strict=True):
            difference = np.asarray(image, float) - np.asarray(expected, float)
            assert np.abs(difference).max() <= 1
            assert (image == other) == (edit is None)
