"""Prompts with a word that stands for several vectors, which the tokenizer alone counts as one."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers import DiffusionPipeline
from torch import Tensor

from unmemorize import GenerationSettings, Model, NoiseSettings, generate
from unmemorize.detection import Trace
from unmemorize.methods import method_of

PROMPT = "a <toy> b"
LENGTH = 8
"""Tokens: start, a, four vectors, b, end."""
ONE = GenerationSettings(images=1, steps=1, guidance=3.0)


@pytest.fixture
def pipe(pipe: DiffusionPipeline) -> DiffusionPipeline:
    """A pipeline that knows "<toy>", of four vectors of 16."""
    vectors = torch.randn(4, 16, generator=torch.Generator().manual_seed(0))
    pipe.load_textual_inversion({"<toy>": vectors})
    assert torch.equal(pipe.text_encoder.get_input_embeddings().weight[-4:], vectors)
    return pipe


def test_the_denoiser_reads_all_vectors(pipe: DiffusionPipeline) -> None:
    start, end = pipe.tokenizer.bos_token_id, pipe.tokenizer.eos_token_id
    a, b = (pipe.tokenizer.get_vocab()[f"{letter}</w>"] for letter in "ab")
    toy = [pipe.tokenizer.get_vocab()[f"<toy>{end}"] for end in ("", "_1", "_2", "_3")]
    ids = torch.tensor([[start, a, *toy, b, *[end] * 9]])
    with torch.no_grad():
        expected = pipe.text_encoder(ids)[0]
    assert torch.allclose(Model(pipe).encode([PROMPT]).text, expected, atol=1e-6)


def received(pipe: DiffusionPipeline, method: str) -> dict[str, Tensor]:
    """What the denoiser receives, without text and with it, under a method."""
    calls: list[dict[str, Tensor]] = []
    pipe.unet.register_forward_hook(
        lambda _module, _args, arguments, _output: calls.append(arguments), with_kwargs=True
    )
    intervention: Any = method_of(method)
    generate(pipe, PROMPT, intervention, settings=ONE)
    return calls[-1]


def test_pads_begin_after_all_vectors(pipe: DiffusionPipeline) -> None:
    text = received(pipe, "pads=1")["encoder_hidden_states"][1]
    zeros = [position for position in range(16) if not text[position].any()]
    assert zeros == list(range(LENGTH, 16))


def test_attention_masks_what_follows_all_vectors(pipe: DiffusionPipeline) -> None:
    mask = received(pipe, "attention")["encoder_attention_mask"]
    assert mask.tolist() == [[1.0] * LENGTH + [0.0] * (16 - LENGTH)] * 2


def test_the_end_of_the_text_follows_all_vectors(pipe: DiffusionPipeline) -> None:
    trace = Trace(Model(pipe), [PROMPT, "a"], NoiseSettings(seeds=2))
    assert trace.end_tokens() == [LENGTH - 1, 2]


def test_vectors_beyond_the_limit_are_named(
    pipe: DiffusionPipeline, caplog: pytest.LogCaptureFixture
) -> None:
    """Three words, of which the pipeline makes 17 tokens, in a text shorter than 16 letters."""
    pipe.load_textual_inversion({"<x>": torch.zeros(12, 16)})
    Model(pipe).warn_of_truncation(["a <x> b c"])
    assert "17 tokens, of which StableDiffusionPipeline reads 16" in caplog.text
    caplog.clear()
    Model(pipe).warn_of_truncation(["a <x> b"])
    assert caplog.text == ""
