"""Images are decoded one by one where a batch of them would need much memory."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline
from torch import nn

from architectures import make
from unmemorize import GenerationSettings, Model, ModelError, generate
from unmemorize.pipelines import _autoencoder
from unmemorize.pipelines._autoencoder import decoder_bytes

FEW = GenerationSettings(images=5, steps=1, guidance=3.0, batch=3)


def decoded(pipe: DiffusionPipeline) -> list[int]:
    """Note how many images are decoded together."""
    sizes: list[int] = []

    def note(_module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        sizes.append(len(inputs[0]))

    pipe.vae.decoder.register_forward_pre_hook(note)
    return sizes


def test_batches_that_need_much_memory_are_decoded_one_by_one(
    pipe: DiffusionPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = decoded(pipe)
    together = generate(pipe, "x", settings=FEW)
    assert sizes == [3, 2]
    sizes.clear()
    each = decoder_bytes(Model(pipe))
    monkeypatch.setattr(_autoencoder, "DECODED_TOGETHER", 2 * each)
    apart = generate(pipe, "x", settings=FEW)
    assert sizes == [1, 1, 1, 2]  # two fit
    assert pipe.vae.use_slicing is False
    for one, other in zip(together, apart, strict=True):
        assert np.abs(np.asarray(one, int) - np.asarray(other, int)).max() <= 1


def test_what_the_caller_has_set_stays(
    pipe: DiffusionPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = decoded(pipe)
    pipe.vae.enable_slicing()
    generate(pipe, "x", settings=FEW)
    assert (sizes, pipe.vae.use_slicing) == ([1] * 5, True)
    pipe.vae.disable_slicing()
    monkeypatch.setattr(_autoencoder, "DECODED_TOGETHER", 0)
    pipe.vae.decoder.conv_out.bias.data[0] = float("nan")
    with pytest.raises(ModelError, match="holds NaN"):
        generate(pipe, "x", settings=FEW)
    assert pipe.vae.use_slicing is False


@pytest.mark.filterwarnings("ignore:`upcast_vae` is deprecated")  # diffusers calls its own
def test_an_interruption_leaves_the_type_of_the_autoencoder(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The pipeline decodes in float32, and goes back to float16 at its end alone."""
    pipe = make("Stable Diffusion XL").to(torch.float16)
    assert pipe.vae.config.force_upcast
    settings = GenerationSettings(images=1, steps=1, guidance=3.0)
    before = generate(pipe, "x", settings=settings)
    types: list[torch.dtype] = []

    def interrupt(sample: torch.Tensor, *_: object) -> None:
        types.append(sample.dtype)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(pipe.vae.decoder, "forward", interrupt)
        with pytest.raises(KeyboardInterrupt):
            generate(pipe, "x", settings=settings)
    assert types == [torch.float32]
    assert {parameter.dtype for parameter in pipe.vae.parameters()} == {torch.float16}
    assert generate(pipe, "x", settings=settings) == before
