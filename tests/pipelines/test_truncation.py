"""Prompts that are longer than what a pipeline reads."""

from __future__ import annotations

import pytest
import torch
from diffusers import DiffusionPipeline
from transformers import PretrainedConfig

from architectures import make
from unmemorize import GenerationSettings, Model, generate
from unmemorize.pipelines._truncation import Truncation


def limit_of(pipe: DiffusionPipeline) -> int:
    return int(pipe.text_encoder.config.max_position_embeddings)


def of_tokens(pipe: DiffusionPipeline, count: int, last: str = "a") -> str:
    """Return a text of so many tokens, the two marks included."""
    text = " ".join(["a"] * (count - 3) + [last])
    assert len(pipe.tokenizer(text)["input_ids"]) == count
    return text


def test_truncated_prompts_are_named_once(
    pipe: DiffusionPipeline, caplog: pytest.LogCaptureFixture
) -> None:
    model, limit = Model(pipe), limit_of(pipe)
    caplog.clear()
    model.encode(["a", of_tokens(pipe, limit)])
    assert caplog.messages == []
    long = of_tokens(pipe, limit + 1)
    model.encode(["a", long])
    model.encode([long])
    (message,) = [text for text in caplog.messages if "tokens, of which" in text]
    assert f"{limit + 1} tokens, of which StableDiffusionPipeline reads {limit}" in message
    assert long[:30] in message
    assert message.endswith("is ignored.")


def test_prompts_that_truncation_makes_equal_are_named(
    pipe: DiffusionPipeline, caplog: pytest.LogCaptureFixture
) -> None:
    model, limit = Model(pipe), limit_of(pipe)
    first, second = of_tokens(pipe, limit + 1, "b"), of_tokens(pipe, limit + 1, "c")
    whole = first.removesuffix(" b")
    encoded = model.encode([first, second, whole])
    (text,) = [value for key, value in encoded.arguments().items() if "hidden" in key]
    assert torch.equal(text[0], text[1])
    assert torch.equal(text[0], text[2])
    equal = [message for message in caplog.messages if "they are one prompt" in message]
    assert len(equal) == 2
    assert first[-30:] in equal[0]
    assert second[-30:] in equal[0]
    assert f"differ only after the {limit} tokens" in equal[0]


def test_generation_names_them_too(
    pipe: DiffusionPipeline, caplog: pytest.LogCaptureFixture
) -> None:
    settings = GenerationSettings(images=1, steps=1)
    generate(pipe, of_tokens(pipe, limit_of(pipe) + 1), settings=settings)
    assert "tokens, of which" in caplog.text


def test_tokenizers_without_a_limit_have_that_of_their_encoder(
    pipe: DiffusionPipeline, caplog: pytest.LogCaptureFixture
) -> None:
    long = of_tokens(pipe, limit_of(pipe) + 1)
    pipe.tokenizer.model_max_length = int(1e30)
    Truncation(pipe).warn([long])
    assert f"reads {limit_of(pipe)}" in caplog.text
    caplog.clear()
    pipe.text_encoder.config = PretrainedConfig()
    Truncation(pipe).warn([long * 10])
    assert caplog.text == ""


def test_the_tokenizer_that_reads_most_counts(caplog: pytest.LogCaptureFixture) -> None:
    """CLIP (16 tokens in this small pipeline) cuts what T5 reads as a whole."""
    pipe = make("Flux")
    Truncation(pipe).warn(["a " * 100])
    assert caplog.text == ""
    Truncation(pipe).warn(["a " * 600])
    assert "of which FluxPipeline reads 512" in caplog.text
    pipe.text_encoder_2 = None
    caplog.clear()
    Truncation(pipe).warn(["a " * 100])
    assert "of which FluxPipeline reads 16" in caplog.text


def test_no_more_than_some_are_named(
    pipe: DiffusionPipeline, caplog: pytest.LogCaptureFixture
) -> None:
    limit = limit_of(pipe)
    texts = [f"{word} " * (limit + 1) for word in "abcdefghijklmnopqrstuvwxyz"]
    Truncation(pipe).warn(texts)
    assert len(caplog.messages) == 20 + 1
    assert caplog.messages[-1] == "further prompts that are read only in part are not named"


def test_a_pipeline_without_a_tokenizer_truncates_nothing(
    pipe: DiffusionPipeline, caplog: pytest.LogCaptureFixture
) -> None:
    pipe.tokenizer = None
    Truncation(pipe).warn(["a " * 1000])
    assert caplog.text == ""
