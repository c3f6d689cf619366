"""Methods that change attention, beside attention processors that follow their formulas."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from diffusers import DiffusionPipeline
from torch import Tensor

from conftest import make_pipeline
from drawings import GUIDANCE, PROMPTS, a_drawing, by_hand, drawn, predicted, texts
from unmemorize import Model
from unmemorize.methods import method_of
from unmemorize.methods._attenuation import spikes_of
from unmemorize.methods._keys import multiplied_logits, text_attentions

STEPS = 3


class Attention:
    """Cross-attention written out, with a change of its logits (B, heads, queries, tokens)."""

    def __init__(self, change: Any) -> None:
        self.change = change

    def __call__(
        self, attn: Any, hidden_states: Tensor, encoder_hidden_states: Tensor, **_: Any
    ) -> Tensor:
        split = [
            layer(read).unflatten(2, (attn.heads, -1)).transpose(1, 2)
            for layer, read in (
                (attn.to_q, hidden_states),
                (attn.to_k, encoder_hidden_states),
                (attn.to_v, encoder_hidden_states),
            )
        ]
        logits = torch.einsum("bhqd,bhkd->bhqk", split[0], split[1]) / split[0].shape[-1] ** 0.5
        weights = torch.softmax(self.change(logits), dim=-1)
        joined = torch.einsum("bhqk,bhkd->bhqd", weights, split[2]).transpose(1, 2).flatten(2)
        output: Tensor = attn.to_out[0](joined)
        return output


@contextmanager
def processors(pipe: Any, change: Any, where: str = "") -> Iterator[None]:
    before = dict(pipe.unet.attn_processors)
    changed = {
        name: Attention(change) if "attn2" in name and not name.startswith(where or "-") else kept
        for name, kept in before.items()
    }
    pipe.unet.set_attn_processor(changed)
    try:
        yield
    finally:
        pipe.unet.set_attn_processor(before)


def sharp_pipeline() -> Any:
    """A pipeline whose attention is far from uniform, so that changes of logits show."""
    pipe = make_pipeline()
    for name, module in pipe.unet.named_modules():
        if name.endswith(("attn2.to_q", "attn2.to_k")):
            module.weight.data *= 6
    return pipe


def test_re_scaling() -> None:
    pipe = sharp_pipeline()
    model = Model(pipe)
    lengths = [len(pipe.tokenizer(prompt).input_ids) for prompt in PROMPTS]
    assert lengths == [6, 7]  # one token per letter, start and end
    text, empty = texts(pipe, PROMPTS), texts(pipe, ["", ""])

    def masked(logits: Tensor) -> Tensor:
        logits = logits.clone()
        for image, length in enumerate(lengths):
            logits[image, :, :, length:] = -torch.inf
        return logits

    def emphasized(logits: Tensor) -> Tensor:
        logits = masked(logits)
        logits[..., 0] = 1.3 * logits[..., 0]
        return logits

    def guided(latents: Tensor, timestep: Tensor, _step: int) -> Tensor:
        with processors(pipe, masked):
            without = predicted(pipe, latents, timestep, empty)
        with processors(pipe, emphasized):
            with_text = predicted(pipe, latents, timestep, text)
        return without + GUIDANCE * (with_text - without)

    drawing = a_drawing(model, steps=STEPS)
    method: Any = method_of("attention=1.3")
    latents = drawn(model, method, drawing)
    assert torch.allclose(latents, by_hand(pipe, drawing.noise, STEPS, guided), atol=1e-3)


def attenuated(threshold: float) -> Any:
    """Loops over images, heads and tokens."""

    def change(logits: Tensor) -> Tensor:
        logits = logits.clone()
        for image in range(len(logits)):
            for head in range(logits.shape[1]):
                scores = torch.stack(
                    [logits[image, head, :, token].max() for token in range(1, 16)]
                )
                mean = sum(scores) / 15
                deviation = (sum((score - mean) ** 2 for score in scores) / 14) ** 0.5
                for token in range(1, 16):
                    if (scores[token - 1] - mean) / (deviation + 1e-6) > threshold:
                        logits[image, head, :, token] *= 0.3
        return logits

    return change


def test_attenuation() -> None:
    pipe = sharp_pipeline()
    model = Model(pipe)
    text, empty = texts(pipe, PROMPTS), texts(pipe, ["", ""])

    def guided(latents: Tensor, timestep: Tensor, _step: int) -> Tensor:
        without = predicted(pipe, latents, timestep, empty)
        with processors(pipe, attenuated(0.01), where="up_blocks"):
            with_text = predicted(pipe, latents, timestep, text)
        return without + GUIDANCE * (with_text - without)

    drawing = a_drawing(model, steps=STEPS)
    method: Any = method_of("attenuation")
    latents = drawn(model, method, drawing)
    assert torch.allclose(latents, by_hand(pipe, drawing.noise, STEPS, guided), atol=1e-3)


def test_guard() -> None:
    pipe = sharp_pipeline()
    model = Model(pipe)
    text, empty = texts(pipe, PROMPTS), texts(pipe, ["", ""])

    def guided(latents: Tensor, timestep: Tensor, step: int) -> Tensor:
        without = predicted(pipe, latents, timestep, empty)
        away = predicted(pipe, latents, timestep, text)
        with processors(pipe, attenuated(0.1), where="up_blocks"):
            towards = predicted(pipe, latents, timestep, text)
        cosine = torch.cos(torch.tensor(torch.pi * step / (2 * STEPS)))
        return without + GUIDANCE * (towards - without) - 2.5 * cosine * (away - without)

    drawing = a_drawing(model, steps=STEPS)
    method: Any = method_of("guard=2.5")
    latents = drawn(model, method, drawing)
    assert torch.allclose(latents, by_hand(pipe, drawing.noise, STEPS, guided), atol=1e-3)


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_a_negative_logit_becomes_smaller(sign: float, pipe: DiffusionPipeline) -> None:
    """As published: a positive logit of the start draws more attention, a negative one less."""
    model = Model(pipe)
    attentions = text_attentions(model, "attention")
    attention = next(iter(attentions.values()))
    start = torch.zeros(1, 3, 16)
    start[:, 0] = 1.0
    image = torch.linspace(0.1, 1.0, attention.to_q.in_features).repeat(1, 5, 1)
    query = attention.to_q(image)[0, 0]
    attention.to_k.weight.data[:] = 0
    attention.to_k.weight.data[:, 0] = sign * query  # the start's logit has this sign
    shares: list[Tensor] = []

    def note(_layer: Any, _args: Any, keys: Tensor) -> None:
        logits = (
            query[: query.numel() // attention.heads] @ keys[0].T[: len(query) // attention.heads]
        )
        shares.append(torch.softmax(logits, dim=0)[0])

    def factors(_queries: Tensor, keys: Tensor) -> Tensor:
        emphasis = torch.ones(keys.shape[:3])
        emphasis[:, :, 0] = 1.25
        return emphasis

    attention(image, start)
    handle = attention.to_k.register_forward_hook(note)
    attention(image, start)
    handle.remove()
    with multiplied_logits({"": attention}, factors):
        handle = attention.to_k.register_forward_hook(note)
        attention(image, start)
        handle.remove()
    assert (float(shares[1]) > float(shares[0])) == (sign > 0)


def test_spikes_have_no_start() -> None:
    queries = torch.ones(1, 1, 2, 1)
    keys = torch.tensor([9.0, 1.0, 2.0, 6.0]).view(1, 1, 4, 1)
    assert spikes_of(queries, keys, 0.01).tolist() == [[[False, False, False, True]]]
    assert spikes_of(queries, -keys, 0.01).tolist() == [[[False, True, True, False]]]
